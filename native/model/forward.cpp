// The ops of a forward pass. Work is cut into items for the pool in ways that never change a row's bits.
#include <algorithm>
#include <numeric>
#include <stdexcept>

#include "model/model.hpp"
#include "simd/half.hpp"

namespace tenfold {
namespace {

constexpr int kOwnRows = 8;       // up to so many rows, each thread makes an op's input for itself
constexpr int kFetchedRows = 64;  // up to so many rows, where their keys and values will go is fetched ahead
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
  const auto panel_bytes = input.grouped ? kernels_.group_panel_bytes : kernels_.panel_bytes;
  acts.panel_bytes = panel_bytes(static_cast<int>(acts.value_stride));
  acts.values = input.values.reserve(static_cast<size_t>(rows) * acts.value_stride);
  acts.panels = input.panels.reserve(static_cast<size_t>(ceil_div(rows, kPanel)) * acts.panel_bytes);
}

void Model::quantize_row(const Input& input, int row, const float* values, int cols) {
  const auto quantize = input.grouped ? kernels_.quantize_groups : kernels_.quantize;
  quantize(values, 0, 1, cols, input.panels.data() + row / kPanel * input.acts.panel_bytes, row % kPanel);
}

// What gives a thread the input of an op's linears: `rows` rows, made by make(input, row, thread). The threads make many
// rows together. Of a few, each makes all for itself when it first needs them: that takes less time than waiting for
// each other and fetching the lines that others wrote.
template <typename F>
auto Model::prepare(Input& together, int rows, int cols, const F& make) {
  const bool own = rows <= kOwnRows;
  if (own) {
    ++turn_;
  } else {
    each_row(rows, [&](int row, int thread) { make(together, row, thread); });
  }
  return [this, &together, rows, cols, make, own](int thread) -> const Acts& {
    if (!own) return together.acts;
    Own& mine = own_[thread];
    if (mine.turn != turn_) {
      mine.turn = turn_;
      mine.input.grouped = together.grouped;
      shape_input(mine.input, rows, cols);
      for (int row = 0; row < rows; ++row) make(mine.input, row, thread);
    }
    return mine.input.acts;
  };
}

// The norm of rows of x (all, or those of `pick`), as the matrices that take it want it.
auto Model::normed(Input& input, const std::vector<float>& weight, int rows, const int32_t* pick,
                   std::initializer_list<const Packed*> takers) {
  bool codes = false, values = false;
  for (const Packed* taker : takers) (quantized(*taker) ? codes : values) = true;
  return prepare(input, rows, spec_.hidden, [=, this, &weight](Input& to, int row, int thread) {
    float* out = values ? to.values.data() + row * to.acts.value_stride : own_[thread].row.data();
    kernels_.rms_norm(x_.data() + (pick == nullptr ? row : pick[row]) * hidden_stride_, weight.data(), spec_.hidden,
                      spec_.norm_eps, out);
    if (codes) quantize_row(to, row, out, spec_.hidden);
  });
}

// Rows of `input`, whose values are there, quantized.
auto Model::from_values(Input& input, int rows, int cols) {
  return prepare(input, rows, cols, [this, &input, cols](Input& to, int row, int) {
    quantize_row(to, row, input.values.data() + row * input.acts.value_stride, cols);
  });
}

template <typename X, typename F>
void Model::linear(const Job& job, const X& input, int rows, int unit, const F& also) {
  const int tiles = job.w->tiles(), row_items = ceil_div(rows, kernels_.row_chunk);
  // Few rows: items of some tens of kilobytes of weights. Many: each tile is work enough.
  const size_t wanted = std::max<size_t>(1, kItemBytes / (static_cast<size_t>(std::min(rows, kernels_.row_chunk)) + 3) * 4);
  int step = std::max(1, static_cast<int>(wanted / job.w->tile_bytes));
  step = std::max(1, std::min(step, tiles / threads()));
  const int together = quantized(*job.w) ? kernels_.tiles_together : kernels_.dense_tiles;
  if (step >= together) {
    step = step / together * together;
  } else if (quantized(*job.w)) {
    step = together;  // also of large tiles: alone, one takes much longer than half the time
  }
  step = ceil_div(step, unit) * unit;
  const int column_items = ceil_div(tiles, step);
  pool_.run(column_items * row_items, [&](int item, int thread) {
    const Acts& x = input(thread);
    const int row = item / column_items * kernels_.row_chunk, many = std::min(kernels_.row_chunk, rows - row);
    const int from = item % column_items * step, to = std::min(tiles, from + step);
    kernels_.linear_tile(*job.w, from, to - from, x, row, many, job.out + row * job.stride + from * kTile, job.stride,
                         job.accumulate);
    also(from, to, row, many);
  });
}

template <typename X>
void Model::linear(const Job& job, const X& input, int rows) {
  linear(job, input, rows, 1, [](int, int, int, int) {});
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
  number_rows();
  checked_kv_ = 0;
  planner_.restart();
  const auto rows = static_cast<size_t>(batch_.size());
  x_.reserve(rows * hidden_stride_);
  y_.reserve(rows * hidden_stride_);
  qkv_.reserve(rows * qkv_stride_);
  shape_input(normed_, batch_.size(), spec_.hidden);
  shape_input(attended_, batch_.size(), spec_.heads * spec_.head_dim);
  shape_input(gated_, batch_.size(), spec_.ffn);
  last_.grouped = head().grouped;
  shape_input(last_, static_cast<int>(batch_.rows.size()), spec_.hidden);
  for (Own& own : own_) {
    shape_input(own.input, std::min(kOwnRows, batch_.size()), std::max({spec_.hidden, spec_.heads * spec_.head_dim, spec_.ffn}));
    own.row.reserve(hidden_stride_);
  }
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
void Model::fetch_slot(const KvLayer& kv, int head, int row) const {
  const int position = batch_.positions[row], slot = position % kv.block_size;
  const int32_t block = batch_.table(sequence_of_[row])[position / kv.block_size];
  const size_t group = kv.element() * 16;  // keys of one value of the head
  const uint8_t* keys = kv.keys(block, head) + static_cast<size_t>(slot / 16 * 16) * kv.width * kv.element();
  for (size_t at = 0; at < group * kv.width; at += 64) __builtin_prefetch(keys + at, 1, 2);
  const int together = kv.type == KvType::bf16 ? 2 : 4;
  const uint8_t* values =
      kv.values(block, head) + static_cast<size_t>(slot / together * together) * kv.padded * kv.element();
  for (size_t at = 0; at < together * kv.padded * kv.element(); at += 64) __builtin_prefetch(values + at, 1, 2);
}

// Columns of one of a layer's projections that are whole heads, for rows of the batch, and their bias.
float* Model::project(const Packed& w, const std::vector<float>& bias, float* out, int first, int last, const Acts& x,
                      int row, int rows) {
  const int from = first * spec_.head_dim, columns = (last - first) * spec_.head_dim;
  out += row * qkv_stride_ + from;
  kernels_.linear_tile(w, from / kTile, ceil_div(columns, kTile), x, row, rows, out, qkv_stride_, false);
  if (spec_.qkv_bias)
    for (int i = 0; i < rows; ++i) kernels_.add(out + i * qkv_stride_, bias.data() + from, columns);
  return out;
}

void Model::turn_head(float* head, const std::vector<float>& norm, const RopeTable& rope, int position) {
  const int dim = spec_.head_dim, half = dim / 2;
  if (spec_.qk_norm) kernels_.rms_norm(head, norm.data(), dim, spec_.norm_eps, head);
  const size_t angle = static_cast<size_t>(position) * half;
  kernels_.rope(head, rope.cos.data() + angle, rope.sin.data() + angle, half);
}

void Model::query_heads(const Layer& layer, const RopeTable& rope, int first, int last, const Acts& x, int row,
                        int rows) {
  float* q = project(layer.q.view, layer.q_bias, qkv_.data(), first, last, x, row, rows);
  for (int i = 0; i < rows; ++i, q += qkv_stride_) {
    for (int h = 0; h < last - first; ++h)
      turn_head(q + h * spec_.head_dim, layer.q_norm, rope, batch_.positions[row + i]);
    kernels_.scale(q, spec_.query_scale, (last - first) * spec_.head_dim);
  }
}

void Model::key_value_heads(const Layer& layer, const RopeTable& rope, const KvLayer& kv, int first, int last,
                            const Acts& x, int row, int rows) {
  const int dim = spec_.head_dim;
  if (batch_.size() <= kFetchedRows)
    for (int i = 0; i < rows; ++i)
      for (int h = first; h < last; ++h) fetch_slot(kv, h, row + i);
  float* keys = qkv_.data() + spec_.heads * dim;
  float* k = project(layer.k.view, layer.k_bias, keys, first, last, x, row, rows);
  float* v = project(layer.v.view, layer.v_bias, keys + spec_.kv_heads * dim, first, last, x, row, rows);
  for (int i = 0; i < rows; ++i, k += qkv_stride_, v += qkv_stride_) {
    const int position = batch_.positions[row + i], slot = position % kv.block_size;
    const int32_t block = batch_.table(sequence_of_[row + i])[position / kv.block_size];
    for (int h = 0; h < last - first; ++h) {
      turn_head(k + h * dim, layer.k_norm, rope, position);
      kernels_.store_kv(kv, block, first + h, slot, k + h * dim, v + h * dim);
    }
  }
}

void Model::qkv(int layer, const Kv& kv) {
  const Guard guard(*this, Op::qkv);
  check_layer(layer);
  check_kv(kv);
  project_heads(layer, kv, true, true);
}

// Keys and values of a layer, queries, or all of them in one loop.
void Model::project_heads(int layer, const Kv& kv, bool keys, bool queries) {
  const Layer& l = layers_[layer];
  const int rows = batch_.size();
  const KvLayer memory = kv.layer(layer);
  const RopeTable& rope = rope_of(layer);
  const auto input = normed(normed_, l.attn_norm, rows, nullptr, {&l.q.view, &l.k.view, &l.v.view});
  // An item makes heads whole, as few as fill tiles: they are finished while they are in the thread's cache.
  const int heads = kTile / std::gcd(kTile, spec_.head_dim);
  const int kv_units = ceil_div(spec_.kv_heads, heads), first_unit = keys ? 0 : kv_units;
  const int units = (queries ? kv_units + ceil_div(spec_.heads, heads) : kv_units) - first_unit;
  pool_.run(units * ceil_div(rows, kernels_.row_chunk), [&](int item, int thread) {
    const int row = item / units * kernels_.row_chunk, many = std::min(kernels_.row_chunk, rows - row);
    const int unit = first_unit + item % units;
    const Acts& x = input(thread);
    if (unit < kv_units) {
      key_value_heads(l, rope, memory, unit * heads, std::min(spec_.kv_heads, (unit + 1) * heads), x, row, many);
    } else {
      const int first = (unit - kv_units) * heads;
      query_heads(l, rope, first, std::min(spec_.heads, first + heads), x, row, many);
    }
  });
}

// qkv of the last layer. Of a row whose logits nobody wants, nothing but its keys and values is read any more: most rows
// of a prompt's chunk. So the batch's rows become those from each sequence's first wanted one on; bits depend on no
// other row.
void Model::last_qkv(const Kv& kv) {
  const Guard guard(*this, Op::qkv);
  check_kv(kv);
  const int layer = spec_.layers - 1;
  const bool narrows = find_wanted();
  project_heads(layer, kv, true, !narrows);
  if (!narrows) return;
  narrow();
  project_heads(layer, kv, false, true);
}

void Model::attend(int layer, const Kv& kv) {
  const Guard guard(*this, Op::attend);
  check_layer(layer);
  if (checked_kv_ != kv.id()) throw std::invalid_argument("attend needs the KV memory that qkv wrote");
  const AttendPlan& plan = planner_.plan(batch_, spec_.windows[layer], kv.block_size());
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
  const Job job = {&l.o.view, spec_.post_norms ? y_.data() : x_.data(), hidden_stride_, !spec_.post_norms};
  if (quantized(l.o.view)) {
    linear(job, from_values(attended_, rows, l.o.view.cols), rows);
  } else {
    linear(job, [&](int) -> const Acts& { return attended_.acts; }, rows);
  }
  if (spec_.post_norms) finish_residual(l.attn_post_norm);
}

// Columns gate_unit() * unit … of the gated activation for rows first … last - 1: gate, up, activation and, where groups
// of inputs are quantized by themselves, that for the down projection, while all is in the thread's cache.
void Model::gated_unit(const Layer& layer, const Acts& x, int unit, int first, int last, int thread) {
  const int width = gate_unit(), from = unit * width;
  float* gate = scratch_.data() + static_cast<size_t>(thread) * 2 * kernels_.row_chunk * width;
  float* up = gate + kernels_.row_chunk * width;
  const int columns = std::min(width, spec_.ffn - from), tiles = ceil_div(columns, kTile), tile = from / kTile;
  kernels_.linear_tile(layer.gate.view, tile, tiles, x, first, last - first, gate, width, false);
  kernels_.linear_tile(layer.up.view, tile, tiles, x, first, last - first, up, width, false);
  const Acts& to = gated_.acts;
  const bool codes = quantized(layer.down.view) && !kernels_.whole_rows;
  float* values = codes ? gate : gated_.values.data() + first * to.value_stride + from;
  kernels_.gate(spec_.activation, gate, up, width, last - first, columns, values, codes ? width : to.value_stride);
  if (codes)
    for (int row = first; row < last; row += kPanel)
      kernels_.quantize(gate + (row - first) * width, width, std::min(kPanel, last - row), columns,
                        gated_.panels.data() + row / kPanel * to.panel_bytes + from / kGroup * sizeof(ActGroup), 0);
}

void Model::mlp(int layer) {
  const Guard guard(*this, Op::mlp);
  check_layer(layer);
  const Layer& l = layers_[layer];
  const int rows = batch_.size();
  const auto input = normed(normed_, l.mlp_norm, rows, nullptr, {&l.gate.view, &l.up.view});
  scratch_.reserve(static_cast<size_t>(threads()) * 2 * kernels_.row_chunk * gate_unit());
  const int units = ceil_div(spec_.ffn, gate_unit()), step = rows < 8 ? 4 * kGroup / gate_unit() : 1;
  const int unit_items = ceil_div(units, step);
  pool_.run(unit_items * ceil_div(rows, kernels_.row_chunk), [&](int item, int thread) {
    const int first = item / unit_items * kernels_.row_chunk, last = std::min(rows, first + kernels_.row_chunk);
    const int from = item % unit_items * step;
    const Acts& x = input(thread);
    for (int unit = from; unit < std::min(units, from + step); ++unit) gated_unit(l, x, unit, first, last, thread);
  });
  const Job job = {&l.down.view, spec_.post_norms ? y_.data() : x_.data(), hidden_stride_, !spec_.post_norms};
  if (quantized(l.down.view) && kernels_.whole_rows) {
    linear(job, from_values(gated_, rows, spec_.ffn), rows);
  } else {
    linear(job, [&](int) -> const Acts& { return gated_.acts; }, rows);
  }
  if (spec_.post_norms) finish_residual(l.mlp_post_norm);
}

Rows Model::logits() {
  const Guard guard(*this, Op::logits);
  const auto rows = static_cast<int>(batch_.rows.size());
  const int vocab = spec_.head_rows, blocks = ceil_div(vocab, kScanBlock);
  logits_.reserve(static_cast<size_t>(rows) * logit_stride_);
  maxima_.reserve(static_cast<size_t>(rows) * blocks);
  if (rows > 0) {
    const auto input = normed(last_, norm_, rows, batch_.rows.data(), {&head()});
    const Job job = {&head(), logits_.data(), logit_stride_, false};
    linear(job, input, rows, kScanBlock / kTile, [&](int from, int to, int row, int many) {
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
    layer + 1 < spec_.layers ? qkv(layer, kv) : last_qkv(kv);
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
