// Loading: which weights a model has, their shapes, and their packing.
#include "model/model.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "dispatch/level.hpp"

namespace tenfold {

const Kernels& find_level(const std::string& level) {
  const Levels found = levels();
  for (int i = 0; i < found.count + found.emulated; ++i)
    if (level.empty() || level == found.found[i]->name) return *found.found[i];
  throw std::invalid_argument("this CPU has no kernels of level " + level);
}

void RopeTable::grow(int positions) {
  const size_t half = inv_freq.size();
  const auto known = static_cast<int>(half == 0 ? 0 : cos.size() / half);
  if (half == 0 || positions <= known) return;
  const int wanted = std::max({positions, 2 * known, 1024});
  cos.resize(half * wanted);
  sin.resize(half * wanted);
  for (int p = known; p < wanted; ++p)
    for (size_t i = 0; i < half; ++i) {
      cos[p * half + i] = static_cast<float>(std::cos(p * inv_freq[i]));
      sin[p * half + i] = static_cast<float>(std::sin(p * inv_freq[i]));
    }
}

namespace {

Spec checked(Spec spec) {
  const auto between = [](int value, int low, int high) { return value >= low && value <= high; };
  constexpr int kMany = 1 << 24;
  const bool ok = between(spec.layers, 1, 4096) && between(spec.hidden, 1, kMany) && between(spec.heads, 1, 65536) &&
                  between(spec.kv_heads, 1, spec.heads) && spec.heads % spec.kv_heads == 0 &&
                  between(spec.head_dim, 2, 4096) && spec.head_dim % 2 == 0 && between(spec.ffn, 1, kMany) &&
                  between(spec.vocab, 1, kMany) && between(spec.max_context, 1, 1 << 28) &&
                  between(spec.head_rows, 1, spec.vocab) && (!spec.tied_head || spec.head_rows == spec.vocab) &&
                  static_cast<int64_t>(spec.heads + 2 * spec.kv_heads) * spec.head_dim <= kMany;
  if (!ok) throw std::invalid_argument("the model's sizes are out of range or do not divide each other");
  if (static_cast<int>(spec.windows.size()) != spec.layers) throw std::invalid_argument("windows: one per layer");
  const auto half = static_cast<size_t>(spec.head_dim / 2);
  if (spec.inv_freq.size() != half || (!spec.inv_freq_local.empty() && spec.inv_freq_local.size() != half))
    throw std::invalid_argument("rope needs head_dim / 2 frequencies");
  return spec;
}

ptrdiff_t padded(ptrdiff_t n) { return (n + 15) / 16 * 16; }

// From row to row of at least n floats, where one part of all rows is written and read at a time: five cache lines more
// than whole pages, or the rows' lines would share a few sets of the caches (vocabularies are multiples of large powers
// of two).
ptrdiff_t spread(ptrdiff_t n) { return (padded(n) + 1023) / 1024 * 1024 + 5 * 16; }

std::shared_ptr<Crew> new_crew(int threads, const std::vector<int>& cpus) {
  return std::shared_ptr<Crew>(new Crew{Pool(std::clamp(threads, 1, 1024), cpus)});
}

}  // namespace

Model::Model(Spec spec, const std::string& level, int threads, const std::vector<int>& cpus, const Model* beside,
             bool shared)
    : spec_(checked(std::move(spec))),
      kernels_(find_level(level)),
      shared_(shared ? beside : nullptr),
      crew_(beside != nullptr ? beside->crew_ : new_crew(threads, cpus)),
      pool_(crew_->pool),
      busy_(crew_->busy),
      layers_(spec_.layers),
      planner_(spec_.heads, spec_.kv_heads, spec_.head_dim, kernels_.attend_queries, pool_.threads()),
      own_(pool_.threads()),
      hidden_stride_(padded(spec_.hidden)),
      qkv_stride_(padded(static_cast<ptrdiff_t>(spec_.heads + 2 * spec_.kv_heads) * spec_.head_dim)),
      logit_stride_(spread(spec_.head_rows)) {
  if (shared_ != nullptr && (shared_->spec_.vocab != spec_.vocab || shared_->spec_.hidden != spec_.hidden))
    throw std::invalid_argument("an embedding is shared by models of one vocabulary and width");
  ropes_[0].inv_freq = spec_.inv_freq;
  ropes_[1].inv_freq = spec_.inv_freq_local;
}

Matrix* Model::find_matrix(int layer, const std::string& name, int64_t& rows, int64_t& cols) {
  const int64_t hidden = spec_.hidden, ffn = spec_.ffn;
  const int64_t q = static_cast<int64_t>(spec_.heads) * spec_.head_dim;
  const int64_t kv = static_cast<int64_t>(spec_.kv_heads) * spec_.head_dim;
  const auto is = [&](const char* which, int64_t r, int64_t c) {
    rows = r;
    cols = c;
    return name == which;
  };
  if (layer < 0) {
    if (shared_ == nullptr && is("embed", spec_.vocab, hidden)) return &embed_;
    if (!spec_.tied_head && is("head", spec_.head_rows, hidden)) return &head_;
    return nullptr;
  }
  Layer& l = layers_[layer];
  if (is("q", q, hidden)) return &l.q;
  if (is("k", kv, hidden)) return &l.k;
  if (is("v", kv, hidden)) return &l.v;
  if (is("o", hidden, q)) return &l.o;
  if (is("gate", ffn, hidden)) return &l.gate;
  if (is("up", ffn, hidden)) return &l.up;
  if (is("down", hidden, ffn)) return &l.down;
  return nullptr;
}

std::vector<float>* Model::find_vector(int layer, const std::string& name, int64_t& size) {
  const int64_t q = static_cast<int64_t>(spec_.heads) * spec_.head_dim;
  const int64_t kv = static_cast<int64_t>(spec_.kv_heads) * spec_.head_dim;
  const auto is = [&](const char* which, int64_t n, bool wanted = true) {
    size = n;
    return wanted && name == which;
  };
  if (layer < 0) return is("norm", spec_.hidden) ? &norm_ : nullptr;
  Layer& l = layers_[layer];
  if (is("attn_norm", spec_.hidden)) return &l.attn_norm;
  if (is("mlp_norm", spec_.hidden)) return &l.mlp_norm;
  if (is("attn_post_norm", spec_.hidden, spec_.post_norms)) return &l.attn_post_norm;
  if (is("mlp_post_norm", spec_.hidden, spec_.post_norms)) return &l.mlp_post_norm;
  if (is("q_norm", spec_.head_dim, spec_.qk_norm)) return &l.q_norm;
  if (is("k_norm", spec_.head_dim, spec_.qk_norm)) return &l.k_norm;
  if (is("q_bias", q, spec_.qkv_bias)) return &l.q_bias;
  if (is("k_bias", kv, spec_.qkv_bias)) return &l.k_bias;
  if (is("v_bias", kv, spec_.qkv_bias)) return &l.v_bias;
  return nullptr;
}

void Model::check_layer(int layer) const {
  if (layer < 0 || layer >= spec_.layers)
    throw std::invalid_argument("no layer " + std::to_string(layer) + " in a model of " +
                                std::to_string(spec_.layers));
}

void Model::set_matrix(int layer, const std::string& name, const std::string& kind, const uint8_t* data,
                       int64_t rows, int64_t cols, int64_t row_bytes, Form form) {
  const Hold hold(busy_);  // the arena is for one thread
  if (layer != -1) check_layer(layer);
  int64_t want_rows, want_cols;
  Matrix* matrix = find_matrix(layer, name, want_rows, want_cols);
  if (matrix == nullptr) throw std::invalid_argument("no matrix " + name + " in this model");
  if (rows != want_rows || cols != want_cols)
    throw std::invalid_argument(name + " is [" + std::to_string(rows) + ", " + std::to_string(cols) +
                                "], the model needs [" + std::to_string(want_rows) + ", " +
                                std::to_string(want_cols) + "]");
  // What values lose by rounding to bytes costs most, and the head loses. Of the head there are as few rows as sequences:
  // in groups they take less time than in whole rows of fine weights, and lose about as little.
  const Use use = {.fine = name == "v", .grouped = layer == -1};
  *matrix = encode(form, kind, data, rows, cols, row_bytes, use, kernels_, pool_, arena_);
  // 2^31 / (255 x 127), half of it where two products share a sum.
  if (const int64_t most = use.fine ? 1 << 15 : 1 << 16;
      kernels_.whole_rows && !use.grouped && matrix->view.dense == Dense::none && cols > most)
    throw std::invalid_argument(name + " has " + std::to_string(cols) + " inputs; this CPU's kernels sum up to " +
                                std::to_string(most));
}

void Model::set_vector(int layer, const std::string& name, const float* data, int64_t size) {
  if (layer != -1) check_layer(layer);
  int64_t want;
  std::vector<float>* vector = find_vector(layer, name, want);
  if (vector == nullptr) throw std::invalid_argument("no vector " + name + " in this model");
  if (size != want)
    throw std::invalid_argument(name + " has " + std::to_string(size) + " values, the model needs " +
                                std::to_string(want));
  vector->assign(data, data + size);
}

void Model::check_complete() const {
  const auto need = [](bool there, const char* name, int layer) {
    if (!there) throw std::invalid_argument(std::string(name) + " of layer " + std::to_string(layer) + " is missing");
  };
  need(embedding().data != nullptr, "embed", -1);
  need(head().data != nullptr, "head", -1);
  need(!norm_.empty(), "norm", -1);
  for (int i = 0; i < spec_.layers; ++i) {
    const Layer& l = layers_[i];
    need(l.q.view.data && l.k.view.data && l.v.view.data && l.o.view.data, "an attention matrix", i);
    need(l.gate.view.data && l.up.view.data && l.down.view.data, "an MLP matrix", i);
    need(!l.attn_norm.empty() && !l.mlp_norm.empty(), "a norm", i);
    need(!spec_.post_norms || (!l.attn_post_norm.empty() && !l.mlp_post_norm.empty()), "a post norm", i);
    need(!spec_.qk_norm || (!l.q_norm.empty() && !l.k_norm.empty()), "a head norm", i);
    need(!spec_.qkv_bias || (!l.q_bias.empty() && !l.k_bias.empty() && !l.v_bias.empty()), "a bias", i);
  }
}

size_t Model::weight_bytes() const {
  size_t bytes = embed_.memory.size() + head_.memory.size();
  for (const Layer& l : layers_)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) bytes += m->memory.size();
  return bytes;
}

std::vector<std::string> Model::weight_kinds() const {
  std::vector<std::string> names;
  const auto note = [&](const Matrix& m) {
    const Packed& w = m.view;
    const std::string name = w.dense == Dense::f32    ? "f32"
                             : w.dense == Dense::f16  ? "f16"
                             : w.dense == Dense::bf16 ? "bf16"
                                                      : "int" + std::to_string(w.bits) + " g" + std::to_string(w.group);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const Layer& l : layers_)
    for (const Matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) note(*m);
  if (!spec_.tied_head || shared_ == nullptr) note(spec_.tied_head ? embed_ : head_);
  return names;
}

}  // namespace tenfold
