// How keys and values lie in paged memory. A block of one KV head, in groups of 16 keys:
//   bf16  K [keys / 16][width / 2][16][2], V [keys / 2][padded][2]: pairs along the sum, as vdpbf16ps and AMX take them
//   int8  K [keys / 16][width / 4][16][4] biased by 128, V [keys / 4][padded][4]: quads, as vpdpbusd takes them,
//         and a bf16 scale per key (and head) for each of K and V
// Which of a pair or quad a value is follows from its absolute position. What all layers keep of kNeighbours blocks lies
// together: memory is touched for the first time as blocks are, not in every layer's own region at once, and within a
// layer a head's neighbouring blocks are one stream.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

constexpr uint32_t kNeighbours = 8;

enum class KvType : uint8_t { bf16, int8 };

struct KvLayer {
  uint8_t* data;  // the layer's part of blocks 0 …: K by head and block, V likewise, then, for int8, the scales of K and of V
  size_t stride;  // bytes from kNeighbours blocks to the next
  KvType type;
  int block_size, kv_heads, head_dim;
  int width;   // head_dim rounded up to whole pairs or quads
  int padded;  // head_dim rounded up to 16

  size_t element() const { return type == KvType::bf16 ? 2 : 1; }
  size_t key_bytes() const { return static_cast<size_t>(block_size) * width * element(); }  // of a block of one head
  size_t value_bytes() const { return static_cast<size_t>(block_size) * padded * element(); }
  size_t scale_bytes() const { return type == KvType::int8 ? block_size * sizeof(uint16_t) : 0; }  // of K, or of V
  size_t layer_bytes() const { return kNeighbours * kv_heads * (key_bytes() + value_bytes() + 2 * scale_bytes()); }

  uint8_t* keys(int32_t block, int head) const { return part(0, key_bytes(), block, head); }
  uint8_t* values(int32_t block, int head) const { return part(key_bytes(), value_bytes(), block, head); }
  uint16_t* key_scales(int32_t block, int head) const {
    return reinterpret_cast<uint16_t*>(part(key_bytes() + value_bytes(), scale_bytes(), block, head));
  }
  uint16_t* value_scales(int32_t block, int head) const {
    return reinterpret_cast<uint16_t*>(part(key_bytes() + value_bytes() + scale_bytes(), scale_bytes(), block, head));
  }

 private:
  // Of the pieces of `bytes` bytes that follow `before` bytes of each block and head.
  uint8_t* part(size_t before, size_t bytes, int32_t block, int head) const {
    const auto number = static_cast<uint32_t>(block);
    return data + number / kNeighbours * stride + before * (kNeighbours * kv_heads) +
           (head * kNeighbours + number % kNeighbours) * bytes;
  }
};

}  // namespace tenfold
