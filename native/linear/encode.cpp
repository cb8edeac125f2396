#include "linear/encode.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "linear/blocks.hpp"
#include "simd/half.hpp"

namespace tenfold {
namespace {

constexpr uint32_t kMagnitude = 0x7fffffffu, kInfinite = 0x7f800000u;
constexpr uint32_t kRoundsToInfinite = 0x7f7f8000u;  // in bfloat16

Packed target(Form form, const Packed& stored) {
  Packed w;
  w.rows = stored.rows;
  w.cols = stored.cols;
  if (form == Form::bf16) {
    w.dense = Dense::bf16;
  } else {
    if (w.cols % kGroup != 0)
      throw std::invalid_argument(std::to_string(w.cols) + " columns are not whole groups of " +
                                  std::to_string(kGroup));
    w.bits = form == Form::int8 ? 8 : 4;
    w.group = kGroup;
    w.scales = form == Form::int8 ? Scales::half : Scales::affine;
    w.zero_shift = form == Form::int8 ? 7 : -1;
    w.most = form == Form::int8 ? 255 : 15;
  }
  return w;
}

// The values of one row as stored.
void read_row(const Packed& stored, const Encoding* encoding, const uint8_t* from, float* to) {
  if (encoding != nullptr) {
    Block block{};
    for (int k = 0; k < stored.cols; k += encoding->elements, from += encoding->bytes) {
      encoding->unpack(from, block);
      block_values(*encoding, block, to + k);
    }
  } else if (stored.dense == Dense::f32) {
    std::memcpy(to, from, static_cast<size_t>(stored.cols) * 4);
  } else {
    for (int k = 0; k < stored.cols; ++k) {
      uint16_t half;
      std::memcpy(&half, from + 2 * static_cast<size_t>(k), 2);
      to[k] = stored.dense == Dense::bf16 ? bf16_to_float(half) : f16_to_float(half);
    }
  }
}

// The bits of the largest magnitude: positive floats are ordered as their bits, infinities and NaNs above all.
uint32_t peak_bits(const float* values, size_t count) {
  int32_t peak = 0;
  for (size_t i = 0; i < count; ++i) peak = std::max(peak, static_cast<int32_t>(float_to_bits(values[i]) & kMagnitude));
  return static_cast<uint32_t>(peak);
}

void round_tile(const Packed& w, const float* rows, uint8_t* tile) {
  auto* to = reinterpret_cast<uint16_t*>(tile);
  for (int lane = 0; lane < kTile; ++lane) {
    const float* row = rows + static_cast<size_t>(lane) * w.cols;
    for (int k = 0; k < w.cols; ++k) to[static_cast<size_t>(k) * kTile + lane] = float_to_bf16(row[k]);
  }
}

Matrix settled(Matrix matrix, const Kernels& kernels, Pool& pool) {
  Packed& w = matrix.view;
  if (kernels.settled_bytes(w) == 0) return matrix;
  std::vector<std::vector<uint8_t>> rooms(pool.threads(), std::vector<uint8_t>(w.tile_bytes));
  const FlushSubnormals flush;
  pool.run(w.tiles(), [&](int t, int thread) {
    kernels.settle(w, matrix.memory.data() + static_cast<size_t>(t) * w.tile_bytes, rooms[thread].data());
  });
  w.looked = true;
  return matrix;
}

}  // namespace

Form form_named(const std::string& name) {
  if (name.empty()) return Form::stored;
  if (name == "bf16") return Form::bf16;
  if (name == "int8") return Form::int8;
  if (name == "int4") return Form::int4;
  throw std::invalid_argument("no form of weights " + name);
}

Matrix encode(Form form, const std::string& kind, const uint8_t* data, int64_t rows, int64_t cols, int64_t row_bytes,
              Use use, const Kernels& kernels, Pool& pool, Arena& arena) {
  const auto with_room = [&](Packed w) {
    w.fine = use.fine;
    w.grouped = use.grouped;
    w.tile_bytes = kernels.settled_bytes(w);
    return w;
  };
  const Packed stored = stored_form(kind, rows, cols, row_bytes);
  const auto as_stored = [&] {
    return settled(pack(with_room(stored), kind, data, row_bytes, pool, arena), kernels, pool);
  };
  if (form == Form::stored) return as_stored();
  const Encoding* encoding = find_encoding(kind);
  Matrix matrix = empty_matrix(with_room(target(form, stored)), arena);
  const Packed& w = matrix.view;
  const uint32_t limit = form == Form::bf16 ? kRoundsToInfinite : float_to_bits(kLargestWeight) + 1;
  std::vector<std::vector<float>> buffers(pool.threads(), std::vector<float>(static_cast<size_t>(kTile) * w.cols));
  std::vector<uint32_t> peaks(pool.threads(), 0);
  {
    const FlushSubnormals flush;
    pool.run(w.tiles(), [&](int t, int thread) {
      std::vector<float>& buffer = buffers[thread];
      const int lanes = std::min(kTile, w.rows - t * kTile);
      for (int lane = 0; lane < lanes; ++lane)
        read_row(stored, encoding, data + (static_cast<int64_t>(t) * kTile + lane) * row_bytes,
                 buffer.data() + static_cast<size_t>(lane) * w.cols);
      std::fill(buffer.begin() + static_cast<ptrdiff_t>(lanes) * w.cols, buffer.end(), 0.0f);
      const uint32_t peak = peak_bits(buffer.data(), buffer.size());
      peaks[thread] = std::max(peaks[thread], peak);
      if (peak >= limit) return;  // then none of the matrix is used
      uint8_t* tile = matrix.memory.data() + static_cast<size_t>(t) * w.tile_bytes;
      if (form == Form::bf16) {
        round_tile(w, buffer.data(), tile);
      } else {
        kernels.quantize_tile(w, buffer.data(), tile);
      }
    });
  }
  const uint32_t peak = *std::max_element(peaks.begin(), peaks.end());
  if (peak >= kInfinite) throw std::invalid_argument("holds weights that are infinite or no numbers");
  const bool faint = form != Form::bf16 && peak != 0 && peak < float_to_bits(kSmallestPeak);
  if (peak < limit && !faint) return settled(std::move(matrix), kernels, pool);
  matrix = Matrix();  // a large one is given back before as much is taken again
  return as_stored();
}

}  // namespace tenfold
