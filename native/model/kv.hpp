// Paged KV memory of all layers; layout in attention/format.hpp.
#pragma once

#include <atomic>
#include <stdexcept>

#include "dispatch/kernels.hpp"
#include "model/memory.hpp"

namespace tenfold {

class Kv {
 public:
  // Throws std::bad_alloc where the memory cannot be had, std::invalid_argument for sizes that make no sense.
  Kv(int layers, int kv_heads, int head_dim, int64_t blocks, int64_t block_size, KvType type)
      : layers_(layers), blocks_(blocks) {
    if (blocks < 1 || blocks > INT32_MAX || block_size < 16 || block_size % 16 != 0 || block_size > (1 << 20))
      throw std::invalid_argument("KV memory needs at least one block, of a multiple of 16 tokens");
    const auto up = [](int n, int to) { return (n + to - 1) / to * to; };
    const int width = up(head_dim, type == KvType::bf16 ? 2 : 4), padded = up(head_dim, 16);
    layer_ = {nullptr, 0, type, static_cast<int>(block_size), kv_heads, head_dim, width, padded};
    const double total = static_cast<double>(blocks) * static_cast<double>(block_size) * kv_heads;
    if (total * 2 * (padded * layer_.element() + sizeof(uint16_t)) * layers > 1e18) throw std::bad_alloc();
    layer_.stride = layer_.layer_bytes() * layers;
    memory_ = Memory(layer_.stride * ((static_cast<size_t>(blocks) + kNeighbours - 1) / kNeighbours));
    layer_.data = memory_.data();
  }

  KvLayer layer(int i) const {
    KvLayer result = layer_;
    result.data += layer_.layer_bytes() * i;
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
  Memory memory_;
};

}  // namespace tenfold
