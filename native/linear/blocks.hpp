// GGUF's quantized blocks, taken apart into codes and scales. Layouts: ggml's documentation of the format
// (block_q4_0 … block_q6_K).
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "linear/format.hpp"

namespace tenfold {

// One block: w = s * (code - zero) or s * code - m; see format.hpp for s and m of each kind of scales.
struct Block {
  uint8_t codes[kSuper];
  uint16_t d, min;  // float16: s, or d of super blocks; m of affine ones (w = s * code + m), or dmin
  int8_t scales[16], mins[16];
};

struct Encoding {
  const char* name;
  int elements, bytes;  // of a block
  int bits, group;
  Scales scales;
  int zero_shift, most;  // the largest code
  void (*unpack)(const uint8_t* from, Block& to);
};

// The values of a block, `elements` floats.
void block_values(const Encoding& encoding, const Block& block, float* values);

std::span<const Encoding> encodings();

// Null where `name` is not a quantized encoding.
const Encoding* find_encoding(const std::string& name);

}  // namespace tenfold
