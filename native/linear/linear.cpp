// Linear kernels: 16 outputs at a time, any number of rows. The order of operations of an output depends on
// the number of inputs alone, so that a row has the same bits whatever rows are beside it.
#include "linear/linear.hpp"

#include <type_traits>

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr size_t kPrefetchAhead = 8192;

// The weight scales (and offsets) of one group of 32 inputs, or of its two halves.
struct GroupScales {
  Vec s[2], m[2];
};

// Walks a tile's scales group by group.
template <int GROUP, Scales KIND>
struct ScaleReader {
  static constexpr bool kAffine = KIND == Scales::affine || KIND == Scales::super_affine;
  static constexpr bool kSuperBlock = KIND == Scales::super || KIND == Scales::super_affine;
  const uint8_t* p;
  Vec d, dmin;

  inline void next(int group, GroupScales& out) {
    if constexpr (!kSuperBlock) {
      out.s[0] = load_f16(reinterpret_cast<const uint16_t*>(p));
      p += 32;
      if constexpr (kAffine) {
        out.m[0] = load_f16(reinterpret_cast<const uint16_t*>(p));
        p += 32;
      }
    } else {
      if (group % (kSuper / kGroup) == 0) {
        d = load_f16(reinterpret_cast<const uint16_t*>(p));
        p += 32;
        if constexpr (kAffine) {
          dmin = sub(zero(), load_f16(reinterpret_cast<const uint16_t*>(p)));
          p += 32;
        }
      }
      for (int half = 0; half < kGroup / GROUP; ++half) {
        out.s[half] = mul(d, load_i8(reinterpret_cast<const int8_t*>(p)));
        p += 16;
        if constexpr (kAffine) {
          out.m[half] = mul(dmin, load_i8(reinterpret_cast<const int8_t*>(p)));
          p += 16;
        }
      }
    }
  }
};

inline void put(float* out, Vec sum, int columns, bool accumulate) {
  if (columns == kTile) {
    store(out, accumulate ? add(load(out), sum) : sum);
  } else {
    store_n(out, accumulate ? add(load_n(out, columns), sum) : sum, columns);
  }
}

// Rows row … row + ROWS - 1, which lie in one panel (and in one half of it, up to 8).
template <int BITS, int GROUP, Scales KIND, int ROWS>
void quantized_rows(const Packed& w, const uint8_t* tile, const Acts& x, int row, float* out,
                    ptrdiff_t out_stride, int columns, bool accumulate, bool prefetch) {
  using Reader = ScaleReader<GROUP, KIND>;
  constexpr size_t code_bytes = 64 * BITS;
  const int groups = w.cols / kGroup;
  const ActGroup* group = x.panel(row);
  const ptrdiff_t code_lane = row % kPanel * kGroup, half_lane = row % kPanel / 8, lane = row % 8;
  Vec sum[ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) sum[r] = zero();
  Reader reader{tile, zero(), zero()};
  const uint8_t* p = tile + w.code_offset;
  // The tiles that follow, scales and codes alike, arrive at the pace this one is used up.
  const uint8_t* ahead = tile + kPrefetchAhead;
  const size_t step = w.tile_bytes / groups;
  for (int g = 0; g < groups; ++g, ++group, p += code_bytes, ahead += step) {
    if (prefetch)
      for (size_t line = 0; line < code_bytes + 64; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    Codes<BITS> weights;
    weights.load(p);
    GroupScales scales;
    reader.next(g, scales);
    const int8_t* a = group->codes[0] + code_lane;
    const ActGroup::Half* half = group->half + half_lane;
    constexpr int kTurn = ROWS < kDotRows ? ROWS : kDotRows;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r += kTurn) {
      const int8_t* codes = a + r * kGroup;
      const ActGroup::Half& h = half[r / 8];
      const ptrdiff_t at = lane + r % 8;
      IVec dot[kTurn];
      if constexpr (GROUP == kGroup) {
        for (int i = 0; i < kTurn; ++i)
          dot[i] = Reader::kAffine ? iset1(0) : shift_left(iset1(h.minus[at + i]), w.zero_shift);
        weights.template dot<0, 8, kTurn>(codes, dot);
        for (int i = 0; i < kTurn; ++i) {
          sum[r + i] = fma(to_float(dot[i]), mul(scales.s[0], set1(h.scale[at + i])), sum[r + i]);
          if constexpr (Reader::kAffine) sum[r + i] = fma(scales.m[0], set1(h.sum[at + i]), sum[r + i]);
        }
      } else {
        int32_t minus[2][kTurn];
        for (int i = 0; i < kTurn; ++i) {
          minus[0][i] = h.first_minus[at + i];
          minus[1][i] = h.minus[at + i] - minus[0][i];
        }
        const auto part = [&]<int HALF>(std::integral_constant<int, HALF>) {
          for (int i = 0; i < kTurn; ++i)
            dot[i] = Reader::kAffine ? iset1(0) : shift_left(iset1(minus[HALF][i]), w.zero_shift);
          weights.template dot<4 * HALF, 4, kTurn>(codes, dot);
          for (int i = 0; i < kTurn; ++i) {
            const Vec scale = set1(h.scale[at + i]);
            sum[r + i] = fma(to_float(dot[i]), mul(scales.s[HALF], scale), sum[r + i]);
            if constexpr (Reader::kAffine)
              sum[r + i] = fma(scales.m[HALF], mul(scale, to_float(iset1(-minus[HALF][i]))), sum[r + i]);
          }
        };
        part(std::integral_constant<int, 0>());
        part(std::integral_constant<int, 1>());
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r) put(out + r * out_stride, sum[r], columns, accumulate);
}

#if defined(TENFOLD_TILES)
#include "linear/tiled.hpp"
#endif

template <int BITS, int GROUP, Scales KIND>
void quantized(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
               ptrdiff_t out_stride, bool accumulate) {
#if defined(TENFOLD_TILES)
  if (GROUP == kGroup && rows >= kTiledRows) tiles_ready();
#endif
  for (int t = tile; t < tile + tiles; ++t, out += kTile) {
    const uint8_t* data = w.data + t * w.tile_bytes;
    const int columns = w.rows - t * kTile < kTile ? w.rows - t * kTile : kTile;
    const auto pass = [&](auto kernel, int r) {
      kernel(w, data, x, row + r, out + r * out_stride, out_stride, columns, accumulate, r == 0);
    };
    int r = 0;
#if defined(TENFOLD_TILES)
    if constexpr (GROUP == kGroup)
      for (; rows - r >= kTiledRows; r += kTiledChunk)
        TiledColumn<BITS, KIND>(w, data).run(x, row + r, rows - r < kTiledChunk ? rows - r : kTiledChunk,
                                             out + r * out_stride, out_stride, columns, accumulate);
#endif
    if constexpr (kRowBlock >= 8)
      for (; r + 8 <= rows; r += 8) pass(quantized_rows<BITS, GROUP, KIND, 8>, r);
    for (; r + 4 <= rows; r += 4) pass(quantized_rows<BITS, GROUP, KIND, 4>, r);
    if (r + 2 <= rows) {
      pass(quantized_rows<BITS, GROUP, KIND, 2>, r);
      r += 2;
    }
    if (r < rows) pass(quantized_rows<BITS, GROUP, KIND, 1>, r);
  }
}

template <typename T>
inline Vec load_as(const T* p);
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};
template <>
inline Vec load_as<float>(const float* p) {
  return load(p);
}
template <>
inline Vec load_as<Bf16>(const Bf16* p) {
  return load_bf16(&p->bits);
}
template <>
inline Vec load_as<F16>(const F16* p) {
  return load_f16(&p->bits);
}

template <typename T, int ROWS, int TILES>
void dense_block(const Packed& w, int tile, const Acts& x, int row, float* out, ptrdiff_t out_stride,
                 bool accumulate) {
  const T* p[TILES];
  const float* a[ROWS];
  Vec sum[ROWS][TILES];
  for (int t = 0; t < TILES; ++t) p[t] = reinterpret_cast<const T*>(w.data + (tile + t) * w.tile_bytes);
  for (int r = 0; r < ROWS; ++r) {
    a[r] = x.values + (row + r) * x.value_stride;
    for (int t = 0; t < TILES; ++t) sum[r][t] = zero();
  }
  for (int k = 0; k < w.cols; ++k)
    for (int t = 0; t < TILES; ++t) {
      const Vec weight = load_as(p[t] + static_cast<ptrdiff_t>(k) * kTile);
      for (int r = 0; r < ROWS; ++r) sum[r][t] = fma(weight, set1(a[r][k]), sum[r][t]);
    }
  for (int t = 0; t < TILES; ++t) {
    const int left = w.rows - (tile + t) * kTile;
    for (int r = 0; r < ROWS; ++r)
      put(out + r * out_stride + t * kTile, sum[r][t], left < kTile ? left : kTile, accumulate);
  }
}

template <typename T, int TILES>
void dense_rows(const Packed& w, int tile, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
                bool accumulate) {
  int r = 0;
  const auto pass = [&](auto kernel) {
    kernel(w, tile, x, row + r, out + r * out_stride, out_stride, accumulate);
  };
  if constexpr (TILES == 1) {
    for (; r + kRowBlock <= rows; r += kRowBlock) pass(dense_block<T, kRowBlock, 1>);
  } else {
    for (; r + 2 <= rows; r += 2) pass(dense_block<T, 2, TILES>);
  }
  for (; r < rows; ++r) pass(dense_block<T, 1, TILES>);
}

template <typename T>
void dense(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
           ptrdiff_t out_stride, bool accumulate) {
  const int last = tile + tiles;
  // Few rows: the latency of the chains of multiply-adds is hidden by more tiles instead.
  if constexpr (kDenseTiles > 1)
    if (rows < kRowBlock)
      for (; tile + kDenseTiles <= last; tile += kDenseTiles, out += kDenseTiles * kTile)
        dense_rows<T, kDenseTiles>(w, tile, x, row, rows, out, out_stride, accumulate);
  for (; tile < last; ++tile, out += kTile) dense_rows<T, 1>(w, tile, x, row, rows, out, out_stride, accumulate);
}

}  // namespace

void linear_tile(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                 ptrdiff_t out_stride, bool accumulate) {
  const auto run = [&](auto kernel) { kernel(w, tile, tiles, x, row, rows, out, out_stride, accumulate); };
  switch (w.dense) {
    case Dense::f32: return run(dense<float>);
    case Dense::f16: return run(dense<F16>);
    case Dense::bf16: return run(dense<Bf16>);
    case Dense::none: break;
  }
  const bool four = w.bits == 4;
  switch (w.scales) {
    case Scales::half: return four ? run(quantized<4, 32, Scales::half>) : run(quantized<8, 32, Scales::half>);
    case Scales::affine:
      return four ? run(quantized<4, 32, Scales::affine>) : run(quantized<8, 32, Scales::affine>);
    case Scales::super:
      return four ? run(quantized<4, 16, Scales::super>) : run(quantized<8, 16, Scales::super>);
    case Scales::super_affine:
      if (w.group == 16) return run(quantized<4, 16, Scales::super_affine>);
      return four ? run(quantized<4, 32, Scales::super_affine>) : run(quantized<8, 32, Scales::super_affine>);
  }
}

int dense_tiles() { return kDenseTiles; }

const char* linear_arithmetic(const Packed& w, [[maybe_unused]] int rows) {
  if (w.dense != Dense::none) return "f32";
#if defined(TENFOLD_TILES)
  if (w.group == kGroup && rows >= kTiledRows) return "amx-int8";
#endif
  return "int8";
}

int linear_rows(const Packed& w, int rows) {
#if defined(TENFOLD_TILES)
  if (w.dense == Dense::none && w.group == kGroup && rows >= kTiledRows) return rows < kTiledChunk ? rows : kTiledChunk;
#endif
  const bool more_tiles = w.dense != Dense::none && rows < kRowBlock;  // see dense()
  const int most = !more_tiles ? kRowBlock : (kDenseTiles > 1 ? 2 : 1);
  for (int block = most; block > 1; block /= 2)
    if (rows >= block) return block;
  return 1;
}

}  // namespace tenfold::TENFOLD_LEVEL
