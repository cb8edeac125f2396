// The ragged batch of a step, copied from the caller and checked.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tenfold {

using Ints = std::span<const int32_t>;

// A batch in the caller's memory.
struct BatchView {
  Ints tokens, positions, starts, context, tables;
  int64_t table_width;
  Ints rows;
};

struct Batch {
  std::vector<int32_t> tokens, positions, starts, context, tables, rows;
  int table_width = 0;

  // Keeps its memory where that is enough.
  void assign(const BatchView& from);
  int size() const { return static_cast<int>(tokens.size()); }
  int sequences() const { return static_cast<int>(context.size()); }
  const int32_t* table(int sequence) const { return tables.data() + static_cast<size_t>(sequence) * table_width; }
};

// Throws std::invalid_argument naming what is out of range.
void check_batch(const BatchView& batch, int vocab, int max_context);

// That every key of every sequence lies in a block of the pool.
void check_tables(const Batch& batch, int64_t blocks, int block_size);

}  // namespace tenfold
