// Linears with weights as floats: one chain of float32 multiply-adds over the inputs of an output. Included inside a
// level's namespace by linear.cpp.

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
