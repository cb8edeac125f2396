// How keys and values lie in paged memory. A block of one KV head, in groups of 16 keys:
//   bf16  K [keys / 16][width / 2][16][2], V [keys / 2][padded][2]: pairs along the sum, as vdpbf16ps and AMX take them
//   int8  K [keys / 16][width / 4][16][4] biased by 128, V [keys / 4][padded][4]: quads, as vpdpbusd takes them,
//         and a float32 scale per key (and head) for each of K and V
// Which of a pair or quad a value is follows from its absolute position.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

enum class KvType : uint8_t { bf16, int8 };

struct KvLayer {
  uint8_t *k, *v;
  float *k_scale, *v_scale;  // [block][kv_head][slot]; null for bf16
  KvType type;
  int block_size, kv_heads, head_dim;
  int width;   // head_dim rounded up to whole pairs or quads
  int padded;  // head_dim rounded up to 16

  size_t element() const { return type == KvType::bf16 ? 2 : 1; }
  // Key slots before the block's first of this head.
  size_t slots_before(int32_t block, int head) const {
    return (static_cast<size_t>(block) * kv_heads + head) * block_size;
  }
};

}  // namespace tenfold
