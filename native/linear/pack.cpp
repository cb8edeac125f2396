#include "linear/pack.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "linear/blocks.hpp"
#include "simd/half.hpp"

namespace tenfold {
namespace {

bool affine(const Packed& w) { return w.scales == Scales::affine || w.scales == Scales::super_affine; }
bool super(const Packed& w) { return w.scales == Scales::super || w.scales == Scales::super_affine; }

size_t super_bytes(const Packed& w) {  // the scales of 256 inputs of a tile
  const size_t groups = kSuper / w.group;
  return (affine(w) ? 2 : 1) * (2 * kTile + kTile * groups);
}

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

void lay_out(Packed& w) {
  if (w.dense != Dense::none) {
    w.tile_bytes = static_cast<size_t>(w.cols) * kTile * (w.dense == Dense::f32 ? 4 : 2);
    return;
  }
  const size_t groups = w.cols / kGroup;
  const size_t scales = super(w) ? super_bytes(w) * (w.cols / kSuper) : groups * 2 * kTile * (affine(w) ? 2 : 1);
  w.code_offset = round_up(scales, 64);
  w.tile_bytes = std::max(w.tile_bytes, w.code_offset + groups * w.group_bytes());
}

// Of the quad of input k of a 5-bit group: 8 bytes, two outputs in each.
template <typename Byte>
Byte* fifth_bits(Byte* group, int k) {
  return group + 4 * 64 + 8 * (k / 4);
}

void put_codes(const Packed& w, uint8_t* tile, int lane, int first, int count, const uint8_t* codes) {
  uint8_t* group = tile + w.code_offset + first / kGroup * w.group_bytes() + 4 * lane;
  for (int k = 0; k < count; k += kGroup, codes += kGroup, group += w.group_bytes()) {
    if (w.bits == 8) {
      for (int i = 0; i < 8; ++i) std::memcpy(group + 64 * i, codes + 4 * i, 4);
      continue;
    }
    for (int i = 0; i < 4; ++i) {
      uint32_t low, high;
      std::memcpy(&low, codes + 8 * i, 4);
      std::memcpy(&high, codes + 8 * i + 4, 4);
      low = (low & 0x0f0f0f0f) | (high & 0x0f0f0f0f) << 4;
      std::memcpy(group + 64 * i, &low, 4);
    }
    if (w.bits == 5)
      for (int i = 0; i < kGroup; ++i)
        fifth_bits(group - 4 * lane, i)[lane / 2] |=
            static_cast<uint8_t>((codes[i] >> 4) << (lane % 2 * 4 + i % 4));
  }
}

void put_scales(const Packed& w, uint8_t* tile, int lane, int block, const Block& b) {
  const auto half = [&](uint8_t* at, uint16_t value) { std::memcpy(at + 2 * lane, &value, 2); };
  if (!super(w)) {
    uint8_t* at = tile + static_cast<size_t>(block) * 2 * kTile * (affine(w) ? 2 : 1);
    half(at, b.d);
    if (affine(w)) half(at + 2 * kTile, b.min);
    return;
  }
  uint8_t* at = tile + static_cast<size_t>(block) * super_bytes(w);
  half(at, b.d);
  at += 2 * kTile;
  if (affine(w)) {
    half(at, b.min);
    at += 2 * kTile;
  }
  for (int g = 0; g < kSuper / w.group; ++g) {
    at[lane] = static_cast<uint8_t>(b.scales[g]);
    at += kTile;
    if (affine(w)) {
      at[lane] = static_cast<uint8_t>(b.mins[g]);
      at += kTile;
    }
  }
}

void pack_tile(const Packed& w, const Encoding& encoding, const uint8_t* data, int64_t row_bytes, int t,
               uint8_t* tile) {
  Block block{};
  for (int lane = 0; lane < kTile && t * kTile + lane < w.rows; ++lane) {
    const uint8_t* from = data + (static_cast<int64_t>(t) * kTile + lane) * row_bytes;
    for (int b = 0; b < w.cols / encoding.elements; ++b, from += encoding.bytes) {
      encoding.unpack(from, block);
      put_codes(w, tile, lane, b * encoding.elements, encoding.elements, block.codes);
      put_scales(w, tile, lane, b, block);
    }
  }
}

template <typename T>
void pack_dense(const Packed& w, const uint8_t* data, int64_t row_bytes, int t, uint8_t* tile) {
  for (int lane = 0; lane < kTile && t * kTile + lane < w.rows; ++lane) {
    const uint8_t* from = data + (static_cast<int64_t>(t) * kTile + lane) * row_bytes;
    for (int k = 0; k < w.cols; ++k)
      std::memcpy(tile + (static_cast<size_t>(k) * kTile + lane) * sizeof(T), from + k * sizeof(T), sizeof(T));
  }
}

int code_at(const Packed& w, const uint8_t* tile, int lane, int k) {
  const uint8_t* group = tile + w.code_offset + static_cast<size_t>(k / kGroup) * w.group_bytes();
  const int i = k % kGroup;
  if (w.bits == 8) return group[64 * (i / 4) + 4 * lane + i % 4];
  const int low = group[64 * (i / 8) + 4 * lane + i % 4] >> (i % 8 / 4 * 4) & 15;
  if (w.bits == 4) return low;
  return low | (fifth_bits(group, i)[lane / 2] >> (lane % 2 * 4 + i % 4) & 1) << 4;
}

// s and m of w = s * code + m for the group of input k.
void scales_at(const Packed& w, const uint8_t* tile, int lane, int k, float& s, float& m) {
  const auto half = [&](const uint8_t* at) {
    uint16_t value;
    std::memcpy(&value, at + 2 * lane, 2);
    return f16_to_float(value);
  };
  const int step = affine(w) ? 2 : 1;
  m = 0.0f;
  if (!super(w)) {
    const uint8_t* at = tile + static_cast<size_t>(k / kGroup) * 2 * kTile * step;
    s = half(at);
    if (affine(w)) m = half(at + 2 * kTile);
  } else {
    const uint8_t* at = tile + static_cast<size_t>(k / kSuper) * super_bytes(w);
    const uint8_t* small = at + 2 * kTile * step + k % kSuper / w.group * kTile * step + lane;
    s = half(at) * static_cast<float>(static_cast<int8_t>(small[0]));
    if (affine(w)) m = -(half(at + 2 * kTile) * static_cast<float>(static_cast<int8_t>(small[kTile])));
  }
}

}  // namespace

Packed stored_form(const std::string& kind, int64_t rows, int64_t cols, int64_t row_bytes) {
  constexpr int64_t kLimit = int64_t{1} << 28;
  if (rows < 1 || cols < 1 || rows > kLimit || cols > kLimit)
    throw std::invalid_argument("a matrix of " + std::to_string(rows) + " x " + std::to_string(cols));
  Packed w;
  w.rows = static_cast<int>(rows);
  w.cols = static_cast<int>(cols);
  const Encoding* encoding = find_encoding(kind);
  int64_t expected;
  if (encoding != nullptr) {
    if (cols % encoding->elements != 0)
      throw std::invalid_argument(std::to_string(cols) + " columns are not whole blocks of " + kind);
    expected = cols / encoding->elements * encoding->bytes;
    w.bits = encoding->bits;
    w.group = encoding->group;
    w.scales = encoding->scales;
    w.zero_shift = encoding->zero_shift;
    w.most = encoding->most;
    // What the kernels of bytes rely on (kCentred).
    if (w.bits == 8 && w.scales == Scales::half && w.zero_shift != 7) throw std::logic_error(kind + ": zero point");
  } else {
    w.dense = kind == "F32" ? Dense::f32 : kind == "F16" ? Dense::f16 : kind == "BF16" ? Dense::bf16 : Dense::none;
    if (w.dense == Dense::none) throw std::invalid_argument("no packing for tensors of kind " + kind);
    expected = cols * (w.dense == Dense::f32 ? 4 : 2);
  }
  if (row_bytes != expected)
    throw std::invalid_argument(kind + " rows of " + std::to_string(cols) + " columns take " +
                                std::to_string(expected) + " bytes, not " + std::to_string(row_bytes));
  return w;
}

Matrix empty_matrix(const Packed& form, Arena& arena) {
  Matrix matrix;
  Packed& w = matrix.view;
  w = form;
  lay_out(w);
  matrix.memory = arena.take(w.tile_bytes * static_cast<size_t>(w.tiles()));
  w.data = matrix.memory.data();
  return matrix;
}

Matrix pack(const Packed& form, const std::string& kind, const uint8_t* data, int64_t row_bytes, Pool& pool, Arena& arena) {
  Matrix matrix = empty_matrix(form, arena);
  const Packed& w = matrix.view;
  const Encoding* encoding = find_encoding(kind);
  constexpr int kBatch = 8;
  pool.run((w.tiles() + kBatch - 1) / kBatch, [&](int item, int) {
    for (int t = item * kBatch; t < (item + 1) * kBatch && t < w.tiles(); ++t) {
      uint8_t* tile = matrix.memory.data() + static_cast<size_t>(t) * w.tile_bytes;
      if (encoding != nullptr) {
        pack_tile(w, *encoding, data, row_bytes, t, tile);
      } else if (w.dense == Dense::f32) {
        pack_dense<float>(w, data, row_bytes, t, tile);
      } else {
        pack_dense<uint16_t>(w, data, row_bytes, t, tile);
      }
    }
  });
  return matrix;
}

std::vector<std::string> encoding_names() {
  std::vector<std::string> names = {"F32", "F16", "BF16"};
  for (const Encoding& encoding : encodings()) names.emplace_back(encoding.name);
  return names;
}

void decode_row(const Packed& w, int row, float* out) {
  const uint8_t* tile = w.data + static_cast<size_t>(row / kTile) * w.tile_bytes;
  const int lane = row % kTile;
  if (w.dense == Dense::f32) {
    for (int k = 0; k < w.cols; ++k) out[k] = reinterpret_cast<const float*>(tile)[static_cast<size_t>(k) * kTile + lane];
  } else if (w.dense != Dense::none) {
    for (int k = 0; k < w.cols; ++k) {
      const uint16_t value = reinterpret_cast<const uint16_t*>(tile)[static_cast<size_t>(k) * kTile + lane];
      out[k] = w.dense == Dense::f16 ? f16_to_float(value) : bf16_to_float(value);
    }
  } else {
    const int zero = w.zero_shift < 0 ? 0 : 1 << w.zero_shift;
    for (int g = 0; g < w.cols; g += w.group) {
      float s, m;
      scales_at(w, tile, lane, g, s, m);
      for (int k = g; k < g + w.group; ++k) {
        const float product = s * static_cast<float>(code_at(w, tile, lane, k) - zero);
        out[k] = product + m;
      }
    }
  }
}

}  // namespace tenfold
