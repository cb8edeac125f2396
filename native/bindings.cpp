// The Python module tenfold._native: checks and converts arguments, gives up the GIL, calls the model.
// std::invalid_argument becomes ValueError, std::bad_alloc MemoryError, std::runtime_error RuntimeError.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <memory>

#include "dispatch/features.hpp"
#include "dispatch/level.hpp"
#include "limits/limits.hpp"
#include "linear/projection.hpp"
#include "model/model.hpp"
#include "sampling/sampling.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace tenfold {
namespace {

using IntArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IntTable = nb::ndarray<const int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ByteRows = nb::ndarray<const uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using SpacedRows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // each row by itself contiguous
using Doubles = nb::ndarray<const double, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatView = nb::ndarray<nb::numpy, float>;

Ints ints(const IntArray& a) { return {a.data(), a.size()}; }

// A new array that owns its memory; `fill` gets the pointer.
template <typename F>
FloatView new_array(std::initializer_list<size_t> shape, F fill) {
  size_t size = 1;
  for (const size_t n : shape) size *= n;
  auto data = std::make_unique<float[]>(size);
  fill(data.get());
  float* p = data.release();
  nb::capsule owner(p, [](void* q) noexcept { delete[] static_cast<float*>(q); });
  return FloatView(p, shape, owner);
}

FloatView copy_rows(const Rows& rows) {
  return new_array({static_cast<size_t>(rows.rows), static_cast<size_t>(rows.width)}, [&](float* to) {
    for (int r = 0; r < rows.rows; ++r)
      std::copy_n(rows.data + r * rows.stride, rows.width, to + static_cast<size_t>(r) * rows.width);
  });
}

Activation activation(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  throw std::invalid_argument("no activation " + name);
}

KvType kv_type(const std::string& name) {
  if (name == "bf16") return KvType::bf16;
  if (name == "int8") return KvType::int8;
  throw std::invalid_argument("KV type must be bf16 or int8, not " + name);
}

void upload(Model& model, const IntArray& tokens, const IntArray& positions, const IntArray& starts,
            const IntArray& context, const IntTable& tables, const IntArray& rows) {
  if (tables.shape(0) != context.size()) throw std::invalid_argument("batch: tables must have a row per sequence");
  nb::gil_scoped_release release;
  model.upload({ints(tokens), ints(positions), ints(starts), ints(context), {tables.data(), tables.size()},
                static_cast<int64_t>(tables.shape(1)), ints(rows)});
}

FloatView logits(nb::handle self) {
  Rows rows{};
  {
    Model& model = nb::cast<Model&>(self);
    nb::gil_scoped_release release;
    rows = model.logits();
  }
  static float none = 0.0f;
  float* data = rows.rows > 0 ? const_cast<float*>(rows.data) : &none;
  return FloatView(data, {static_cast<size_t>(rows.rows), static_cast<size_t>(rows.width)}, self, {rows.stride, 1});
}

// By op: calls and nanoseconds.
std::map<std::string, std::pair<int64_t, int64_t>> timings(Model& model) {
  const Timings recorded = model.timings();
  std::map<std::string, std::pair<int64_t, int64_t>> found;
  for (size_t op = 0; op < kOpNames.size(); ++op) {
    const Timings::Entry& entry = recorded.of(op);
    found[kOpNames[op]] = {entry.calls, entry.nanoseconds};
  }
  return found;
}

using MatrixTuple = std::tuple<int, std::string, std::string, std::string, int64_t, int64_t, size_t, int>;

std::vector<MatrixTuple> matrices(const Model& model, int rows) {
  std::vector<MatrixTuple> found;
  for (const MatrixInfo& m : model.matrices(rows))
    found.emplace_back(m.layer, m.name, m.format, m.arithmetic, m.outputs, m.inputs, m.bytes, m.rows_at_once);
  return found;
}

using ItemTuple = std::tuple<int, std::vector<int32_t>, int, int, int>;

std::vector<ItemTuple> attend_items(const Model& model) {
  std::vector<ItemTuple> found;
  for (int i = 0; i < model.planner().plans(); ++i) {
    const AttendPlan& plan = model.planner().plan(i);
    for (const AttendPlan::Item& item : plan.items) {
      const auto rows = plan.row_numbers.begin() + item.row;
      found.emplace_back(plan.window, std::vector<int32_t>(rows, rows + item.rows), item.kv_head,
                         item.first_chunk * kChunk, item.last_chunk * kChunk);
    }
  }
  return found;
}

void bind_model(nb::module_& m) {
  using Released = nb::call_guard<nb::gil_scoped_release>;
  nb::class_<Kv>(m, "Kv").def_prop_ro("bytes", &Kv::bytes);
  nb::class_<Model>(m, "Model")
      .def(
          "__init__",
          [](Model* self, int layers, int hidden, int heads, int kv_heads, int head_dim, int ffn, int vocab,
             int max_context, float norm_eps, float embed_scale, float query_scale, float logit_softcap,
             const std::string& act, bool qkv_bias, bool qk_norm, bool post_norms, bool tied_head,
             std::vector<int> windows, std::vector<double> inv_freq, std::vector<double> inv_freq_local,
             const std::string& level, int threads, const std::vector<int>& cpus, int head_rows,
             const Model* beside, bool shared) {
            new (self) Model(Spec{layers, hidden, heads, kv_heads, head_dim, ffn, vocab, max_context,
                                  head_rows > 0 ? head_rows : vocab, norm_eps, embed_scale, query_scale, logit_softcap, activation(act), qkv_bias, qk_norm,
                                  post_norms, tied_head, std::move(windows), std::move(inv_freq),
                                  std::move(inv_freq_local)},
                             level, threads, cpus, beside, shared);
          },
          nb::keep_alive<1, 26>(), nb::kw_only(), "layers"_a, "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "ffn"_a, "vocab"_a,
          "max_context"_a, "norm_eps"_a, "embed_scale"_a, "query_scale"_a, "logit_softcap"_a, "activation"_a,
          "qkv_bias"_a, "qk_norm"_a, "post_norms"_a, "tied_head"_a, "windows"_a, "inv_freq"_a, "inv_freq_local"_a,
          "level"_a, "threads"_a, "cpus"_a = std::vector<int>(), "head_rows"_a = 0, "beside"_a = nb::none(),
          "shared"_a = false)
      .def("set_matrix",
           [](Model& model, int layer, const std::string& name, const std::string& kind, const ByteRows& data,
              int64_t rows, int64_t cols, const std::string& form) {
             if (static_cast<int64_t>(data.shape(0)) != rows)
               throw std::invalid_argument(name + ": the data has not one row of bytes per row");
             nb::gil_scoped_release release;
             model.set_matrix(layer, name, kind, data.data(), rows, cols, static_cast<int64_t>(data.shape(1)),
                              form_named(form));
           },
           "layer"_a, "name"_a, "kind"_a, "data"_a, "rows"_a, "cols"_a, "form"_a = "")
      .def("set_vector",
           [](Model& model, int layer, const std::string& name, const Floats& data) {
             model.set_vector(layer, name, data.data(), static_cast<int64_t>(data.size()));
           })
      .def("check_complete", &Model::check_complete)
      .def("new_kv",
           [](const Model& model, int64_t blocks, int64_t block_size, const std::string& type) {
             const Spec& spec = model.spec();
             return new Kv(spec.layers, spec.kv_heads, spec.head_dim, blocks, block_size, kv_type(type));
           })
      .def("upload", &upload, nb::arg("tokens").noconvert(), nb::arg("positions").noconvert(),
           nb::arg("starts").noconvert(), nb::arg("context").noconvert(), nb::arg("tables").noconvert(),
           nb::arg("rows").noconvert())
      .def("embed", &Model::embed, Released())
      .def("qkv", &Model::qkv, Released())
      .def("attend", &Model::attend, Released())
      .def("attn_out", &Model::attn_out, Released())
      .def("mlp", &Model::mlp, Released())
      .def("forward", &Model::forward, Released())
      .def("logits", [](nb::handle self) { return logits(self); })
      .def("record", &Model::record)
      .def("timings", &timings)
      .def("view", [](const Model& model, const std::string& which) { return copy_rows(model.view(which)); })
      .def_prop_ro("level", &Model::level)
      .def_prop_ro("threads", &Model::threads)
      .def_prop_ro("weight_bytes", &Model::weight_bytes)
      .def("matrices", &matrices)
      .def("attend_items", &attend_items)
      .def("attend_arithmetic",
           [](const Model& model, const std::string& type) { return model.attend_arithmetic(kv_type(type)); })
      .def_prop_ro("weight_kinds", &Model::weight_kinds);
}

Logits rows_of(const SpacedRows& logits) {
  if (logits.shape(1) > 1 && logits.stride(1) != 1)
    throw std::invalid_argument("logits: the values of a row must lie side by side");
  return {logits.data(), static_cast<int>(logits.shape(0)), static_cast<int>(logits.shape(1)), logits.stride(0)};
}

// `size` values of T that `fill` writes without the GIL, as a flat array.
template <typename T, typename F>
nb::ndarray<nb::numpy, T> filled(size_t size, const F& fill) {
  auto data = std::make_unique<T[]>(size);
  {
    nb::gil_scoped_release release;
    fill(data.get());
  }
  T* p = data.release();
  nb::capsule owner(p, [](void* q) noexcept { delete[] static_cast<T*>(q); });
  return nb::ndarray<nb::numpy, T>(p, {size}, owner);
}

std::span<const Filters> filters_of(const Doubles& filters) {
  if (filters.shape(1) != 5) throw std::invalid_argument("filters: five columns are needed");
  return {reinterpret_cast<const Filters*>(filters.data()), filters.shape(0)};
}

void bind_sampling(nb::module_& m) {
  static_assert(sizeof(Filters) == 5 * sizeof(double));
  nb::class_<Sampling>(m, "Sampling")
      .def(nb::init<Model&>(), nb::keep_alive<1, 2>())
      .def("largest",
           [](Sampling& self, const SpacedRows& logits) {
             return filled<int32_t>(logits.shape(0), [&](int32_t* out) { self.largest(rows_of(logits), out); });
           },
           nb::arg("logits").noconvert())
      .def("draw",
           [](Sampling& self, const SpacedRows& logits, const IntArray& rows, const Doubles& filters) {
             const auto records = filters_of(filters);
             return filled<int32_t>(rows.size(), [&](int32_t* out) {
               self.draw(rows_of(logits), ints(rows), records, out);
             });
           },
           nb::arg("logits").noconvert(), nb::arg("rows").noconvert(), nb::arg("filters").noconvert())
      .def("summarize",
           [](Sampling& self, const SpacedRows& logits, const IntArray& rows, int count) {
             if (count < 0) throw std::invalid_argument("count must not be negative");
             auto indices = std::make_unique<int32_t[]>(rows.size() * static_cast<size_t>(count));
             auto sums = filled<double>(2 * rows.size(), [&](double* out) {
               self.summarize(rows_of(logits), ints(rows), count, out, indices.get());
             });
             int32_t* p = indices.release();
             nb::capsule owner(p, [](void* q) noexcept { delete[] static_cast<int32_t*>(q); });
             return nb::make_tuple(sums, nb::ndarray<nb::numpy, int32_t>(p, {rows.size() * count}, owner));
           },
           nb::arg("logits").noconvert(), nb::arg("rows").noconvert(), "count"_a)
      .def("largest_among",
           [](Sampling& self, const SpacedRows& logits, const IntArray& rows, const IntTable& bits) {
             return filled<int32_t>(rows.size(), [&](int32_t* out) {
               self.largest_among(rows_of(logits), ints(rows), {bits.data(), bits.size()}, out);
             });
           },
           nb::arg("logits").noconvert(), nb::arg("rows").noconvert(), nb::arg("bits").noconvert())
      .def("draw_among",
           [](Sampling& self, const SpacedRows& logits, const IntArray& rows, const IntTable& bits,
              const Doubles& filters) {
             const auto records = filters_of(filters);
             return filled<int32_t>(rows.size(), [&](int32_t* out) {
               self.draw_among(rows_of(logits), ints(rows), {bits.data(), bits.size()}, records, out);
             });
           },
           nb::arg("logits").noconvert(), nb::arg("rows").noconvert(), nb::arg("bits").noconvert(),
           nb::arg("filters").noconvert());
}

void bind_projection(nb::module_& m) {
  nb::class_<Projection>(m, "Projection")
      .def(
          "__init__",
          [](Projection* self, const std::string& kind, const ByteRows& data, int64_t cols, const std::string& level,
             int threads, const std::string& form, bool fine, bool grouped) {
            new (self) Projection(kind, data.data(), static_cast<int64_t>(data.shape(0)), cols,
                                  static_cast<int64_t>(data.shape(1)), find_level(level), threads, form_named(form),
                                  {.fine = fine, .grouped = grouped});
          },
          "kind"_a, "data"_a, "cols"_a, "level"_a = "", "threads"_a = 1, "form"_a = "", "fine"_a = false,
          "grouped"_a = false)
      .def("apply",
           [](Projection& self, const FloatRows& x) {
             if (static_cast<int64_t>(x.shape(1)) != self.inputs())
               throw std::invalid_argument("x has another number of columns than the matrix");
             const size_t rows = x.shape(0);
             return new_array({rows, static_cast<size_t>(self.outputs())}, [&](float* out) {
               nb::gil_scoped_release release;
               self.apply(x.data(), static_cast<int>(rows), out);
             });
           })
      .def("row",
           [](const Projection& self, int index) {
             if (index < 0 || index >= self.outputs()) throw std::invalid_argument("no such row");
             return new_array({static_cast<size_t>(self.inputs())}, [&](float* out) { self.row(index, out); });
           })
      .def_prop_ro("bytes", &Projection::bytes);
}

// [(arithmetic, instructions, multiply-adds per second)]
std::vector<std::tuple<std::string, std::string, double>> rates(const std::string& level, int threads) {
  const nb::gil_scoped_release release;
  std::vector<std::tuple<std::string, std::string, double>> found;
  for (const MacRate& rate : mac_rates(level, std::clamp(threads, 1, 1024)))
    found.emplace_back(rate.kind, rate.instructions, rate.macs);
  return found;
}

}  // namespace
}  // namespace tenfold

NB_MODULE(_native, m) {
  using namespace tenfold;
  m.def("levels", [] {
    std::vector<std::string> names;
    const Levels found = levels();
    for (int i = 0; i < found.count; ++i) names.emplace_back(found.found[i]->name);
    return names;
  });
  m.def("emulated_levels", [] {
    std::vector<std::string> names;
    const Levels found = levels();
    for (int i = found.count; i < found.count + found.emulated; ++i) names.emplace_back(found.found[i]->name);
    return names;
  });
  m.def("encodings", &encoding_names);
  m.def("mappings", &Memory::mappings);
  m.def("interleave", &Memory::interleave);
  m.def("cpu_features", &cpu_features);
  m.def("read_rate",
        [](const std::string& level, int threads, size_t bytes) {
          const nb::gil_scoped_release release;
          return read_rate(level, std::clamp(threads, 1, 1024), bytes);
        });
  m.def("mac_rates", &rates);
  bind_model(m);
  bind_sampling(m);
  bind_projection(m);
}
