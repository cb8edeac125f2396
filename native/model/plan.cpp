#include "model/plan.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "dispatch/kernels.hpp"

namespace tenfold {
namespace {

// An item takes at most this part of a thread's share of the work, unless it is one chunk.
constexpr int kParts = 8;
// To fetch a key and its value takes as long as so many queries' products with them, about (measured: 2 to 20).
constexpr int kFetchQueries = 4;

// Whole chunks, before the sequence's own new key, that lie in the same blocks for both.
int common_chunks(const Batch& batch, int a, int b, int block_size) {
  const int limit = std::min(batch.positions[batch.starts[a]], batch.positions[batch.starts[b]]) / kChunk;
  const int blocks = kChunk / block_size;
  const int32_t *x = batch.table(a), *y = batch.table(b);
  int chunks = 0;
  while (chunks < limit && std::equal(x + chunks * blocks, x + (chunks + 1) * blocks, y + chunks * blocks)) ++chunks;
  return chunks;
}

int chunks_of(const AttendPlan::Item& item) { return item.last_chunk - item.first_chunk; }

}  // namespace

AttendPlanner::AttendPlanner(int heads, int kv_heads, int head_dim, int queries, int threads)
    : kv_heads_(kv_heads),
      group_(heads / kv_heads),
      step_(std::max(1, queries / group_)),
      width_((head_dim + 15) / 16 * 16 + 2),
      threads_(threads) {}

const AttendPlan& AttendPlanner::plan(const Batch& batch, int window, int block_size) {
  for (int i = 0; i < made_; ++i)
    if (plans_[i].window == window) return plans_[i];
  if (static_cast<size_t>(made_) == plans_.size()) plans_.emplace_back();
  AttendPlan& plan = plans_[made_++];
  plan.window = window;
  plan.positions = batch.positions;
  plan.row_numbers.resize(batch.size());
  std::iota(plan.row_numbers.begin(), plan.row_numbers.end(), 0);
  plan.items.clear();
  plan.merges.clear();
  plan.partial_width = width_;
  plan.partial_floats = 0;

  // A prefix that several sequences share is read once for all of them; the rest of each by itself.
  done_.assign(batch.sequences(), 0);
  if (window == 0) share_prefixes(plan, batch, block_size);
  for (int s = 0; s < batch.sequences(); ++s)
    if (!done_[s]) add_rows(plan, batch, s);
  for (AttendPlan::Item& item : plan.items) item.cost = cost_of(plan, item);
  if (threads_ > 1) cut_long(plan);
  // In a total order: std::stable_sort takes memory.
  std::sort(plan.items.begin(), plan.items.end(), [](const auto& a, const auto& b) {
    return std::tie(b.cost, a.row, a.kv_head, a.first_chunk) < std::tie(a.cost, b.row, b.kv_head, b.first_chunk);
  });
  return plan;
}

// Decoding sequences with a common prefix of at least one chunk. Groups begin at a different first block; within one,
// all share what its members have in common.
void AttendPlanner::share_prefixes(AttendPlan& plan, const Batch& batch, int block_size) {
  if (kChunk % block_size != 0 || step_ < 2) return;
  order_.clear();
  for (int s = 0; s < batch.sequences(); ++s)
    if (batch.starts[s + 1] - batch.starts[s] == 1 && batch.positions[batch.starts[s]] >= kChunk) order_.push_back(s);
  const auto first_block = [&](int s) { return batch.table(s)[0]; };
  std::sort(order_.begin(), order_.end(), [&](int a, int b) {
    return std::pair(first_block(a), a) < std::pair(first_block(b), b);
  });
  for (size_t i = 0, next; i < order_.size(); i = next) {
    int chunks = 0;
    alike_.assign(1, order_[i]);
    for (next = i + 1; next < order_.size() && first_block(order_[next]) == first_block(order_[i]); ++next) {
      const int common = common_chunks(batch, order_[i], order_[next], block_size);
      if (common == 0) continue;
      chunks = alike_.size() == 1 ? common : std::min(chunks, common);
      alike_.push_back(order_[next]);
    }
    const auto count = static_cast<int>(alike_.size());
    for (int from = 0; from + 1 < count; from += step_)
      share(plan, batch, alike_.data() + from, std::min(step_, count - from), chunks);
  }
}

// Items for `count` sequences of one row whose first `chunks` chunks are the same.
void AttendPlanner::share(AttendPlan& plan, const Batch& batch, const int* sequences, int count, int chunks) {
  const auto first = static_cast<int>(plan.row_numbers.size());
  int most = 0;
  for (int i = 0; i < count; ++i) {
    const int row = batch.starts[sequences[i]];
    plan.row_numbers.push_back(row);
    plan.positions.push_back(batch.positions[row]);
    most = std::max(most, batch.positions[row] / kChunk + 1);
    done_[sequences[i]] = 1;
  }
  const int64_t stride = static_cast<int64_t>(most) * width_;
  for (int h = 0; h < kv_heads_; ++h) {
    plan.items.push_back({sequences[0], first, count, h, 0, chunks, plan.partial_floats, stride});
    for (int i = 0; i < count; ++i) {
      const int all = plan.positions[first + i] / kChunk + 1, row = plan.row_numbers[first + i];
      if (all > chunks)
        plan.items.push_back({sequences[i], first + i, 1, h, chunks, all, plan.partial_floats + chunks * width_, stride});
      for (int g = 0; g < group_; ++g, plan.partial_floats += stride)
        plan.merges.push_back({row, h * group_ + g, all, plan.partial_floats});
    }
  }
}

// A sequence's own items: some of its rows over all chunks that these see.
void AttendPlanner::add_rows(AttendPlan& plan, const Batch& batch, int sequence) {
  const int end = batch.starts[sequence + 1];
  for (int row = batch.starts[sequence]; row < end; row += step_) {
    const int rows = std::min(step_, end - row);
    const int first_key = plan.window > 0 ? std::max(0, batch.positions[row] - plan.window + 1) : 0;
    const int last_key = batch.positions[row] + rows - 1;
    for (int h = 0; h < kv_heads_; ++h)
      plan.items.push_back({sequence, row, rows, h, first_key / kChunk, last_key / kChunk + 1});
  }
}

int64_t AttendPlanner::cost_of(const AttendPlan& plan, const AttendPlan::Item& item) const {
  const int32_t* positions = plan.positions.data() + item.row;
  const int seen = plan.window > 0 ? std::max(0, positions[0] - plan.window + 1) : 0;
  const int first = std::max(seen, item.first_chunk * kChunk);
  const int last = std::min(positions[item.rows - 1] + 1, item.last_chunk * kChunk);
  return static_cast<int64_t>(last - first) * (kFetchQueries + item.rows * group_);
}

// Items that would keep one thread busy while the others have nothing left become several, of whole chunks, which are
// merged afterwards in order.
void AttendPlanner::cut_long(AttendPlan& plan) const {
  int64_t total = 0;
  for (const AttendPlan::Item& item : plan.items) total += item.cost;
  const int64_t most = std::max<int64_t>(1, total / (kParts * threads_));
  const size_t count = plan.items.size();
  for (size_t i = 0; i < count; ++i) {
    AttendPlan::Item item = plan.items[i];
    const int64_t chunks = chunks_of(item), parts = std::min(chunks, (item.cost + most - 1) / most);
    if (parts < 2) continue;
    if (item.partial < 0) {
      item.partial = plan.partial_floats;
      item.query_stride = chunks * width_;
      for (int q = 0; q < item.rows * group_; ++q, plan.partial_floats += item.query_stride)
        plan.merges.push_back({plan.row_numbers[item.row + q / group_], item.kv_head * group_ + q % group_,
                               static_cast<int>(chunks), plan.partial_floats});
    }
    for (int64_t part = 0; part < parts; ++part) {
      AttendPlan::Item piece = item;
      piece.first_chunk = item.first_chunk + static_cast<int>(chunks * part / parts);
      piece.last_chunk = item.first_chunk + static_cast<int>(chunks * (part + 1) / parts);
      piece.partial += (piece.first_chunk - item.first_chunk) * width_;
      piece.cost = cost_of(plan, piece);
      if (part == 0) {
        plan.items[i] = piece;
      } else {
        plan.items.push_back(piece);
      }
    }
  }
}

}  // namespace tenfold
