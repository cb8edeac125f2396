// AMX tiles: a matrix unit of eight registers of 16 rows x 64 bytes. TENFOLD_TILES is 1 for the instructions and 2 for
// the same in plain C++, with which every machine tests the kernels' logic. Included inside a level's namespace.
//
// One configuration serves all kernels, so that it is loaded once per thread:
//   0 … 3  16 x 64 bytes   sums: 16 x 16 int32 or float32
//   4, 5   16 x 64 bytes   32 bf16 of 16 rows; 16 pairs of 16 columns
//   6      16 x 32 bytes   32 int8 or 16 bf16 of 16 rows
//   7       8 x 64 bytes   8 quads or pairs of 16 columns
constexpr int kTileRows[8] = {16, 16, 16, 16, 16, 16, 16, 8};
constexpr int kTileBytes[8] = {64, 64, 64, 64, 64, 64, 32, 64};

#if TENFOLD_TILES == 1

inline void tiles_ready() {
  static thread_local bool ready = false;
  if (ready) return;
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  for (int i = 0; i < 8; ++i) {
    config.bytes[i] = static_cast<uint16_t>(kTileBytes[i]);
    config.rows[i] = static_cast<uint8_t>(kTileRows[i]);
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  ready = true;
}
template <int T>
inline void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" : : "i"(T));
}
template <int T>
inline void tile_load(const void* p, ptrdiff_t stride) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
template <int T>
inline void tile_store(void* p, ptrdiff_t stride) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(T) : "memory");
}
// SUM += A B, signed bytes times unsigned ones.
template <int SUM, int A, int B>
inline void tile_dot_bytes() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}
// SUM += (sum of the products of the even ones) + (that of the odd ones), each summed in order in float32.
template <int SUM, int A, int B>
inline void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}

#else

inline uint8_t* tile_row(int tile, int row) {
  static thread_local uint8_t tiles[8][16][64];
  return tiles[tile][row];
}
inline void tiles_ready() {}
template <int T>
inline void tile_zero() {
  for (int r = 0; r < kTileRows[T]; ++r) __builtin_memset(tile_row(T, r), 0, 64);
}
template <int T>
inline void tile_load(const void* p, ptrdiff_t stride) {
  for (int r = 0; r < kTileRows[T]; ++r)
    __builtin_memcpy(tile_row(T, r), static_cast<const uint8_t*>(p) + r * stride, kTileBytes[T]);
}
template <int T>
inline void tile_store(void* p, ptrdiff_t stride) {
  for (int r = 0; r < kTileRows[T]; ++r)
    __builtin_memcpy(static_cast<uint8_t*>(p) + r * stride, tile_row(T, r), kTileBytes[T]);
}
template <int SUM, int A, int B>
inline void tile_dot_bytes() {
  static_assert(kTileBytes[A] == 4 * kTileRows[B]);
  for (int m = 0; m < 16; ++m) {
    int32_t sums[16];
    __builtin_memcpy(sums, tile_row(SUM, m), sizeof sums);
    for (int k = 0; k < kTileRows[B]; ++k)
      for (int n = 0; n < 16; ++n)
        for (int i = 0; i < 4; ++i)
          sums[n] += static_cast<int8_t>(tile_row(A, m)[4 * k + i]) * tile_row(B, k)[4 * n + i];
    __builtin_memcpy(tile_row(SUM, m), sums, sizeof sums);
  }
}
template <int SUM, int A, int B>
inline void tile_dot_bf16() {
  static_assert(kTileBytes[A] == 4 * kTileRows[B]);
  const auto value = [](const uint8_t* p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, 2);
    return bf16_to_float(bits);
  };
  for (int m = 0; m < 16; ++m) {
    float sums[16];
    __builtin_memcpy(sums, tile_row(SUM, m), sizeof sums);
    for (int n = 0; n < 16; ++n) {
      float even = 0.0f, odd = 0.0f;
      for (int k = 0; k < kTileRows[B]; ++k) {
        even = __builtin_fmaf(value(tile_row(A, m) + 4 * k), value(tile_row(B, k) + 4 * n), even);
        odd = __builtin_fmaf(value(tile_row(A, m) + 4 * k + 2), value(tile_row(B, k) + 4 * n + 2), odd);
      }
      const float both = even + odd;
      sums[n] += both;
    }
    __builtin_memcpy(tile_row(SUM, m), sums, sizeof sums);
  }
}

#endif
