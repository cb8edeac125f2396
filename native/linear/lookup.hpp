// Bytes of weights by lookup, for matrices in the looked-up form of format.hpp: of codes of four bits an output has but
// sixteen different ones per group, so that a table of them is made, 9 operations for 4 outputs, and 128 weights cost 5
// more. Included inside a level's namespace by linear.cpp.

// PARTS: of a group that have scales of their own.
template <int BITS, int PARTS>
class Looked {
  static_assert(BITS == 4 || BITS == 5);

 public:
  static constexpr bool kFine = false;
  static constexpr size_t kBytes = looked_group(BITS, PARTS);  // of a group

  Looked(const Packed&, const uint8_t* tile) : unit_(load(reinterpret_cast<const float*>(tile))), at_(tile + kLookedUnits) {}

  Vec unit() const { return unit_; }

  // Of the next group: f(half, bytes) for the first and the last 16 inputs; part i of bytes[j] holds those of output
  // 4i + j.
  template <typename F>
  [[gnu::always_inline]] inline void next(const F& f) {
    const uint8_t *codes = at_ + 64 * PARTS, *fifth = codes + 256;
    Bytes bytes[2][4];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const Bytes x = load_bytes(codes + 64 * j), index[2] = {low_nibbles(x), high_nibbles(x)};
      Bytes low, high;
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        if (half == 0 || PARTS == 2) tables(at_ + 64 * half, j, low, high);
        bytes[half][j] = BITS == 4 ? look_up(low, index[half]) : look_up(low, high, index[half], fifth + 16 * j + 8 * half);
      }
    }
    at_ += kBytes;
    f(0, bytes[0]);
    f(1, bytes[1]);
  }

  // The same as the tile unit takes them, 512 bytes.
  [[gnu::always_inline]] inline void store_next(uint8_t* to, size_t) {
    next([&](int half, Bytes* bytes) __attribute__((always_inline)) {
      transpose_quads(bytes);
#pragma GCC unroll 4
      for (int q = 0; q < 4; ++q) store_bytes(to + 256 * half + 64 * q, bytes[q]);
    });
  }

 private:
  // Weights of codes 0 … 15 of outputs 4i + j, and of codes 16 … 31.
  static inline void tables(const uint8_t* words, int j, Bytes& low, Bytes& high) {
    alignas(16) static constexpr uint16_t kFirst[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const Words by = four_words(words + 8 * j), eight = shift_words<3>(by);
    const Words first = add_words(low_product(same_parts(kFirst), by), four_words(words + 32 + 8 * j));
    const Words second = add_words(first, eight);
    low = join_high(first, second);
    if constexpr (BITS == 5) {
      const Words third = add_words(second, eight);
      high = join_high(third, add_words(third, eight));
    }
  }

  Vec unit_;
  const uint8_t* at_;
};

// A few rows, by vectors: each lane sums a quarter of its part's inputs.
template <int BITS, int PARTS, int ROWS>
void looked_rows(const Packed& w, const uint8_t* data, const Acts& x, int row, float* out, ptrdiff_t out_stride, int columns,
                 bool accumulate) {
  const DigitRows& rows = *x.panel_as<DigitRows>(row);
  const int lane = row % kPanel, groups = w.cols / kGroup;
  Looked<BITS, PARTS> column(w, data);
  IVec sums[ROWS][2][4];
#pragma GCC unroll 2
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) sums[r][i / 4][i % 4] = iset1(0);
  Ahead ahead(data, w.tile_bytes, groups);
  for (int g = 0; g < groups; ++g) {
    ahead.fetch();
    const DigitUnit& unit = rows.units()[g / 2];
    const int8_t *high = unit.high[lane] + g % 2 * kGroup, *low = unit.low[lane] + g % 2 * kGroup;
    column.next([&](int half, const Bytes* bytes) __attribute__((always_inline)) {
#pragma GCC unroll 2
      for (int r = 0; r < ROWS; ++r) {
        const Bytes a = same_parts(high + 64 * r + 16 * half), b = same_parts(low + 64 * r + 16 * half);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          sums[r][0][j] = dot_parts(sums[r][0][j], bytes[j], a);
          sums[r][1][j] = dot_parts(sums[r][1][j], bytes[j], b);
        }
      }
    });
  }
#pragma GCC unroll 2
  for (int r = 0; r < ROWS; ++r) {
    const IVec all[2] = {sum_parts(sums[r][0]), sum_parts(sums[r][1])};
    put(out + r * out_stride, value_of<false>(all, rows, lane + r, column.unit()), columns, accumulate);
  }
}

// Brings a tile into the looked-up form, in place; `room` has as many bytes.
template <typename Tile>
void make_looked(const Packed& w, uint8_t* tile, uint8_t* room) {
  Column<Tile, false> column(w, tile);
  store(reinterpret_cast<float*>(room), column.unit());
  uint8_t* to = room + kLookedUnits;
  for (int g = 0; g < w.cols / kGroup; ++g, to += looked_group(Tile::kBits, Tile::kParts)) {
    alignas(64) uint32_t bytes[8][kTile];  // quads of inputs; of each output
    unpack_codes<Tile::kBits>(column.codes(), reinterpret_cast<uint8_t*>(bytes));
    WordScales scales[Tile::kParts];
    column.next_words(scales);
    for (int p = 0; p < Tile::kParts; ++p) {
      alignas(64) uint16_t words[2][2 * kTile];  // each twice
      store_bytes(reinterpret_cast<uint8_t*>(words[0]), scales[p].by);
      store_bytes(reinterpret_cast<uint8_t*>(words[1]), scales[p].plus);
      for (int which = 0; which < 2; ++which)
        for (int output = 0; output < kTile; ++output)
          __builtin_memcpy(to + 64 * p + 32 * which + 2 * (output % 4 * 4 + output / 4), &words[which][2 * output], 2);
    }
    uint8_t *codes = to + 64 * Tile::kParts, *fifth = codes + 256;
    for (int j = 0; j < 4; ++j)
      for (int i = 0; i < 4; ++i)
        for (int q = 0; q < 4; ++q) {
          const uint32_t low = bytes[q][4 * i + j], high = bytes[4 + q][4 * i + j];
          const uint32_t both = (low & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
          __builtin_memcpy(codes + 64 * j + 16 * i + 4 * q, &both, sizeof both);
          if constexpr (Tile::kBits == 5) {
            const auto bits = [](uint32_t x) { return (x >> 4 & 0x01010101u) * 0x10204080u >> 28; };  // one of each byte
            const auto at = [&](int half) { return fifth + 16 * j + 8 * half + 2 * i + q / 2; };
            for (int half = 0; half < 2; ++half) {
              const auto four = static_cast<uint8_t>(bits(half == 0 ? low : high) << q % 2 * 4);
              *at(half) = q % 2 == 0 ? four : static_cast<uint8_t>(*at(half) | four);
            }
          }
        }
  }
  __builtin_memcpy(tile, room, static_cast<size_t>(to - room));
}
