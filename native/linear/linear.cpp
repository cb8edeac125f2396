// Linear kernels: 16 outputs at a time, any number of rows. The order of operations of an output depends on
// the number of inputs alone, so that a row has the same bits whatever rows are beside it.
#include "linear/linear.hpp"

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "simd/simd.hpp"

#if defined(TENFOLD_TILES)
namespace tenfold::TENFOLD_VECTORS {  // the level without tiles that has the same vectors
void linear_tile(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                 ptrdiff_t out_stride, bool accumulate);
}
#endif

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr size_t kPrefetchAhead = 8192;
constexpr int kUnpackedRows = 64;  // rows for which a tile is unpacked once,
constexpr int kUnpackedFrom = 24;  // and from how many on

constexpr float kShift = 12582912.0f;  // kShiftBits, read as a float

// Of the inputs that share a scale, a part of a group (or all of it): a weight is s * code + m. shift = -kShift * s,
// which is exact, for s has at most 19 bits.
struct PartScales {
  Vec s, shift, m;
};

// Fetches what follows a place in memory, evenly over a number of turns: a core has few buffers for lines on their
// way, and a burst of prefetches waits for them.
class Ahead {
 public:
  Ahead() : at_(nullptr), lines_(0) {}  // nothing
  Ahead(const uint8_t* place, size_t bytes, int turns)
      : at_(place + kPrefetchAhead), lines_(static_cast<int>((bytes / 64 + turns - 1) / turns)) {}
  inline void fetch() {
    for (int i = 0; i < lines_; ++i, at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  const uint8_t* at_;
  int lines_;
};

// A tile's codes and scales, group by group.
template <int BITS, int GROUP, Scales KIND>
struct PackedTile {
  static constexpr int kBits = BITS, kParts = kGroup / GROUP;
  static constexpr bool kBytes = BITS == 8;  // codes lie a byte each
  static_assert(BITS != 5 || kParts == 1, "fifth bits lie by whole groups");
  static constexpr bool kAffine = KIND == Scales::affine || KIND == Scales::super_affine;
  static constexpr bool kCentred = BITS == 8 && KIND == Scales::half;  // sums of products have no zero point
  static constexpr bool kSuperBlock = KIND == Scales::super || KIND == Scales::super_affine;
  static constexpr size_t kCodeBytes = 64 * BITS;  // of a group
  const uint8_t *scales, *codes;
  float zero_point;
  int group = 0;
  Vec d = zero(), dmin = zero();

  PackedTile(const Packed& w, const uint8_t* tile)
      : scales(tile),
        codes(tile + w.code_offset),
        zero_point(kAffine ? 0.0f : -static_cast<float>(1 << w.zero_shift)) {}

  // Those of the next group.
  inline void next_scales(PartScales* out) {
    if constexpr (kSuperBlock)
      if (group++ % (kSuper / kGroup) == 0) {
        d = load_f16(reinterpret_cast<const uint16_t*>(scales));
        scales += 32;
        if constexpr (kAffine) {
          dmin = sub(zero(), load_f16(reinterpret_cast<const uint16_t*>(scales)));
          scales += 32;
        }
      }
    for (int part = 0; part < kParts; ++part) {
      out[part].s = read(d);
      out[part].shift = mul(out[part].s, set1(-kShift));
      out[part].m = kAffine ? read(dmin) : mul(out[part].s, set1(zero_point));
    }
  }

 private:
  inline Vec read(Vec unit) {
    const uint8_t* p = scales;
    scales += kSuperBlock ? 16 : 32;
    if constexpr (kSuperBlock) return mul(unit, load_i8(reinterpret_cast<const int8_t*>(p)));
    return load_f16(reinterpret_cast<const uint16_t*>(p));
  }
};

// Groups of a tile that lie unpacked in the first-level cache while many rows pass.
template <typename Tile>
struct UnpackedSpan {
  static constexpr int kMost = 24;  // groups
  const uint8_t* codes;             // a byte each: 512 bytes per group
  PartScales scales[kMost * Tile::kParts];
  alignas(64) uint8_t buffer[Tile::kBytes ? 64 : kMost * 512];

  void take(Tile& tile, int groups) {
    codes = Tile::kBytes ? tile.codes : buffer;
    for (int g = 0; g < groups; ++g, tile.codes += Tile::kCodeBytes) {
      if constexpr (!Tile::kBytes) unpack_codes<Tile::kBits>(tile.codes, buffer + 512 * g);
      tile.next_scales(scales + g * Tile::kParts);
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

// sum[r] += rows r of `acts`, which lie in one panel, times GROUPS groups of a tile, whose codes are packed or a byte
// each; `scales` gives those of all parts. Exactly, dot = kShift + the sum of codes times codes (kCentred: less their zero
// point); then for each part in turn, with activations x = scale * code, in float32:
//   sum = fma(s * (dot - kShift), scale, sum), the product s * … with one rounding
//   sum = fma(m, scale * (the sum of the activations' codes), sum), but not if kCentred
template <bool PACKED, int GROUPS, int ROWS, typename Tile, typename F>
[[gnu::always_inline]] inline void add_groups(const uint8_t* codes, const ActGroup* acts, int row, Vec* sum,
                                              const F& scales) {
  constexpr int kAll = GROUPS * Tile::kParts, kQuads = 8 / Tile::kParts;
  constexpr bool kPacked = PACKED && !Tile::kBytes;
  constexpr int kPartBytes = kPacked ? static_cast<int>(Tile::kCodeBytes) / Tile::kParts : kQuads * 64;
  const ptrdiff_t lane = row % kPanel;
  const int8_t* a[kAll];
  const uint8_t* c[kAll];
  IVec dot[kAll][ROWS];
#pragma GCC unroll 2
  for (int p = 0; p < kAll; ++p) {
    a[p] = acts[p / Tile::kParts].codes[lane] + p % Tile::kParts * 16;
    c[p] = codes + p * kPartBytes;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r)
      dot[p][r] = iset1(Tile::kCentred ? acts[p / Tile::kParts].rows[lane + r].start : kShiftBits);
  }
  dot_codes<Tile::kBits, PACKED, kQuads, ROWS, kAll>(c, a, dot);
  const PartScales* parts = scales();
#pragma GCC unroll 2
  for (int p = 0; p < kAll; ++p) {
    const ActGroup& group = *anew(acts + p / Tile::kParts);
    const ActGroup::Row* x = group.rows + lane;
    const ActGroup::Sums* sums = group.sums + lane;
    const Vec s = parts[p].s, shift = parts[p].shift, m = parts[p].m;
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      sum[r] = fma(fma(s, as_float(dot[p][r]), shift), set1(x[r].scale), sum[r]);
      if constexpr (!Tile::kCentred)
        sum[r] = fma(m, set1(Tile::kParts == 1 ? sums[r].all : sums[r].parts[p % Tile::kParts]), sum[r]);
    }
  }
}

// Groups at a time: as many as give enough chains of dot products to hide their latency.
template <typename Tile, int ROWS>
constexpr int kTurn = ROWS <= kRowBlock && kDotParts > Tile::kParts ? kDotParts / Tile::kParts : 1;

// f(groups, first group), `groups` a constant.
template <typename Tile, int ROWS, typename F>
inline void in_turns(int groups, const F& f) {
  constexpr int kMany = kTurn<Tile, ROWS>;
  int g = 0;
  for (; g + kMany <= groups; g += kMany) f(std::integral_constant<int, kMany>(), g);
  if constexpr (kMany > 1)
    for (; g < groups; ++g) f(std::integral_constant<int, 1>(), g);
}

// Whether a pass may take so many rows. Of many rows a pass more costs little, and each number is code of its own.
template <bool PACKED>
constexpr bool passes(int rows) {
  return PACKED || rows <= 4 || rows == 6 || rows == 8 || rows == 12;
}

// Calls f(number of rows, first) for passes over rows … of which each lies in one panel; the number is a constant.
// Where groups have one part, a pass may take more rows than otherwise.
template <bool PACKED, typename Tile, typename F>
inline void in_passes(int rows, const F& f) {
  constexpr int kMost = Tile::kParts == 1 ? kMostRows : kRowBlock;
  for (int r = 0, many; r < rows; r += many) {
    const int left = rows - r < kPanel - r % kPanel ? rows - r : kPanel - r % kPanel;
    many = left <= kMost ? left : kRowBlock;
    while (!passes<PACKED>(many)) --many;
    const auto pass = [&]<int ROWS>(std::integral_constant<int, ROWS> constant) {
      if constexpr (ROWS <= kMost && passes<PACKED>(ROWS)) f(constant, r);
    };
    switch (many) {
      case 1: pass(std::integral_constant<int, 1>()); break;
      case 2: pass(std::integral_constant<int, 2>()); break;
      case 3: pass(std::integral_constant<int, 3>()); break;
      case 4: pass(std::integral_constant<int, 4>()); break;
      case 5: pass(std::integral_constant<int, 5>()); break;
      case 6: pass(std::integral_constant<int, 6>()); break;
      case 7: pass(std::integral_constant<int, 7>()); break;
      case 8: pass(std::integral_constant<int, 8>()); break;
      case 9: pass(std::integral_constant<int, 9>()); break;
      case 10: pass(std::integral_constant<int, 10>()); break;
      case 11: pass(std::integral_constant<int, 11>()); break;
      case 12: pass(std::integral_constant<int, 12>()); break;
    }
  }
}

// The turns of all passes.
template <bool PACKED, typename Tile>
int turns_of(int rows, int groups) {
  int turns = 0;
  in_passes<PACKED, Tile>(rows, [&]<int ROWS>(std::integral_constant<int, ROWS>, int) {
    turns += (groups + kTurn<Tile, ROWS> - 1) / kTurn<Tile, ROWS>;
  });
  return turns;
}

// A few rows: each pass reads the tile as it is packed. `ahead` has turns_of() them.
template <typename Tile>
void packed_rows(const Packed& w, const uint8_t* data, const Acts& x, int row, int rows, float* out,
                 ptrdiff_t out_stride, int columns, bool accumulate, Ahead ahead) {
  in_passes<true, Tile>(rows, [&]<int ROWS>(std::integral_constant<int, ROWS>, int r) {
    Vec sum[ROWS];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) sum[i] = zero();
    Tile tile(w, data);
    const ActGroup* acts = x.panel_as<ActGroup>(row + r);
    in_turns<Tile, ROWS>(w.cols / kGroup, [&]<int GROUPS>(std::integral_constant<int, GROUPS>, int g) {
      ahead.fetch();
      PartScales scales[GROUPS * Tile::kParts];
      add_groups<true, GROUPS, ROWS, Tile>(tile.codes, acts + g, row + r, sum, [&] {
        for (int i = 0; i < GROUPS; ++i) tile.next_scales(scales + i * Tile::kParts);
        return scales;
      });
      tile.codes += GROUPS * Tile::kCodeBytes;
    });
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) put(out + (r + i) * out_stride, sum[i], columns, accumulate);
  });
}

// Many rows, at most kUnpackedRows: the tile is unpacked once for all.
template <typename Tile>
void unpacked_rows(const Packed& w, const uint8_t* data, const Acts& x, int row, int rows, float* out,
                   ptrdiff_t out_stride, int columns, bool accumulate) {
  UnpackedSpan<Tile> span;
  alignas(64) float sums[kUnpackedRows][kTile];
  const int groups = w.cols / kGroup;
  Tile tile(w, data);
  for (int from = 0, many; from < groups; from += many) {
    many = groups - from < span.kMost ? groups - from : span.kMost;
    span.take(tile, many);
    Ahead ahead(data + w.tile_bytes / groups * from, w.tile_bytes / groups * many, turns_of<false, Tile>(rows, many));
    in_passes<false, Tile>(rows, [&]<int ROWS>(std::integral_constant<int, ROWS>, int r) {
      const ActGroup* acts = x.panel_as<ActGroup>(row + r) + from;
      Vec sum[ROWS];
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) sum[i] = from == 0 ? zero() : load(sums[r + i]);
      in_turns<Tile, ROWS>(many, [&]<int GROUPS>(std::integral_constant<int, GROUPS>, int g) {
        ahead.fetch();
        add_groups<false, GROUPS, ROWS, Tile>(span.codes + 512 * g, acts + g, row + r, sum,
                                              [&] { return span.scales + g * Tile::kParts; });
      });
      const bool last = from + many == groups;
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        if (last) {
          put(out + (r + i) * out_stride, sum[i], columns, accumulate);
        } else {
          store(sums[r + i], sum[i]);
        }
      }
    });
  }
}

#if defined(TENFOLD_TILES)
#include "linear/column.hpp"
#include "linear/lookup.hpp"
#include "linear/digits.hpp"
#include "linear/grouped.hpp"
#endif

#if defined(TENFOLD_TILES)
// What tiles do not serve is the same by vectors in the level without them: it is not built once more.
template <typename Tile>
void quantized(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
               ptrdiff_t out_stride, bool accumulate) {
  const auto run = [&](auto kernel) { kernel(w, tile, tiles, x, row, rows, out, out_stride, accumulate); };
  if (!w.grouped) {
    if constexpr (Tile::kBytes)
      if (!w.fine) return run(digit_tiles<Tile, false>);
    return run(digit_tiles<Tile, true>);  // others have been settled
  }
  if constexpr (Tile::kCentred)
    if (by_grouped_tiles(w, rows) && row % kPanel == 0) return run(grouped_tiles<Tile>);
  run(TENFOLD_VECTORS::linear_tile);
}
#else
template <typename Tile>
void quantized(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
               ptrdiff_t out_stride, bool accumulate) {
  for (int t = tile; t < tile + tiles; ++t, out += kTile) {
    const uint8_t* data = w.data + t * w.tile_bytes;
    const int columns = w.rows - t * kTile < kTile ? w.rows - t * kTile : kTile;
    int r = 0;
    for (; rows - r >= kUnpackedFrom; r += kUnpackedRows)
      unpacked_rows<Tile>(w, data, x, row + r, rows - r < kUnpackedRows ? rows - r : kUnpackedRows,
                          out + r * out_stride, out_stride, columns, accumulate);
    if (r < rows)
      packed_rows<Tile>(w, data, x, row + r, rows - r, out + r * out_stride, out_stride, columns, accumulate,
                        Ahead(data, w.tile_bytes, turns_of<true, Tile>(rows - r, w.cols / kGroup)));
  }
}

#include "linear/dense.hpp"
#endif

#if defined(TENFOLD_TILES)
template <int BITS>
void looked_up(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
               bool accumulate) {
  const auto run = [&](auto kernel) { kernel(w, tile, tiles, x, row, rows, out, out_stride, accumulate); };
  w.group == kGroup ? run(looked_tiles<BITS, 1>) : run(looked_tiles<BITS, 2>);
}
#endif

// f.template operator()<Tile>() for the tile of a quantized matrix.
template <typename F>
void with_tile(const Packed& w, const F& f) {
  const bool four = w.bits == 4, five = w.bits == 5;
  switch (w.scales) {
    case Scales::half:
      if (five) return f.template operator()<PackedTile<5, 32, Scales::half>>();
      return four ? f.template operator()<PackedTile<4, 32, Scales::half>>() : f.template operator()<PackedTile<8, 32, Scales::half>>();
    case Scales::affine:
      if (five) return f.template operator()<PackedTile<5, 32, Scales::affine>>();
      return four ? f.template operator()<PackedTile<4, 32, Scales::affine>>() : f.template operator()<PackedTile<8, 32, Scales::affine>>();
    case Scales::super:
      return four ? f.template operator()<PackedTile<4, 16, Scales::super>>() : f.template operator()<PackedTile<8, 16, Scales::super>>();
    case Scales::super_affine:
      if (w.group == 16) return f.template operator()<PackedTile<4, 16, Scales::super_affine>>();
      return four ? f.template operator()<PackedTile<4, 32, Scales::super_affine>>()
                  : f.template operator()<PackedTile<5, 32, Scales::super_affine>>();
  }
}

}  // namespace

void linear_tile(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                 ptrdiff_t out_stride, bool accumulate) {
  const auto run = [&](auto kernel) { kernel(w, tile, tiles, x, row, rows, out, out_stride, accumulate); };
#if defined(TENFOLD_TILES)
  if (w.dense != Dense::none) return run(TENFOLD_VECTORS::linear_tile);
  if (w.looked) return w.bits == 4 ? run(looked_up<4>) : run(looked_up<5>);
#else
  switch (w.dense) {
    case Dense::f32: return run(dense<float>);
    case Dense::f16: return run(dense<F16>);
    case Dense::bf16: return run(dense<Bf16>);
    case Dense::none: break;
  }
#endif
  with_tile(w, [&]<typename Tile>() { run(quantized<Tile>); });
}

#if defined(TENFOLD_TILES)
size_t settled_bytes(const Packed& w) {
  if (w.dense != Dense::none || w.bits > 5 || w.fine || w.grouped) return 0;
  return kLookedUnits + static_cast<size_t>(w.cols / kGroup) * looked_group(w.bits, kGroup / w.group);
}

void settle(const Packed& w, uint8_t* tile, uint8_t* room) {
  with_tile(w, [&]<typename Tile>() {
    if constexpr (!Tile::kBytes) make_looked<Tile>(w, tile, room);
  });
}
#else
size_t settled_bytes(const Packed&) { return 0; }
void settle(const Packed&, uint8_t*, uint8_t*) {}
#endif

int dense_tiles() { return kDenseTiles; }

const char* linear_arithmetic(const Packed& w, [[maybe_unused]] int rows) {
  if (w.dense != Dense::none) return "f32";
#if defined(TENFOLD_TILES)
  if (w.grouped ? by_grouped_tiles(w, rows) : rows >= kDigitRows) return "amx-int8";
#endif
  return "int8";
}

int linear_rows(const Packed& w, int rows) {
#if defined(TENFOLD_TILES)
  if (w.dense == Dense::none && !w.grouped && rows >= kDigitRows) return rows < kDigitChunk ? rows : kDigitChunk;
  if (w.dense == Dense::none && w.grouped && by_grouped_tiles(w, rows)) return rows;
#endif
  if (w.dense == Dense::none && rows >= kUnpackedFrom) return rows < kUnpackedRows ? rows : kUnpackedRows;
  if (w.dense == Dense::none) {
    const int most = w.group == kGroup ? kMostRows : kRowBlock;  // see in_passes()
    return rows <= most ? rows : kRowBlock;
  }
  if (rows >= kRowBlock) return kRowBlock;
  return kDenseTiles > 1 && rows > 1 ? 2 : 1;
}

}  // namespace tenfold::TENFOLD_LEVEL
