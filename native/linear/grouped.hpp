// Grouped matrices of bytes on the tile unit: sums of products of codes, which are whole numbers, by the unit; the float
// step of each group by vectors, in add_groups()'s order: the same bits. Included inside a level's namespace by linear.cpp.
//
// The unit multiplies 64 inputs at a time, or 32 in as long: half of what it could do, and yet less time than vectors take
// for sums of products. What binds are tiles' loads and stores, and those 48 float operations for a group of 16 rows.

constexpr int kGroupedRows = 12;  // fewer rows than these go faster by vectors
constexpr int kSumsAhead = 2;     // groups whose sums are on their way through memory

inline bool by_grouped_tiles(const Packed& w, int rows) {
  return w.bits == 8 && w.scales == Scales::half && rows >= kGroupedRows;
}

// As tiles_of(), but for 32 inputs of the activations 4 and of the weights 6; 7: a weight of -128 for each of them.
constexpr TileConfig grouped_config(int rows) {
  TileConfig config = tiles_of(rows);
  config.bytes[4] = kGroup;
  config.rows[6] = config.rows[7] = kGroup / 4;
  return config;
}

// One tile of weights times a panel. Of lanes that no row is in, whatever lies there is summed, too.
template <typename Tile>
inline void grouped_panel(Tile tile, const ActGroup* acts, int groups, Vec* sum, Ahead& ahead) {
  constexpr int kRing = 4;
  static_assert(kSumsAhead < kRing);
  alignas(64) int32_t dots[kRing][kPanel][kTile];
  const uint8_t* codes = tile.codes;
  const auto multiply = [&](int g) __attribute__((always_inline)) {
    tile_zero<0>();
    tile_load<4>(acts[g].codes, kGroup);
    tile_load<6>(codes + g * Tile::kCodeBytes, 64);
    tile_dot_bytes<0, 4, 6>();
    tile_dot_signed<0, 4, 7>();
    tile_store<0>(dots[g % kRing], 64);
    // From the second cache: what comes after is fetched that far by `ahead`.
    for (int i = 0; i < 8; ++i) __builtin_prefetch(codes + (g + 3) * Tile::kCodeBytes + 64 * i, 0, 3);
  };
  for (int g = 0; g < kSumsAhead && g < groups; ++g) multiply(g);
  for (int g = 0; g < groups; ++g) {
    ahead.fetch();
    if (g + kSumsAhead < groups) multiply(g + kSumsAhead);
    PartScales scales[1];
    tile.next_scales(scales);
    const Vec s = add(scales[0].s, sub(scales[0].s, scales[0].s));  // one that is infinite becomes NaN, as by vectors
    const ActGroup::Row* x = acts[g].rows;
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r)
      sum[r] = fma(mul(s, to_float(iload(dots[g % kRing][r]))), set1(x[r].scale), sum[r]);
  }
}

template <typename Tile>
void grouped_tiles(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                   ptrdiff_t out_stride, bool accumulate) {
  alignas(64) static constexpr auto kLess = [] {
    std::array<int8_t, kTile * kGroup> all{};
    for (int8_t& one : all) one = -128;
    return all;
  }();
  const int groups = w.cols / kGroup;
  tiles_ready(grouped_config(std::min(rows, kPanel)));
  tile_load<7>(kLess.data(), 64);
  for (int t = tile; t < tile + tiles; ++t, out += kTile) {
    const uint8_t* data = w.data + t * w.tile_bytes;
    const int columns = w.rows - t * kTile < kTile ? w.rows - t * kTile : kTile;
    Ahead ahead(data, w.tile_bytes, (rows + kPanel - kGroupedRows) / kPanel * groups);
    for (int r = 0; r < rows; r += kPanel) {
      if (rows - r < kGroupedRows) {
        packed_rows<Tile>(w, data, x, row + r, rows - r, out + r * out_stride, out_stride, columns, accumulate,
                          Ahead());
        break;
      }
      Vec sum[kPanel];
#pragma GCC unroll 16
      for (int i = 0; i < kPanel; ++i) sum[i] = zero();
      grouped_panel(Tile(w, data), x.panel_as<ActGroup>(row + r), groups, sum, ahead);
#pragma GCC unroll 16
      for (int i = 0; i < kPanel; ++i)
        if (r + i < rows) put(out + (r + i) * out_stride, sum[i], columns, accumulate);
    }
  }
}
