// Quantized linears on AMX tiles, for weights with a scale per 32 inputs. Integer sums are exact and the float steps
// follow in the order of quantized_rows(), so that both give the same bits and either may take any rows.
// Included inside a level's namespace by linear.cpp.

constexpr int kSpan = 64;        // groups whose codes lie unpacked in the first-level cache, for all panels of a chunk
constexpr int kTiledRows = 8;   // fewer rows than these go faster without
constexpr int kTiledChunk = 64;  // rows for which codes are unpacked once

template <int BITS, Scales KIND>
class TiledColumn {
 public:
  TiledColumn(const Packed& w, const uint8_t* tile) : w_(w), tile_(tile), reader_{tile, zero(), zero()} {}

  // Rows row … row + rows - 1, at most kTiledChunk; `row` begins a panel.
  void run(const Acts& x, int row, int rows, float* out, ptrdiff_t out_stride, int columns, bool accumulate) {
    const int groups = w_.cols / kGroup, panels = (rows + kPanel - 1) / kPanel;
    for (int from = 0; from < groups; from += kSpan) {
      const int to = from + kSpan < groups ? from + kSpan : groups;
      const uint8_t* codes = unpack(from, to);
      const Reader start = reader_;
      for (int p = 0; p < panels; ++p) {
        reader_ = start;
        panel(x.panel(row) + p * x.groups, codes, from, to, sums_[p]);
      }
    }
    for (int r = 0; r < rows; ++r) put(out + r * out_stride, load(sums_[r / kPanel][r % kPanel]), columns, accumulate);
  }

 private:
  using Reader = ScaleReader<kGroup, KIND>;
  static constexpr size_t kCodeBytes = 64 * BITS;

  // Codes of groups from … to - 1 as the tile unit takes them: 512 bytes per group.
  const uint8_t* unpack(int from, int to) {
    const uint8_t* p = tile_ + w_.code_offset + from * kCodeBytes;
    const uint8_t* ahead = tile_ + kPrefetchAhead + from * (w_.tile_bytes / (w_.cols / kGroup));
    const size_t step = w_.tile_bytes / (w_.cols / kGroup);
    if constexpr (BITS == 8) {
      for (int g = from; g < to; ++g, ahead += step)
        for (size_t line = 0; line < kCodeBytes; line += 64) __builtin_prefetch(ahead + line, 0, 2);
      return p;
    } else {
      for (int g = from; g < to; ++g, p += kCodeBytes, ahead += step) {
        for (size_t line = 0; line < kCodeBytes + 64; line += 64) __builtin_prefetch(ahead + line, 0, 2);
        Codes<BITS> codes;
        codes.load(p);
        for (int i = 0; i < 8; ++i) store_bytes(unpacked_ + (g - from) * 512 + 64 * i, codes.q[i]);
      }
      return unpacked_;
    }
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
      add_group(acts[g], g, dots[0], sum);
      if (g + 1 == to) break;
      if (g + 2 < to) multiply(std::integral_constant<int, 0>(), g + 2);
      add_group(acts[g + 1], g + 1, dots[1], sum);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) store(sums[r], sum[r]);
  }

  void add_group(const ActGroup& group, int g, const int32_t (*dots)[kTile], Vec* sum) {
    GroupScales scales;
    reader_.next(g, scales);
    int32_t start[kPanel];
    if constexpr (!Reader::kAffine)
      for (int r = 0; r < kPanel; ++r)
        start[r] = static_cast<int32_t>(static_cast<uint32_t>(group.half[r / 8].minus[r % 8]) << w_.zero_shift);
#pragma GCC unroll 16
    for (int r = 0; r < kPanel; ++r) {
      const ActGroup::Half& half = group.half[r / 8];
      IVec dot = iload(dots[r]);
      if constexpr (!Reader::kAffine) dot = iadd(dot, iset1(start[r]));
      sum[r] = fma(to_float(dot), mul(scales.s[0], set1(half.scale[r % 8])), sum[r]);
      if constexpr (Reader::kAffine) sum[r] = fma(scales.m[0], set1(half.sum[r % 8]), sum[r]);
    }
  }

  const Packed& w_;
  const uint8_t* tile_;
  Reader reader_;
  alignas(64) float sums_[kTiledChunk / kPanel][kPanel][kTile];
  alignas(64) uint8_t unpacked_[BITS == 4 ? kSpan * 512 : 64];
};
