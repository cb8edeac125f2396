// Quantized linears in whole numbers, for levels with a tile unit: what costs time there is the float step per group
// that linear.cpp's sums need, so nothing here has one. Included inside a level's namespace by linear.cpp.
//
// A row of activations is a scale times 16-bit numbers, as two signed bytes each: x = scale * (256 high + low). An
// output's weights are a unit times whole numbers, made on the fly of codes and scales, to the nearest 1/127 of the
// largest that its scales allow; those of `fine` matrices as two bytes, to 1/256 of that where codes have eight bits, to
// a tenth or less with fewer, whose rounded scale counts. Sums of products are exact, so that any order gives the same
// bits, and so do vectors, tiles and their emulation.

constexpr int kUnitBytes = 1024;  // 64 inputs of a tile, a byte each, as the tile unit takes them: [16][16 outputs][4]
constexpr int kSpan = 9;          // units whose bytes lie in the first-level cache, for all panels of a chunk
constexpr int kDigitRows = 4;     // fewer rows than these go faster without tiles
constexpr int kDigitChunk = 128;   // rows for which bytes are made once
constexpr float kTop = 126.5f;    // the largest weight, in units; with what is rounded it stays within 127

// Of a part of a tile's group: weight = (word - 32768) / 256 units, word = code * by + plus modulo 2^16. For codes of
// eight bits `by` multiplies signed ones, with 15 bits behind the point.
struct WordScales {
  Words by, plus;
};

// A tile's codes as bytes of weights, group by group. FINE: words, a byte of each in two planes.
template <typename Tile, bool FINE>
class Column {
 public:
  Column(const Packed& w, const uint8_t* data) : tile_(w, data), zero_(1 << (w.zero_shift < 0 ? 0 : w.zero_shift)) {
    const Vec most = set1(static_cast<float>(w.most));
    Tile ahead = tile_;
    Vec top = zero();
    PartScales parts[Tile::kParts];
    for (int g = 0; g < w.cols / kGroup; ++g) {
      ahead.next_scales(parts);
      for (const PartScales& part : parts) top = vpeak(top, largest(part, most));
    }
    const Vec tiny = set1(1e-30f);
    inverse_ = select_below(top, tiny, zero(), div(set1(256.0f * kTop), top));
    unit_ = select_below(top, tiny, zero(), div(top, set1(FINE ? 256.0f * kTop : kTop)));
  }

  Vec unit() const { return unit_; }

  // Of the next group: f(run, plane, bytes) for eight runs of 64 bytes [16 outputs][4 inputs].
  template <typename F>
  [[gnu::always_inline]] inline void next(const F& f) {
    PartScales parts[Tile::kParts];
    tile_.next_scales(parts);
    WordScales scales[Tile::kParts];
    for (int p = 0; p < Tile::kParts; ++p) scales[p] = words(parts[p]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const WordScales& part = scales[i * Tile::kParts / 4];
      Words first[2], second[2];  // of runs 2i and 2i + 1: the even inputs, the odd ones
      codes(i, first, second);
      give(2 * i, part, first, f);
      give(2 * i + 1, part, second, f);
    }
    tile_.codes += Tile::kCodeBytes;
  }

 private:
  // A NaN stays one: see vpeak().
  inline Vec largest(const PartScales& part, Vec most) const {
    if constexpr (Tile::kBytes) return mul(part.s, set1(static_cast<float>(zero_)));
    return vpeak(part.m, fma(part.s, most, part.m));
  }

  inline WordScales words(const PartScales& part) const {
    constexpr float kZero = FINE ? 32768.0f : 32896.0f;  // one byte is rounded to the nearest
    if constexpr (Tile::kBytes) {
      const Vec by = mul(mul(part.s, inverse_), set1(static_cast<float>(zero_)));
      return {spread(to_int(vmax(set1(-32768.0f), vmin(by, set1(32767.0f))))), spread(iset1(static_cast<int32_t>(kZero)))};
    } else {
      return {spread(to_int(mul(part.s, inverse_))), spread(to_int(fma(part.m, inverse_, set1(kZero))))};
    }
  }

  // Bits that codes of eight do not use: Q6_K's have six.
  static constexpr int kSpare = Tile::kBytes && Tile::kSuperBlock ? 2 : 0;

  [[gnu::always_inline]] inline void codes(int i, Words* first, Words* second) const {
    if constexpr (Tile::kBytes) {
      for (int run = 0; run < 2; ++run) {
        const Bytes x = subtract_bytes(load_bytes(tile_.codes + 128 * i + 64 * run), zero_);
        Words* to = run == 0 ? first : second;
        to[0] = shift_words<8 + kSpare>(x);
        to[1] = shift_words<kSpare>(upper_bytes(x));
      }
    } else if constexpr (Tile::kBits == 4) {
      nibble_words(tile_.codes, i, first, second);
    } else {
      Bytes a, b;
      code_bytes<Tile::kBits>(tile_.codes, i, a, b);
      first[0] = even_bytes(a);
      first[1] = odd_bytes(a);
      second[0] = even_bytes(b);
      second[1] = odd_bytes(b);
    }
  }

  template <typename F>
  [[gnu::always_inline]] inline void give(int run, const WordScales& part, Words* words, const F& f) const {
    for (int i = 0; i < 2; ++i)
      words[i] = add_words(Tile::kBytes ? round_high(words[i], part.by) : low_product(words[i], part.by), part.plus);
    f(run, 0, high_bytes(words[0], words[1]));
    if constexpr (FINE) f(run, 1, low_bytes(words[0], words[1]));
  }

  Tile tile_;
  int zero_;
  Vec inverse_, unit_;
};

// Sums of products of one output, by digits of activations and planes of weights: digit `low` (0: the high one) times
// plane `plane` goes to sum low + plane.
template <bool FINE>
constexpr int kSums = FINE ? 3 : 2;

// Those of one row, less the 128 by which high bytes of weights are above zero, times unit and scale.
template <bool FINE>
inline Vec value_of(const IVec* sums, int32_t high, int32_t low, float scale, Vec unit) {
  const Vec h = to_float(iadd(sums[0], iset1(-128 * high))), l = to_float(iadd(sums[1], iset1(-128 * low)));
  Vec all = fma(h, set1(256.0f), l);
  if constexpr (FINE) all = fma(all, set1(256.0f), to_float(sums[2]));
  return mul(mul(all, unit), set1(scale));
}

// A few rows, by vectors.
template <typename Tile, bool FINE, int ROWS>
void digit_rows(const Packed& w, const uint8_t* data, const Acts& x, int row, float* out, ptrdiff_t out_stride,
                int columns, bool accumulate) {
  const DigitRows& rows = *x.panel_as<DigitRows>(row);
  const int lane = row % kPanel, groups = w.cols / kGroup;
  Column<Tile, FINE> column(w, data);
  IVec sums[2][ROWS][kSums<FINE>];
#pragma GCC unroll 2
  for (int turn = 0; turn < 2; ++turn)
#pragma GCC unroll 4
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
      for (int i = 0; i < kSums<FINE>; ++i) sums[turn][r][i] = iset1(0);
  Ahead ahead(data, w.tile_bytes, groups);
  for (int g = 0; g < groups; ++g) {
    ahead.fetch();
    const DigitUnit& unit = rows.units()[g / 2];
    const int8_t *high = unit.high[lane] + g % 2 * kGroup, *low = unit.low[lane] + g % 2 * kGroup;
    column.next([&](int run, int plane, Bytes bytes) __attribute__((always_inline)) {
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        IVec* to = sums[run % 2][r] + plane;
        to[0] = dot_bytes(to[0], bytes, high + 64 * r + 4 * run);
        to[1] = dot_bytes(to[1], bytes, low + 64 * r + 4 * run);
      }
    });
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r) {
    IVec all[kSums<FINE>];
    for (int i = 0; i < kSums<FINE>; ++i) all[i] = iadd(sums[0][r][i], sums[1][r][i]);
    put(out + r * out_stride,
        value_of<FINE>(all, rows.high[lane + r], rows.low[lane + r], rows.scale[lane + r], column.unit()), columns,
        accumulate);
  }
}

// Up to kDigitChunk rows of one tile, or of two that share what is loaded of the activations; `row` begins a panel.
// Tiles 0 … 3 are sums, 4 and 5 the two digits of 16 rows, 6 and 7 bytes of weights: two columns', or a fine one's planes.
template <typename Tile, bool FINE, int COLUMNS>
class DigitTiles {
  static_assert(!FINE || COLUMNS == 1);
  static constexpr int kPlanes = FINE ? 2 : COLUMNS, kAll = FINE ? 3 : 2 * COLUMNS;

 public:
  // `width`: outputs there are of all columns.
  void run(const Packed& w, const uint8_t* data, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
           int width, bool accumulate) {
    const int groups = w.cols / kGroup, units = (groups + 1) / 2;
    Columns columns = [&]<size_t... I>(std::index_sequence<I...>) {
      return Columns{Column<Tile, FINE>(w, data + I * w.tile_bytes)...};
    }(std::make_index_sequence<COLUMNS>());
    for (int from = 0; from < units; from += kSpan) {
      const int to = from + kSpan < units ? from + kSpan : units;
      Ahead ahead(data + w.tile_bytes / groups * COLUMNS * 2 * from, w.tile_bytes / groups * COLUMNS * 2 * (to - from),
                  2 * (to - from));
      for (int c = 0; c < COLUMNS; ++c) {
        Column<Tile, FINE> column = columns[c];  // what is stored meanwhile might else change it
        for (int g = 2 * from; g < 2 * to; ++g) {
          if (g % COLUMNS == c) ahead.fetch();
          fill(column, c, g - 2 * from, g < groups);
        }
        columns[c] = column;
      }
      // A panel's sums are read while the tile unit works on the next one: vectors wait for what it has just stored.
      const auto last = [&](int p) {
        finish(*x.panel_as<DigitRows>(row + p), sums_[p / kPanel], rows - p < kPanel ? rows - p : kPanel, columns,
               out + p * out_stride, out_stride, width, accumulate);
      };
      int p = 0;
      for (; p < rows; p += kPanel) {
        multiply(x.panel_as<DigitRows>(row + p)->units() + from, to - from, sums_[p / kPanel], from == 0);
        if (to == units && p > 0) last(p - kPanel);
      }
      if (to == units) last(p - kPanel);
    }
  }

 private:
  using Columns = std::array<Column<Tile, FINE>, COLUMNS>;

  // Bytes of a group of column c, half a unit; zeros beyond the last.
  void fill(Column<Tile, FINE>& column, int c, int half, bool there) {
    uint8_t* to = bytes_[FINE ? 0 : c][half / 2] + half % 2 * (kUnitBytes / 2);
    if (!there) {
      for (int plane = 0; plane < (FINE ? 2 : 1); ++plane) __builtin_memset(to + plane * sizeof bytes_[0], 0, kUnitBytes / 2);
      return;
    }
    column.next([&](int run, int plane, Bytes bytes) __attribute__((always_inline)) {
      store_bytes(to + plane * sizeof bytes_[0] + 64 * run, bytes);
    });
  }

  template <int LOW, int PLANE>
  static inline void multiply_one() {
    tile_dot_bytes<FINE ? LOW + PLANE : 2 * PLANE + LOW, 4 + LOW, 6 + PLANE>();
  }

  void multiply(const DigitUnit* units, int count, int32_t (*sums)[kPanel][kTile], bool first) {
    if (first) {
      each_sum([&]<int I>(std::integral_constant<int, I>) { tile_zero<I>(); });
    } else {
      each_sum([&]<int I>(std::integral_constant<int, I>) { tile_load<I>(sums[I], 64); });
    }
    for (int u = 0; u < count; ++u) {
      tile_load<4>(units[u].high, 64);
      tile_load<6>(bytes_[0][u], 64);
      multiply_one<0, 0>();
      if constexpr (kPlanes > 1) {
        tile_load<7>(bytes_[1][u], 64);
        multiply_one<0, 1>();
      }
      tile_load<5>(units[u].low, 64);
      multiply_one<1, 0>();
      if constexpr (kPlanes > 1) multiply_one<1, 1>();
    }
    each_sum([&]<int I>(std::integral_constant<int, I>) { tile_store<I>(sums[I], 64); });
  }

  template <typename F>
  static inline void each_sum(const F& f) {
    f(std::integral_constant<int, 0>());
    f(std::integral_constant<int, 1>());
    if constexpr (kAll > 2) f(std::integral_constant<int, 2>());
    if constexpr (kAll > 3) f(std::integral_constant<int, 3>());
  }

  void finish(const DigitRows& panel, const int32_t (*sums)[kPanel][kTile], int rows, const Columns& columns, float* out,
              ptrdiff_t out_stride, int width, bool accumulate) {
    for (int c = 0; c < COLUMNS; ++c) {
      const int left = width - c * kTile < kTile ? width - c * kTile : kTile;
      const Vec unit = columns[c].unit();
      for (int r = 0; r < rows; ++r) {
        IVec all[kSums<FINE>];
        for (int i = 0; i < kSums<FINE>; ++i) all[i] = iload(sums[2 * c + i][r]);
        put(out + r * out_stride + c * kTile, value_of<FINE>(all, panel.high[r], panel.low[r], panel.scale[r], unit), left,
            accumulate);
      }
    }
  }

  alignas(64) uint8_t bytes_[kPlanes][kSpan][kUnitBytes];
  alignas(64) int32_t sums_[kDigitChunk / kPanel][kAll][kPanel][kTile];
};

// f(number of rows, first) for passes over up to MOST rows of one panel; the number is a constant.
template <int MOST, typename F>
inline void in_few(int row, int rows, const F& f) {
  for (int r = 0, many; r < rows; r += many) {
    const int left = kPanel - (row + r) % kPanel;
    many = std::min({MOST, left, rows - r});
    if (many == 1) f(std::integral_constant<int, 1>(), r);
    if (many == 2) f(std::integral_constant<int, 2>(), r);
    if (many == 3) f(std::integral_constant<int, 3>(), r);
  }
}

// Rows of `tiles` tiles from `tile` on.
template <typename Tile, bool FINE>
void digits(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
            bool accumulate) {
  const bool few = rows < kDigitRows || row % kPanel != 0;
  if (!few) tiles_ready(tiles_of(std::min(rows, kPanel)));
  for (int t = tile, many; t < tile + tiles; t += many, out += many * kTile) {
    const uint8_t* data = w.data + t * w.tile_bytes;
    const int width = w.rows - t * kTile;
    const auto by_tiles = [&]<int COLUMNS>(std::integral_constant<int, COLUMNS>) {
      DigitTiles<Tile, FINE, COLUMNS> kernel;
      for (int r = 0; r < rows; r += kDigitChunk)
        kernel.run(w, data, x, row + r, rows - r < kDigitChunk ? rows - r : kDigitChunk, out + r * out_stride, out_stride,
                   width, accumulate);
    };
    many = 1;
    if (few) {
      in_few<kDigitRows - 1>(row, rows, [&]<int ROWS>(std::integral_constant<int, ROWS>, int r) {
        digit_rows<Tile, FINE, ROWS>(w, data, x, row + r, out + r * out_stride, out_stride, width < kTile ? width : kTile,
                                     accumulate);
      });
    } else if constexpr (FINE) {
      by_tiles(std::integral_constant<int, 1>());
    } else if (t + 1 < tile + tiles) {
      many = 2;
      by_tiles(std::integral_constant<int, 2>());
    } else {
      by_tiles(std::integral_constant<int, 1>());
    }
  }
}
