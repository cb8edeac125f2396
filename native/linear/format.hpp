// How packed weights lie in memory.
//
// A matrix [rows = outputs, cols = inputs] is cut into tiles of 16 outputs. Quantized: a tile is its scales,
// then its codes; for each 32 inputs the codes are 8 (8-bit) or 4 (4-bit) runs of 64 bytes, in which each
// output has 4 adjacent bytes: 8-bit run i holds inputs 4i … 4i + 3, 4-bit run i holds inputs 8i … 8i + 3 in
// the low and 8i + 4 … 8i + 7 in the high halves. 5-bit codes are four bits as those and, behind the runs, 64
// bytes of fifth bits: bit b of the i-th 8 bytes is that of byte b of 8-bit run i. A weight is s * (code - zero)
// or s * code - m:
//   half    s per group as float16 [16]
//   affine  s and m per group as float16 [16] each (m stored with its sign turned: w = s * code + m)
//   super   per 256 inputs: d [16] (and dmin [16]) as float16, then per group int8 [16] (and int8 [16]):
//           s = d * int8, m = dmin * int8: GGUF's K-quants, exactly
// Dense: [cols][16] values per tile.
// Looked-up: what levels with a tile unit make of tiles with codes of four or five bits. A weight is a unit per output
// times the high byte, less 128, of by * code + plus (16 bits): the units as float32 [16], then for each 32 inputs `by`
// and `plus` (once more where 16 inputs have scales of their own), 16-bit [4][4] each, that of output 4i + j at [j][i];
// the codes, 4 runs of 64 bytes, run j with 16 bytes of each output 4i + j in turn, of which byte b holds inputs b and
// 16 + b in its halves; and 64 bytes of fifth bits: bit 16i + b of 64 for run j, inputs 0 … 15, then 16 … 31.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

constexpr int kTile = 16;    // outputs per tile
constexpr int kGroup = 32;   // inputs that share a scale of the activations
constexpr int kSuper = 256;  // inputs of a K-quant block

// Sums of products of codes start from these bits and stay below 2^22 in size, so that, read as a float32, one is
// 1.5 x 2^23 plus the sum, exactly: no conversion is needed.
constexpr int32_t kShiftBits = 0x4b400000;

enum class Scales : uint8_t { half, affine, super, super_affine };
enum class Dense : uint8_t { none, f32, f16, bf16 };

// What is asked of a matrix besides its weights; see Packed.
struct Use {
  bool fine = false, grouped = false;
};

struct Packed {
  const uint8_t* data = nullptr;
  int rows = 0, cols = 0;
  Dense dense = Dense::none;
  int bits = 0;    // of a code: 4, 5 or 8
  int group = 0;   // inputs per weight scale: 32 or 16
  Scales scales = Scales::half;
  int zero_shift = -1;  // the zero point is 1 << zero_shift; -1: none. Of 8 bits with `half` scales it is 128
  int most = 0;         // the largest code
  bool fine = false;    // kernels that make whole numbers of weights keep 16 bits of each
  bool looked = false;  // in the looked-up form
  bool grouped = false;  // takes ActGroups, also where the level's kernels want others' rows whole
  size_t code_offset = 0, tile_bytes = 0;

  size_t group_bytes() const { return static_cast<size_t>(kTile) * kGroup * bits / 8; }  // the codes of 32 inputs
  int tiles() const { return (rows + kTile - 1) / kTile; }
};

constexpr size_t kLookedUnits = sizeof(float) * kTile;
// Bytes of a group in the looked-up form.
constexpr size_t looked_group(int bits, int parts) {
  return static_cast<size_t>(2 * sizeof(uint16_t) * kTile * parts + kTile * kGroup * bits / 8);
}

constexpr int kPanel = 16;  // rows of activations that lie side by side

// 32 inputs of 16 rows of quantized activations: x = scale * code. Eight rows share no cache line with the
// other eight, so that two threads may fill a panel; a pass of the kernels over a panel is one stream.
struct alignas(64) ActGroup {
  struct Row {
    float scale;
    int32_t start;  // of a sum of products with codes that are 128 too large: kShiftBits, less what is too much
  };
  struct alignas(16) Sums {
    float all, parts[2];  // scale * sum of the codes: of all, of the first 16, of the last 16
  };
  int8_t codes[kPanel][kGroup];
  Row rows[kPanel];
  Sums sums[kPanel];
};

// 64 inputs of 16 rows of activations in 16 bits: x = scale * (256 high + low).
struct alignas(64) DigitUnit {
  int8_t high[kPanel][64], low[kPanel][64];
};

// What 16 rows of these have in common, in front of their units: scales, and sums of the two digits of a whole row,
// times -128: bytes of weights are that much too large.
struct alignas(64) DigitRows {
  float scale[kPanel];
  int32_t high[kPanel], low[kPanel];

  const DigitUnit* units() const { return reinterpret_cast<const DigitUnit*>(this + 1); }
  DigitUnit* units() { return reinterpret_cast<DigitUnit*>(this + 1); }
};

// Rows of activations, quantized (row r is lane r % 16 of panel r / 16) and (or) in float32. A panel is ActGroups, or
// DigitRows and their units: as the level's kernels have it, and the matrix.
struct Acts {
  const uint8_t* panels = nullptr;
  size_t panel_bytes = 0;
  const float* values = nullptr;
  ptrdiff_t value_stride = 0;

  template <typename T>
  const T* panel_as(int row) const {
    return reinterpret_cast<const T*>(panels + row / kPanel * panel_bytes);
  }
};

}  // namespace tenfold
