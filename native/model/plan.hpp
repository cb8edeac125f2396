// How a batch's attention is cut into items for the pool.
#pragma once

#include <cstdint>
#include <vector>

#include "model/batch.hpp"

namespace tenfold {

// The attention work of a batch for one window, the same in all layers that have it.
struct AttendPlan {
  struct Item {
    int sequence;   // whose table is used
    int row, rows;  // in row_numbers and positions
    int kv_head, first_chunk, last_chunk;
    int64_t partial = -1;      // float offset of the item's first partial, -1: none
    int64_t query_stride = 0;  // floats from query to query
    int64_t cost = 0;          // time, in a unit of its own
  };
  struct Merge {
    int row, head, chunks;
    int64_t partial;  // of the query's first chunk
  };
  int window = 0;
  std::vector<int32_t> row_numbers, positions;  // the batch's rows, then those of items over several sequences
  std::vector<Item> items;                      // those that take longest first
  std::vector<Merge> merges;
  int64_t partial_width = 0, partial_floats = 0;
};

// Makes a batch's plans in the memory of those of the batches before.
class AttendPlanner {
 public:
  // `queries`: how many an item has at most, but for those of one row.
  AttendPlanner(int heads, int kv_heads, int head_dim, int queries, int threads);

  // A new batch: the plans so far are void.
  void restart() { made_ = 0; }
  // The plan for layers of `window` (0: full attention), made when first asked for; valid until the next call.
  const AttendPlan& plan(const Batch& batch, int window, int block_size);
  // Those since restart().
  int plans() const { return made_; }
  const AttendPlan& plan(int index) const { return plans_[index]; }

 private:
  void share_prefixes(AttendPlan& plan, const Batch& batch, int block_size);
  void share(AttendPlan& plan, const Batch& batch, const int* sequences, int count, int chunks);
  void add_rows(AttendPlan& plan, const Batch& batch, int sequence);
  void cut_long(AttendPlan& plan) const;
  int64_t cost_of(const AttendPlan& plan, const AttendPlan::Item& item) const;

  int kv_heads_, group_, step_, width_, threads_;  // query heads per KV head; rows of an item; floats of a partial
  std::vector<AttendPlan> plans_;
  int made_ = 0;
  std::vector<int> order_, alike_;  // sequences
  std::vector<char> done_;          // per sequence: all of its items are there
};

}  // namespace tenfold
