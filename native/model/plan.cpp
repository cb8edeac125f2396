// How a batch's attention is cut into items.
#include <algorithm>
#include <numeric>

#include "model/model.hpp"

namespace tenfold {
namespace {

// Sequences of one row each whose first `chunks` chunks of keys lie in the same blocks.
struct Shared {
  std::vector<int> sequences;
  int chunks;
};

// Whole chunks, before the sequence's own new key, that lie in the same blocks for both.
int common_chunks(const Batch& batch, int a, int b, int block_size) {
  const int limit = std::min(batch.positions[batch.starts[a]], batch.positions[batch.starts[b]]) / kChunk;
  const int blocks = kChunk / block_size;
  const int32_t *x = batch.table(a), *y = batch.table(b);
  int chunks = 0;
  while (chunks < limit && std::equal(x + chunks * blocks, x + (chunks + 1) * blocks, y + chunks * blocks)) ++chunks;
  return chunks;
}

// Groups of decoding sequences with a common prefix of at least one chunk. Groups begin at a different first block;
// within one, all share what its members have in common.
std::vector<Shared> shared_prefixes(const Batch& batch, int block_size) {
  std::vector<Shared> groups;
  if (kChunk % block_size != 0) return groups;
  std::vector<int> order;
  for (int s = 0; s < batch.sequences(); ++s)
    if (batch.starts[s + 1] - batch.starts[s] == 1 && batch.positions[batch.starts[s]] >= kChunk) order.push_back(s);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return batch.table(a)[0] < batch.table(b)[0]; });
  for (size_t i = 0; i < order.size();) {
    Shared group{{order[i]}, 0};
    size_t j = i + 1;
    for (; j < order.size() && batch.table(order[j])[0] == batch.table(order[i])[0]; ++j) {
      const int common = common_chunks(batch, order[i], order[j], block_size);
      if (common == 0) continue;
      group.chunks = group.sequences.size() == 1 ? common : std::min(group.chunks, common);
      group.sequences.push_back(order[j]);
    }
    if (group.sequences.size() > 1) groups.push_back(std::move(group));
    i = j;
  }
  return groups;
}

int chunks_of(const AttendPlan::Item& item) { return item.last_chunk - item.first_chunk; }

}  // namespace

const AttendPlan& Model::plan_for(int window, int block_size) {
  for (const AttendPlan& plan : plans_)
    if (plan.window == window) return plan;
  AttendPlan plan;
  plan.window = window;
  plan.positions = batch_.positions;
  plan.row_numbers.resize(batch_.size());
  std::iota(plan.row_numbers.begin(), plan.row_numbers.end(), 0);
  plan.partial_width = (spec_.head_dim + 15) / 16 * 16 + 2;
  const int group = spec_.heads / spec_.kv_heads;
  const int step = std::max(1, kernels_.attend_queries / group);

  // A prefix that several sequences share is read once for all of them; the rest of each by itself.
  std::vector<char> done(batch_.sequences(), 0);
  if (window == 0)
    for (const Shared& shared : shared_prefixes(batch_, block_size))
      for (size_t from = 0; from < shared.sequences.size(); from += step) {
        const auto many = static_cast<int>(std::min<size_t>(step, shared.sequences.size() - from));
        if (many > 1) share(plan, shared.sequences.data() + from, many, shared.chunks, done);
      }
  const size_t shared_items = plan.items.size();

  for (int s = 0; s < batch_.sequences(); ++s) {
    if (done[s]) continue;
    for (int row = batch_.starts[s]; row < batch_.starts[s + 1]; row += step) {
      const int rows = std::min(step, batch_.starts[s + 1] - row);
      const int first_key = window > 0 ? std::max(0, batch_.positions[row] - window + 1) : 0;
      const int last_key = batch_.positions[row] + rows - 1;
      for (int h = 0; h < spec_.kv_heads; ++h)
        plan.items.push_back({s, row, rows, h, first_key / kChunk, last_key / kChunk + 1});
    }
  }
  if (static_cast<int>(plan.items.size()) < 2 * threads()) split_items(plan, shared_items);
  std::stable_sort(plan.items.begin(), plan.items.end(), [](const auto& a, const auto& b) {
    return a.rows * chunks_of(a) > b.rows * chunks_of(b);
  });
  plans_.push_back(std::move(plan));
  return plans_.back();
}

// Items for `count` sequences of one row whose first `chunks` chunks are the same.
void Model::share(AttendPlan& plan, const int* sequences, int count, int chunks, std::vector<char>& done) {
  const int group = spec_.heads / spec_.kv_heads;
  const auto first = static_cast<int>(plan.row_numbers.size());
  int most = 0;
  for (int i = 0; i < count; ++i) {
    const int row = batch_.starts[sequences[i]];
    plan.row_numbers.push_back(row);
    plan.positions.push_back(batch_.positions[row]);
    most = std::max(most, batch_.positions[row] / kChunk + 1);
    done[sequences[i]] = 1;
  }
  const int64_t stride = most * plan.partial_width;
  for (int h = 0; h < spec_.kv_heads; ++h) {
    plan.items.push_back({sequences[0], first, count, h, 0, chunks, plan.partial_floats, stride});
    for (int i = 0; i < count; ++i) {
      const int all = plan.positions[first + i] / kChunk + 1, row = plan.row_numbers[first + i];
      if (all > chunks)
        plan.items.push_back({sequences[i], first + i, 1, h, chunks, all,
                              plan.partial_floats + chunks * plan.partial_width, stride});
      for (int g = 0; g < group; ++g, plan.partial_floats += stride)
        plan.merges.push_back({row, h * group + g, all, plan.partial_floats});
    }
  }
}

// Too few items for the threads: those from `first` on become one per chunk, merged afterwards in order.
void Model::split_items(AttendPlan& plan, size_t first) {
  const int group = spec_.heads / spec_.kv_heads;
  const std::vector<AttendPlan::Item> whole(plan.items.begin() + static_cast<ptrdiff_t>(first), plan.items.end());
  plan.items.resize(first);
  for (AttendPlan::Item item : whole) {
    const int chunks = chunks_of(item), begin = item.first_chunk;
    if (chunks < 2) {
      plan.items.push_back(item);
      continue;
    }
    item.query_stride = chunks * plan.partial_width;
    for (int c = 0; c < chunks; ++c) {
      item.first_chunk = begin + c;
      item.last_chunk = begin + c + 1;
      item.partial = plan.partial_floats + c * plan.partial_width;
      plan.items.push_back(item);
    }
    for (int i = 0; i < item.rows * group; ++i, plan.partial_floats += item.query_stride)
      plan.merges.push_back({plan.row_numbers[item.row + i / group], item.kv_head * group + i % group, chunks,
                             plan.partial_floats});
  }
}

}  // namespace tenfold
