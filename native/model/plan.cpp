// How a batch's attention is cut into items.
#include <algorithm>

#include "model/model.hpp"

namespace tenfold {

const AttendPlan& Model::plan_for(int window) {
  for (const AttendPlan& plan : plans_)
    if (plan.window == window) return plan;
  AttendPlan plan;
  plan.window = window;
  const int group = spec_.heads / spec_.kv_heads;
  const int step = std::max(1, 24 / group);  // rows per item, so that loads of K and V serve ~24 queries
  for (int s = 0; s < batch_.sequences(); ++s)
    for (int row = batch_.starts[s]; row < batch_.starts[s + 1]; row += step) {
      const int rows = std::min(step, batch_.starts[s + 1] - row);
      const int first_key = window > 0 ? std::max(0, batch_.positions[row] - window + 1) : 0;
      const int last_key = batch_.positions[row] + rows - 1;
      for (int h = 0; h < spec_.kv_heads; ++h)
        plan.items.push_back({s, row, rows, h, first_key / kChunk, last_key / kChunk + 1, -1});
    }
  const auto cost = [](const AttendPlan::Item& item) { return item.rows * (item.last_chunk - item.first_chunk); };
  if (static_cast<int>(plan.items.size()) < 2 * threads()) {
    // Too few items for the threads: one per chunk, merged afterwards in order.
    const int64_t width = (spec_.head_dim + 15) / 16 * 16 + 2;
    std::vector<AttendPlan::Item> parts;
    for (const AttendPlan::Item& item : plan.items) {
      const int chunks = item.last_chunk - item.first_chunk;
      if (chunks < 2) {
        parts.push_back(item);
        continue;
      }
      const int64_t stride = item.rows * group * width;
      for (int i = 0; i < item.rows * group; ++i)
        plan.merges.push_back({item.row + i / group, item.kv_head * group + i % group, chunks,
                               plan.partial_floats + i * width, stride});
      for (int c = item.first_chunk; c < item.last_chunk; ++c, plan.partial_floats += stride)
        parts.push_back({item.sequence, item.row, item.rows, item.kv_head, c, c + 1, plan.partial_floats});
    }
    plan.items = std::move(parts);
  } else {
    std::stable_sort(plan.items.begin(), plan.items.end(),
                     [&](const auto& a, const auto& b) { return cost(a) > cost(b); });
  }
  plans_.push_back(std::move(plan));
  return plans_.back();
}

}  // namespace tenfold
