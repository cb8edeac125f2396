// Paged KV memory of all layers; layout in dispatch/kernels.hpp.
#pragma once

#include <atomic>
#include <stdexcept>

#include "dispatch/kernels.hpp"
#include "model/memory.hpp"

namespace tenfold {

class Kv {
 public:
  // Throws std::bad_alloc where the memory cannot be had, std::invalid_argument for sizes that make no sense.
  Kv(int layers, int kv_heads, int head_dim, int64_t blocks, int64_t block_size, bool bf16)
      : layers_(layers), blocks_(blocks) {
    if (blocks < 1 || blocks > INT32_MAX || block_size < 16 || block_size % 16 != 0 || block_size > (1 << 20))
      throw std::invalid_argument("KV memory needs at least one block, of a multiple of 16 tokens");
    const int padded = (head_dim + 15) / 16 * 16;
    const double slots = static_cast<double>(blocks) * static_cast<double>(block_size) * kv_heads;
    if (slots * (head_dim + padded) * (bf16 ? 2 : 4) * layers > 1e18) throw std::bad_alloc();
    layer_ = {nullptr, nullptr, static_cast<int>(block_size), kv_heads, head_dim, padded, bf16};
    const size_t rows = static_cast<size_t>(blocks) * static_cast<size_t>(block_size) * kv_heads * (bf16 ? 2 : 4);
    k_bytes_ = rows * head_dim;
    layer_bytes_ = k_bytes_ + rows * padded;
    memory_ = Memory(layer_bytes_ * layers);
  }

  KvLayer layer(int i) const {
    KvLayer result = layer_;
    result.k = memory_.data() + layer_bytes_ * i;
    result.v = result.k + k_bytes_;
    return result;
  }
  int64_t blocks() const { return blocks_; }
  int block_size() const { return layer_.block_size; }
  size_t bytes() const { return memory_.size(); }
  // Unlike its address, never another's.
  uint64_t id() const { return id_; }
  bool fits(int layers, int kv_heads, int head_dim) const {
    return layers_ == layers && layer_.kv_heads == kv_heads && layer_.head_dim == head_dim;
  }

 private:
  static uint64_t next_id() {
    static std::atomic<uint64_t> last{0};
    return ++last;
  }

  uint64_t id_ = next_id();
  int layers_;
  int64_t blocks_;
  KvLayer layer_;
  size_t k_bytes_, layer_bytes_;
  Memory memory_;
};

}  // namespace tenfold
