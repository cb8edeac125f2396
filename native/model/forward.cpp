// The ops of a forward pass. Work is cut into items for the pool in ways that never change a row's bits.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "model/model.hpp"
#include "simd/half.hpp"

namespace tenfold {
namespace {

constexpr int kFetchedRows = 64;  // up to so many rows, where their keys and values will go is fetched ahead
constexpr int kRowChunk = 64;     // rows whose activations stay in cache while weights pass
constexpr int kUnit = kGroup;     // columns of the gated activation made, and quantized, together
constexpr size_t kItemBytes = 65536;

bool quantized(const Packed& w) { return w.dense == Dense::none; }

int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace

// One call of an op: holds the model, on a thread that flushes subnormals, and times it where that is on.
class Model::Guard {
 public:
  Guard(Model& model, Op op) : hold_(model.busy_), scope_(model.timings_, op) {}

 private:
  Hold hold_;
  FlushSubnormals flush_;
  Timings::Scope scope_;
};

// f(row, thread). No two threads work on the same eight rows of a panel when there are enough rows.
template <typename F>
void Model::each_row(int rows, const F& f) {
  const int step = std::clamp(ceil_div(rows, threads()), 1, kPanel / 2);
  pool_.run(ceil_div(rows, step), [&](int item, int thread) {
    for (int row = item * step; row < std::min(rows, (item + 1) * step); ++row) f(row, thread);
  });
}

void Model::shape_input(Input& input, int rows, int cols) {
  Acts& acts = input.acts;
  acts.value_stride = (cols + 31) / 32 * 32;
  acts.groups = acts.value_stride / kGroup;
  acts.values = input.values.reserve(static_cast<size_t>(rows) * acts.value_stride);
  acts.panels = input.panels.reserve(static_cast<size_t>(ceil_div(rows, kPanel)) * acts.groups);
}

void Model::quantize_row(const Input& input, int row, const float* values, int cols) {
  kernels_.quantize(values, 0, 1, cols, input.panels.data() + row / kPanel * input.acts.groups, row % kPanel);
}

// normed_ <- norm of rows of x (all, or those of `pick`), as the matrices that take it want it.
template <typename F>
void Model::norm_rows(const std::vector<float>& weight, int rows, const int32_t* pick,
                      std::initializer_list<const Packed*> takers, const F& also) {
  bool codes = false, values = false;
  for (const Packed* taker : takers) (quantized(*taker) ? codes : values) = true;
  scratch_.reserve(static_cast<size_t>(threads()) * hidden_stride_);
  each_row(rows, [&](int i, int thread) {
    float* to = values ? normed_.values.data() + i * normed_.acts.value_stride : scratch_.data() + thread * hidden_stride_;
    kernels_.rms_norm(x_.data() + (pick == nullptr ? i : pick[i]) * hidden_stride_, weight.data(), spec_.hidden,
                      spec_.norm_eps, to);
    if (codes) quantize_row(normed_, i, to, spec_.hidden);
    also(i);
  });
}

template <typename F>
void Model::linears(const Job* jobs, int count, const Acts& x, int rows, int unit, const F& also) {
  int tiles = 0;
  size_t bytes = 0;
  for (int j = 0; j < count; ++j) {
    tiles += jobs[j].w->tiles();
    bytes += jobs[j].w->tiles() * jobs[j].w->tile_bytes;
  }
  const int row_items = ceil_div(rows, kRowChunk);
  // Few rows: items of some tens of kilobytes of weights. Many: each tile is work enough.
  const size_t wanted = std::max<size_t>(1, kItemBytes / (static_cast<size_t>(std::min(rows, kRowChunk)) + 3) * 4);
  int step = std::max(1, static_cast<int>(wanted * tiles / bytes));
  step = std::max(1, std::min(step, tiles / threads()));
  if (step > kernels_.dense_tiles) step = step / kernels_.dense_tiles * kernels_.dense_tiles;
  step = ceil_div(step, unit) * unit;
  const int column_items = ceil_div(tiles, step);
  pool_.run(column_items * row_items, [&](int item, int) {
    const int row = item / column_items * kRowChunk, many = std::min(kRowChunk, rows - row);
    const int from = item % column_items * step, to = std::min(tiles, from + step);
    int base = 0;
    for (int j = 0; j < count; ++j) {
      const Job& job = jobs[j];
      const int first = std::max(from, base) - base, last = std::min(to - base, job.w->tiles());
      if (first < last)
        kernels_.linear_tile(*job.w, first, last - first, x, row, many, job.out + row * job.stride + first * kTile,
                             job.stride, job.accumulate);
      base += job.w->tiles();
    }
    also(from, to, row, many);
  });
}

void Model::linears(const Job* jobs, int count, const Acts& x, int rows) {
  linears(jobs, count, x, rows, 1, [](int, int, int, int) {});
}

const RopeTable& Model::rope_of(int layer) const {
  return spec_.windows[layer] > 0 && !ropes_[1].inv_freq.empty() ? ropes_[1] : ropes_[0];
}

void Model::upload(const BatchView& batch) {
  const Guard guard(*this, Op::upload);
  check_batch(batch, spec_.vocab, spec_.max_context);
  int last = 0;
  for (const int32_t context : batch.context) last = std::max(last, context);
  for (RopeTable& rope : ropes_) rope.grow(last);
  batch_.assign(batch);
  sequence_of_.resize(batch_.size());
  for (int s = 0; s < batch_.sequences(); ++s)
    std::fill(sequence_of_.begin() + batch_.starts[s], sequence_of_.begin() + batch_.starts[s + 1], s);
  checked_kv_ = 0;
  plans_.clear();
  const auto rows = static_cast<size_t>(batch_.size());
  x_.reserve(rows * hidden_stride_);
  y_.reserve(rows * hidden_stride_);
  qkv_.reserve(rows * qkv_stride_);
  shape_input(normed_, batch_.size(), spec_.hidden);
  shape_input(attended_, batch_.size(), spec_.heads * spec_.head_dim);
  shape_input(gated_, batch_.size(), spec_.ffn);
}

void Model::embed() {
  const Guard guard(*this, Op::embed);
  each_row(batch_.size(), [&](int row, int) {
    float* x = x_.data() + row * hidden_stride_;
    decode_row(embedding(), batch_.tokens[row], x);
    if (spec_.embed_scale != 1.0f) kernels_.scale(x, spec_.embed_scale, spec_.hidden);
  });
}

// A new key touches a line for every pair or quad of the head, all of them cold when many sequences decode: they come
// while the projections are computed.
void Model::fetch_slot(const KvLayer& kv, int row) const {
  const int position = batch_.positions[row], slot = position % kv.block_size;
  const int32_t block = batch_.table(sequence_of_[row])[position / kv.block_size];
  const size_t group = kv.element() * 16;  // keys of one value of the head
  for (int h = 0; h < kv.kv_heads; ++h) {
    const uint8_t* keys = kv.keys(block, h) + static_cast<size_t>(slot / 16 * 16) * kv.width * kv.element();
    for (size_t at = 0; at < group * kv.width; at += 64) __builtin_prefetch(keys + at, 1, 2);
    const int together = kv.type == KvType::bf16 ? 2 : 4;
    const uint8_t* values =
        kv.values(block, h) + static_cast<size_t>(slot / together * together) * kv.padded * kv.element();
    for (size_t at = 0; at < together * kv.padded * kv.element(); at += 64) __builtin_prefetch(values + at, 1, 2);
  }
}

void Model::finish_row(const Layer& layer, const RopeTable& rope, const KvLayer& kv, int row) {
  const int dim = spec_.head_dim, half = dim / 2;
  float* q = qkv_.data() + row * qkv_stride_;
  float* k = q + spec_.heads * dim;
  float* v = k + spec_.kv_heads * dim;
  if (spec_.qkv_bias) {
    kernels_.add(q, layer.q_bias.data(), spec_.heads * dim);
    kernels_.add(k, layer.k_bias.data(), spec_.kv_heads * dim);
    kernels_.add(v, layer.v_bias.data(), spec_.kv_heads * dim);
  }
  const size_t angle = static_cast<size_t>(batch_.positions[row]) * half;
  for (int h = 0; h < spec_.heads + spec_.kv_heads; ++h) {  // K's heads follow Q's
    float* head = q + h * dim;
    const bool query = h < spec_.heads;
    if (spec_.qk_norm)
      kernels_.rms_norm(head, query ? layer.q_norm.data() : layer.k_norm.data(), dim, spec_.norm_eps, head);
    kernels_.rope(head, rope.cos.data() + angle, rope.sin.data() + angle, half);
  }
  kernels_.scale(q, spec_.query_scale, spec_.heads * dim);
  const int position = batch_.positions[row];
  kernels_.store_kv(kv, batch_.table(sequence_of_[row])[position / kv.block_size], position % kv.block_size, k, v);
}

void Model::qkv(int layer, const Kv& kv) {
  const Guard guard(*this, Op::qkv);
  check_layer(layer);
  if (checked_kv_ != kv.id()) {
    if (!kv.fits(spec_.layers, spec_.kv_heads, spec_.head_dim))
      throw std::invalid_argument("this KV memory belongs to another model");
    check_tables(batch_, kv.blocks(), kv.block_size());
    checked_kv_ = kv.id();
  }
  const Layer& l = layers_[layer];
  const int rows = batch_.size();
  const KvLayer memory = kv.layer(layer);
  norm_rows(l.attn_norm, rows, nullptr, {&l.q.view, &l.k.view, &l.v.view}, [&](int row) {
    if (rows <= kFetchedRows) fetch_slot(memory, row);
  });
  float* q = qkv_.data();
  float* k = q + spec_.heads * spec_.head_dim;
  float* v = k + spec_.kv_heads * spec_.head_dim;
  const Job jobs[] = {{&l.q.view, q, qkv_stride_, false},
                      {&l.k.view, k, qkv_stride_, false},
                      {&l.v.view, v, qkv_stride_, false}};
  linears(jobs, 3, normed_.acts, rows);
  const RopeTable& rope = rope_of(layer);
  each_row(rows, [&](int row, int) { finish_row(l, rope, memory, row); });
}

void Model::attend(int layer, const Kv& kv) {
  const Guard guard(*this, Op::attend);
  check_layer(layer);
  if (checked_kv_ != kv.id()) throw std::invalid_argument("attend needs the KV memory that qkv wrote");
  const AttendPlan& plan = plan_for(spec_.windows[layer], kv.block_size());
  const KvLayer memory = kv.layer(layer);
  const int dim = spec_.head_dim, group = spec_.heads / spec_.kv_heads;
  const size_t scratch = attend_scratch(std::max(group, kernels_.attend_queries), memory.padded);
  scratch_.reserve(scratch * threads());
  partials_.reserve(plan.partial_floats);
  float* out = attended_.values.data();
  const ptrdiff_t stride = attended_.acts.value_stride;
  pool_.run(static_cast<int>(plan.items.size()), [&](int i, int thread) {
    const AttendPlan::Item& item = plan.items[i];
    const int head = item.kv_head * group;
    AttendItem work{};
    work.kv = &memory;
    work.table = batch_.table(item.sequence);
    work.q = qkv_.data() + head * dim;
    work.out = out + head * dim;
    work.q_stride = qkv_stride_;
    work.out_stride = stride;
    work.row_numbers = plan.row_numbers.data() + item.row;
    work.positions = plan.positions.data() + item.row;
    work.kv_head = item.kv_head;
    work.queries_per_kv = group;
    work.rows = item.rows;
    work.window = plan.window;
    work.first_chunk = item.first_chunk;
    work.last_chunk = item.last_chunk;
    work.partial = item.partial < 0 ? nullptr : partials_.data() + item.partial;
    work.query_stride = item.query_stride;
    work.chunk_stride = plan.partial_width;
    work.scratch = scratch_.data() + scratch * thread;
    if (static_cast<size_t>(i) + 1 < plan.items.size()) {
      const AttendPlan::Item& next = plan.items[i + 1];
      work.next_table = batch_.table(next.sequence);
      work.next_kv_head = next.kv_head;
      work.next_last = plan.positions[next.row];
      const int seen = plan.window > 0 ? std::max(0, work.next_last - plan.window + 1) : 0;
      work.next_key = std::max(next.first_chunk * kChunk, seen / kKeyTile * kKeyTile);
    }
    kernels_.attend(work);
  });
  each_row(static_cast<int>(plan.merges.size()), [&](int i, int) {
    const AttendPlan::Merge& m = plan.merges[i];
    kernels_.merge(partials_.data() + m.partial, plan.partial_width, m.chunks, memory.padded, dim,
                   out + m.row * stride + m.head * dim);
  });
}

// x += y's post-norm, where the model has one; else the projection added to x itself.
void Model::finish_residual(const std::vector<float>& post_norm) {
  each_row(batch_.size(), [&](int row, int) {
    float* y = y_.data() + row * hidden_stride_;
    kernels_.rms_norm(y, post_norm.data(), spec_.hidden, spec_.norm_eps, y);
    kernels_.add(x_.data() + row * hidden_stride_, y, spec_.hidden);
  });
}

void Model::attn_out(int layer) {
  const Guard guard(*this, Op::attn_out);
  check_layer(layer);
  const Layer& l = layers_[layer];
  const int rows = batch_.size();
  if (quantized(l.o.view))
    each_row(rows, [&](int row, int) {
      quantize_row(attended_, row, attended_.values.data() + row * attended_.acts.value_stride, l.o.view.cols);
    });
  const Job job = {&l.o.view, spec_.post_norms ? y_.data() : x_.data(), hidden_stride_, !spec_.post_norms};
  linears(&job, 1, attended_.acts, rows);
  if (spec_.post_norms) finish_residual(l.attn_post_norm);
}

// Columns kUnit * unit … of the gated activation for rows first … last - 1: gate, up, activation, and
// quantization for the down projection, while all is in the thread's cache.
void Model::gated_unit(const Layer& layer, int unit, int first, int last, int thread) {
  float* gate = scratch_.data() + static_cast<size_t>(thread) * 2 * kRowChunk * kUnit;
  float* up = gate + kRowChunk * kUnit;
  const int columns = std::min(kUnit, spec_.ffn - unit * kUnit), tiles = ceil_div(columns, kTile);
  const int tile = unit * kUnit / kTile;
  kernels_.linear_tile(layer.gate.view, tile, tiles, normed_.acts, first, last - first, gate, kUnit, false);
  kernels_.linear_tile(layer.up.view, tile, tiles, normed_.acts, first, last - first, up, kUnit, false);
  const Acts& to = gated_.acts;
  const bool codes = quantized(layer.down.view);
  for (int row = first; row < last; ++row) {
    const int at = (row - first) * kUnit;
    float* values = codes ? gate + at : gated_.values.data() + row * to.value_stride + unit * kUnit;
    kernels_.gate(spec_.activation, gate + at, up + at, columns, values);
  }
  if (codes)
    for (int row = first; row < last; row += kPanel)
      kernels_.quantize(gate + (row - first) * kUnit, kUnit, std::min(kPanel, last - row), kUnit,
                        gated_.panels.data() + row / kPanel * to.groups + unit, 0);
}

void Model::mlp(int layer) {
  const Guard guard(*this, Op::mlp);
  check_layer(layer);
  const Layer& l = layers_[layer];
  const int rows = batch_.size();
  norm_rows(l.mlp_norm, rows, nullptr, {&l.gate.view, &l.up.view}, [](int) {});
  scratch_.reserve(static_cast<size_t>(threads()) * 2 * kRowChunk * kUnit);
  const int units = ceil_div(spec_.ffn, kUnit), step = rows < 8 ? 4 : 1, unit_items = ceil_div(units, step);
  pool_.run(unit_items * ceil_div(rows, kRowChunk), [&](int item, int thread) {
    const int first = item / unit_items * kRowChunk, last = std::min(rows, first + kRowChunk);
    const int from = item % unit_items * step;
    for (int unit = from; unit < std::min(units, from + step); ++unit) gated_unit(l, unit, first, last, thread);
  });
  const Job job = {&l.down.view, spec_.post_norms ? y_.data() : x_.data(), hidden_stride_, !spec_.post_norms};
  linears(&job, 1, gated_.acts, rows);
  if (spec_.post_norms) finish_residual(l.mlp_post_norm);
}

Rows Model::logits() {
  const Guard guard(*this, Op::logits);
  const auto rows = static_cast<int>(batch_.rows.size());
  const int vocab = spec_.head_rows, blocks = ceil_div(vocab, kScanBlock);
  logits_.reserve(static_cast<size_t>(rows) * logit_stride_);
  maxima_.reserve(static_cast<size_t>(rows) * blocks);
  norm_rows(norm_, rows, batch_.rows.data(), {&head()}, [](int) {});
  if (rows > 0) {
    const Job job = {&head(), logits_.data(), logit_stride_, false};
    linears(&job, 1, normed_.acts, rows, kScanBlock / kTile, [&](int from, int to, int row, int many) {
      const int first = from * kTile, count = std::min(to * kTile, vocab) - first;
      for (int r = row; r < row + many; ++r) {
        float* x = logits_.data() + r * logit_stride_ + first;
        if (spec_.logit_softcap > 0.0f) kernels_.softcap(x, spec_.logit_softcap, count);
        kernels_.block_maxima(x, count, maxima_.data() + static_cast<size_t>(r) * blocks + first / kScanBlock);
      }
    });
  }
  logit_rows_ = rows;
  return {logits_.data(), rows, vocab, logit_stride_};
}

const int32_t* Model::maxima_of(const float* logits, int rows, int width) const {
  return logits == logits_.data() && rows == logit_rows_ && width == spec_.head_rows ? maxima_.data() : nullptr;
}

void Model::forward(const Kv& kv) {
  embed();
  for (int layer = 0; layer < spec_.layers; ++layer) {
    qkv(layer, kv);
    attend(layer, kv);
    attn_out(layer);
    mlp(layer);
  }
}

void Model::record(bool on) {
  const Hold hold(busy_);
  timings_.record(on);
}

Timings Model::timings() {
  const Hold hold(busy_);
  return timings_;
}

Rows Model::view(const std::string& which) const {
  const int rows = batch_.size();
  if (which == "hidden") return {x_.data(), rows, spec_.hidden, hidden_stride_};
  if (which == "query") return {qkv_.data(), rows, spec_.heads * spec_.head_dim, qkv_stride_};
  if (which == "attended")
    return {attended_.values.data(), rows, spec_.heads * spec_.head_dim, attended_.acts.value_stride};
  throw std::invalid_argument("no buffer " + which);
}

}  // namespace tenfold
