// Quantized linears in whole numbers, for levels with a tile unit: what costs time there is the float step per group
// that linear.cpp's sums need, so nothing here has one. Included inside a level's namespace by linear.cpp.
//
// A row of activations is a scale times 16-bit numbers, as two signed bytes each: x = scale * (256 high + low). An
// output's weights are a unit times whole numbers, made on the fly of codes and scales, to the nearest 1/127 of the
// largest that its scales allow; those of `fine` matrices as two bytes, to 1/256 of that where codes have eight bits, to
// a tenth or less with fewer, whose rounded scale counts. Sums of products are exact, so that any order gives the same
// bits, and so do vectors, tiles and their emulation.

constexpr int kUnitBytes = 1024;  // 64 inputs of a tile, a byte each, as the tile unit takes them: [16][16 outputs][4]
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

  static constexpr bool kFine = FINE;

  Vec unit() const { return unit_; }

  const uint8_t* codes() const { return tile_.codes; }

  // Of the next group's parts, for a lookup; its codes are passed over.
  void next_words(WordScales* out) {
    PartScales parts[Tile::kParts];
    tile_.next_scales(parts);
    for (int p = 0; p < Tile::kParts; ++p) out[p] = words(parts[p]);
    tile_.codes += Tile::kCodeBytes;
  }

  // The next group's as the tile unit takes them, 512 bytes; of a second plane, `plane` bytes further.
  [[gnu::always_inline]] inline void store_next(uint8_t* to, size_t plane) {
    next([&](int run, int p, Bytes bytes) __attribute__((always_inline)) { store_bytes(to + p * plane + 64 * run, bytes); });
  }

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
      unpack(i, first, second);
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

  [[gnu::always_inline]] inline void unpack(int i, Words* first, Words* second) const {
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

// A row's value of them; `lane` of `panel` is the row.
template <bool FINE>
[[gnu::always_inline]] inline Vec value_of(const IVec* sums, const DigitRows& panel, int lane, Vec unit) {
  const Vec h = to_float(iadd(sums[0], iset1(panel.high[lane]))), l = to_float(iadd(sums[1], iset1(panel.low[lane])));
  Vec all = fma(h, set1(256.0f), l);
  if constexpr (FINE) all = fma(all, set1(256.0f), to_float(sums[2]));
  return mul(mul(all, unit), set1(panel.scale[lane]));
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
    put(out + r * out_stride, value_of<FINE>(all, rows, lane + r, column.unit()), columns, accumulate);
  }
}
