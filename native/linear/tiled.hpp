// Quantized linears on AMX tiles, for weights with a scale per 32 inputs. Integer sums are exact and the float steps
// follow in the order of add_groups(), so that both give the same bits and either may take any rows.
// Included inside a level's namespace by linear.cpp.

constexpr int kSpan = 64;        // groups whose codes lie unpacked in the first-level cache, for all panels of a chunk
constexpr int kTiledRows = 8;   // fewer rows than these go faster without
constexpr int kTiledChunk = 64;  // rows for which codes are unpacked once

template <typename Tile>
class TiledColumn {
 public:
  TiledColumn(const Packed& w, const uint8_t* tile) : w_(w), data_(tile), tile_(w, tile) {}

  // Rows row … row + rows - 1, at most kTiledChunk; `row` begins a panel.
  void run(const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride, int columns, bool accumulate) {
    const int groups = w_.cols / kGroup, panels = (rows + kPanel - 1) / kPanel;
    for (int from = 0; from < groups; from += kSpan) {
      const int to = from + kSpan < groups ? from + kSpan : groups;
      const uint8_t* codes = unpack(from, to);
      const Tile start = tile_;
      for (int p = 0; p < panels; ++p) {
        tile_ = start;
        panel(x.panel(row) + p * x.groups, codes, from, to, sums_[p]);
      }
    }
    for (int r = 0; r < rows; ++r) put(out + r * out_stride, load(sums_[r / kPanel][r % kPanel]), columns, accumulate);
  }

 private:
  // Codes of groups from … to - 1 as the tile unit takes them: 512 bytes per group.
  const uint8_t* unpack(int from, int to) {
    const uint8_t* codes = tile_.codes;
    tile_.codes += (to - from) * Tile::kCodeBytes;
    const size_t step = w_.tile_bytes / (w_.cols / kGroup);
    Ahead ahead(data_ + step * from, step * (to - from), to - from);
    for (int g = from; g < to; ++g) {
      ahead.fetch();
      if constexpr (!Tile::kBytes)
        unpack_codes<Tile::kBits>(codes + (g - from) * Tile::kCodeBytes, unpacked_ + (g - from) * 512);
    }
    return Tile::kBytes ? codes : unpacked_;
  }

  // The tile unit runs a group ahead of the float steps.
  void panel(const ActGroup* acts, const uint8_t* codes, int from, int to, float (*sums)[kTile]) {
    alignas(64) int32_t dots[2][kPanel][kTile];
    const auto multiply = [&]<int SUM>(std::integral_constant<int, SUM>, int g) {
      tile_load<6>(acts[g].codes, kGroup);
      tile_load<7>(codes + (g - from) * 512, 64);
      tile_zero<SUM>();
      tile_dot_bytes<SUM, 6, 7>();
      tile_store<SUM>(dots[SUM], 64);
    };
    Vec sum[kPanel];
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) sum[r] = from == 0 ? zero() : load(sums[r]);
    multiply(std::integral_constant<int, 0>(), from);
    for (int g = from; g < to; g += 2) {
      if (g + 1 < to) multiply(std::integral_constant<int, 1>(), g + 1);
      add_group(acts[g], dots[0], sum);
      if (g + 1 == to) break;
      if (g + 2 < to) multiply(std::integral_constant<int, 0>(), g + 2);
      add_group(acts[g + 1], dots[1], sum);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) store(sums[r], sum[r]);
  }

  void add_group(const ActGroup& group, const int32_t (*dots)[kTile], Vec* sum) {
    PartScales scales;
    tile_.next_scales(&scales);
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) {
      const Vec dot = as_float(iadd(iload(dots[r]), iset1(kShiftBits)));
      sum[r] = fma(fma(scales.s, dot, scales.shift), set1(group.rows[r].scale), sum[r]);
      sum[r] = fma(scales.m, set1(group.rows[r].sum), sum[r]);
    }
  }

  const Packed& w_;
  const uint8_t* data_;
  Tile tile_;
  alignas(64) float sums_[kTiledChunk / kPanel][kPanel][kTile];
  alignas(64) uint8_t unpacked_[Tile::kBytes ? 64 : kSpan * 512];
};
