// Quantized linears on the tile unit, and which rows take it. Included inside a level's namespace by linear.cpp.

constexpr int kSpan = 9;          // units whose bytes lie in the first-level cache, for all panels of a chunk
constexpr int kDigitRows = 3;     // fewer rows than these go faster without tiles
constexpr int kDigitChunk = 256;  // rows for which bytes are made once
constexpr int kStreamed = 2;      // panels whose sums stay in the unit while bytes are made

// Up to kDigitChunk rows of one tile, or of two that share what is loaded of the activations; `row` begins a panel.
//
// Tiles 0 and 1 are sums, 4 a digit of 16 rows, 6 bytes of weights: of two columns, or of a fine one's planes, in turn. No
// more than these four: where another program runs on the same core, a product takes the longer the more registers are in
// use (benchmarks/tile_registers.cpp), as if those of both were renamed from one file. So one digit follows the other, and
// the weights' bytes are loaded twice.
template <typename Column, int COLUMNS>
class DigitTiles {
  static constexpr bool FINE = Column::kFine;
  static_assert(!FINE || COLUMNS == 1);
  static constexpr int kPlanes = FINE ? 2 : COLUMNS, kAll = FINE ? 3 : 2 * COLUMNS;

 public:
  // `width`: outputs there are of all columns.
  void run(const Packed& w, const uint8_t* data, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
           int width, bool accumulate) {
    if constexpr (!FINE && COLUMNS == 1) {
      if (rows <= kPanel) return stream<1>(w, data, x, row, rows, out, out_stride, width, accumulate);
      if (rows <= kStreamed * kPanel) return stream<kStreamed>(w, data, x, row, rows, out, out_stride, width, accumulate);
    }
    const int groups = w.cols / kGroup, units = (groups + 1) / 2;
    Columns columns = [&]<size_t... I>(std::index_sequence<I...>) {
      return Columns{Column(w, data + I * w.tile_bytes)...};
    }(std::make_index_sequence<COLUMNS>());
    for (int from = 0; from < units; from += kSpan) {
      const int to = from + kSpan < units ? from + kSpan : units;
      Ahead ahead(data + w.tile_bytes / groups * COLUMNS * 2 * from, w.tile_bytes / groups * COLUMNS * 2 * (to - from),
                  2 * (to - from));
      for (int c = 0; c < COLUMNS; ++c) {
        Column column = columns[c];  // what is stored meanwhile might else change it
        for (int g = 2 * from; g < 2 * to; ++g) {
          if (g % COLUMNS == c) ahead.fetch();
          const int half = g - 2 * from;
          fill(column, bytes_[FINE ? 0 : c][half / 2] + half % 2 * (kUnitBytes / 2), g < groups);
        }
        columns[c] = column;
      }
      // A panel's sums are read while the tile unit works on the next one: vectors wait for what it has just stored.
      const auto last = [&](int p) {
        finish(*x.panel_as<DigitRows>(row + p), sums_[p / kPanel], rows - p < kPanel ? rows - p : kPanel, columns,
               out + p * out_stride, out_stride, width, accumulate);
      };
      const auto units_of = [&](int p) { return x.panel_as<DigitRows>(row + p)->units() + from; };
      int p = 0;
      for (; p < rows; p += kPanel) {
        multiply(units_of(p), to - from, sums_[p / kPanel], from == 0);
        if (to == units && p > 0) last(p - kPanel);
      }
      if (to == units) last(p - kPanel);
    }
  }

 private:
  using Columns = std::array<Column, COLUMNS>;

  // Few panels: while the unit multiplies by one unit's bytes, vectors make those of the next.
  template <int PANELS>
  void stream(const Packed& w, const uint8_t* data, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
              int width, bool accumulate) {
    const int groups = w.cols / kGroup, units = (groups + 1) / 2;
    Columns columns = {Column(w, data)};
    Column column = columns[0];
    Ahead ahead(data, w.tile_bytes, groups);
    const auto make = [&](int u) __attribute__((always_inline)) {
      for (int half = 0; half < 2; ++half) {
        ahead.fetch();
        fill(column, bytes_[0][u % 2] + half * (kUnitBytes / 2), 2 * u + half < groups);
      }
    };
    const DigitUnit* acts[PANELS];
    for (int p = 0; p < PANELS; ++p) acts[p] = x.panel_as<DigitRows>(row + p * kPanel)->units();
    tile_zero<0>();
    tile_zero<1>();
    if constexpr (PANELS > 1) {
      tile_zero<2>();
      tile_zero<3>();
    }
    make(0);
    for (int u = 0; u < units; ++u) {
      if (u + 1 < units) make(u + 1);
      tile_load<6>(bytes_[0][u % 2], 64);
      tile_load<4>(acts[0][u].high, 64);
      tile_dot_bytes<0, 4, 6>();
      tile_load<4>(acts[0][u].low, 64);
      tile_dot_bytes<1, 4, 6>();
      if constexpr (PANELS > 1) {
        tile_load<4>(acts[1][u].high, 64);
        tile_dot_bytes<2, 4, 6>();
        tile_load<4>(acts[1][u].low, 64);
        tile_dot_bytes<3, 4, 6>();
      }
    }
    tile_store<0>(sums_[0][0], 64);
    tile_store<1>(sums_[0][1], 64);
    if constexpr (PANELS > 1) {
      tile_store<2>(sums_[1][0], 64);
      tile_store<3>(sums_[1][1], 64);
    }
    for (int p = 0; p < rows; p += kPanel)
      finish(*x.panel_as<DigitRows>(row + p), sums_[p / kPanel], rows - p < kPanel ? rows - p : kPanel, columns,
             out + p * out_stride, out_stride, width, accumulate);
  }

  // Bytes of the column's next group, half a unit; zeros beyond the last.
  static void fill(Column& column, uint8_t* to, bool there) {
    if (there) return column.store_next(to, sizeof bytes_[0]);
    for (int plane = 0; plane < (FINE ? 2 : 1); ++plane) __builtin_memset(to + plane * sizeof bytes_[0], 0, kUnitBytes / 2);
  }

  void multiply(const DigitUnit* units, int count, int32_t (*sums)[kPanel][kTile], bool first) {
    multiply_digit<0>(units, count, sums, first);
    multiply_digit<1>(units, count, sums, first);
  }

  template <int LOW>
  void multiply_digit(const DigitUnit* units, int count, int32_t (*sums)[kPanel][kTile], bool first) {
    each_plane([&]<int I>(std::integral_constant<int, I>) {
      constexpr bool kBegun = FINE && LOW == 1 && I == 0;  // by the other digit
      if (first && !kBegun) {
        tile_zero<I>();
      } else {
        tile_load<I>(sums[sum_of(LOW, I)], 64);
      }
    });
    for (int u = 0; u < count; ++u) {
      tile_load<4>(LOW == 0 ? units[u].high : units[u].low, 64);
      each_plane([&]<int I>(std::integral_constant<int, I>) {
        tile_load<6>(bytes_[I][u], 64);
        tile_dot_bytes<I, 4, 6>();
      });
    }
    each_plane([&]<int I>(std::integral_constant<int, I>) { tile_store<I>(sums[sum_of(LOW, I)], 64); });
  }

  // Which sum a digit's products with plane (or column) i belong to.
  static constexpr int sum_of(int low, int i) { return FINE ? low + i : 2 * i + low; }

  template <typename F>
  static inline void each_plane(const F& f) {
    f(std::integral_constant<int, 0>());
    if constexpr (kPlanes > 1) f(std::integral_constant<int, 1>());
  }

  void finish(const DigitRows& panel, const int32_t (*sums)[kPanel][kTile], int rows, const Columns& columns, float* out,
              ptrdiff_t out_stride, int width, bool accumulate) {
    for (int c = 0; c < COLUMNS; ++c) {
      const int left = width - c * kTile < kTile ? width - c * kTile : kTile;
      const Vec unit = columns[c].unit();
      const auto each = [&](const auto& write) __attribute__((always_inline)) {
        float* to = out + c * kTile;
        for (int r = 0; r < rows; ++r, to += out_stride) {
          IVec all[kSums<FINE>];
          for (int i = 0; i < kSums<FINE>; ++i) all[i] = iload(sums[2 * c + i][r]);
          write(to, value_of<FINE>(all, panel, r, unit));
        }
      };
      if (left == kTile && !accumulate) {
        each([](float* to, Vec x) __attribute__((always_inline)) { store(to, x); });
      } else if (left == kTile) {
        each([](float* to, Vec x) __attribute__((always_inline)) { store(to, add(load(to), x)); });
      } else {
        each([&](float* to, Vec x) { put(to, x, left, accumulate); });
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
    if constexpr (MOST > 2)
      if (many == 3) f(std::integral_constant<int, 3>(), r);
  }
}

// Rows of `tiles` tiles from `tile` on; few(rows, first, data, out, width), their number a constant, of few by vectors.
template <typename Column, int MOST, typename F>
void digits(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
            bool accumulate, const F& few) {
  const bool by_vectors = rows < kDigitRows || row % kPanel != 0;
  if (!by_vectors) tiles_ready(tiles_of(std::min(rows, kPanel)));
  for (int t = tile, many; t < tile + tiles; t += many, out += many * kTile) {
    const uint8_t* data = w.data + t * w.tile_bytes;
    const int width = w.rows - t * kTile;
    const auto by_tiles = [&]<int COLUMNS>(std::integral_constant<int, COLUMNS>) {
      DigitTiles<Column, COLUMNS> kernel;
      for (int r = 0; r < rows; r += kDigitChunk)
        kernel.run(w, data, x, row + r, rows - r < kDigitChunk ? rows - r : kDigitChunk, out + r * out_stride, out_stride,
                   width, accumulate);
    };
    many = 1;
    if (by_vectors) {
      in_few<MOST>(row, rows, [&](auto constant, int r) {
        few(constant, row + r, data, out + r * out_stride, width < kTile ? width : kTile);
      });
    } else if (Column::kFine || rows <= kStreamed * kPanel || t + 1 == tile + tiles) {
      by_tiles(std::integral_constant<int, 1>());
    } else if constexpr (!Column::kFine) {
      many = 2;
      by_tiles(std::integral_constant<int, 2>());
    }
  }
}

template <typename Tile, bool FINE>
void digit_tiles(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
                 bool accumulate) {
  digits<Column<Tile, FINE>, 3>(
      w, tile, tiles, x, row, rows, out, out_stride, accumulate,
      [&]<int ROWS>(std::integral_constant<int, ROWS>, int r, const uint8_t* data, float* to, int width) {
        digit_rows<Tile, FINE, ROWS>(w, data, x, r, to, out_stride, width, accumulate);
      });
}

template <int BITS, int PARTS>
void looked_tiles(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride,
                  bool accumulate) {
  digits<Looked<BITS, PARTS>, 2>(
      w, tile, tiles, x, row, rows, out, out_stride, accumulate,
      [&]<int ROWS>(std::integral_constant<int, ROWS>, int r, const uint8_t* data, float* to, int width) {
        looked_rows<BITS, PARTS, ROWS>(w, data, x, r, to, out_stride, width, accumulate);
      });
}
