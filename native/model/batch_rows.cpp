// The batch that is computed: which sequence each row is of, whether its blocks are there, and leaving out rows that
// nothing is wanted of any more.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "model/model.hpp"

namespace tenfold {

void Model::number_rows() {
  sequence_of_.resize(batch_.size());
  for (int s = 0; s < batch_.sequences(); ++s)
    std::fill(sequence_of_.begin() + batch_.starts[s], sequence_of_.begin() + batch_.starts[s + 1], s);
}

void Model::check_kv(const Kv& kv) {
  if (checked_kv_ == kv.id()) return;
  if (!kv.fits(spec_.layers, spec_.kv_heads, spec_.head_dim))
    throw std::invalid_argument("this KV memory belongs to another model");
  check_tables(batch_, kv.blocks(), kv.block_size());
  checked_kv_ = kv.id();
}

// Finds each sequence's first row whose logits are wanted. Returns whether there are others before it.
bool Model::find_wanted() {
  wanted_.assign(batch_.starts.begin() + 1, batch_.starts.end());
  for (const int32_t row : batch_.rows) wanted_[sequence_of_[row]] = std::min(wanted_[sequence_of_[row]], row);
  for (int s = 0; s < batch_.sequences(); ++s)
    if (wanted_[s] > batch_.starts[s]) return true;
  return false;
}

// Leaves the rows before those that find_wanted() found out of the batch and of x. Sequences stay, also without rows.
void Model::narrow() {
  const auto move = [](auto* data, ptrdiff_t to, ptrdiff_t from, size_t count) {
    std::memmove(data + to, data + from, count * sizeof(*data));
  };
  int32_t size = 0;
  for (int s = 0; s < batch_.sequences(); ++s) {
    const int32_t from = wanted_[s], many = batch_.starts[s + 1] - from;
    move(batch_.tokens.data(), size, from, many);
    move(batch_.positions.data(), size, from, many);
    move(x_.data(), size * hidden_stride_, from * hidden_stride_, many * hidden_stride_);
    wanted_[s] = from - size;
    batch_.starts[s] = size;
    size += many;
  }
  for (int32_t& row : batch_.rows) row -= wanted_[sequence_of_[row]];
  batch_.starts.back() = size;
  batch_.tokens.resize(size);
  batch_.positions.resize(size);
  number_rows();
  planner_.restart();
}

}  // namespace tenfold
