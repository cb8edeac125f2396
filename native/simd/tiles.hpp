// AMX tiles: a matrix unit of eight registers of 16 rows x 64 bytes. TENFOLD_TILES is 1 for the instructions and 2 for
// the same in plain C++, with which every machine tests the kernels' logic. Included inside a level's namespace.
//
// Each call that uses tiles loads its configuration: another library on the same thread may have loaded its own, or
// released the tiles.
struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes[16];  // of a row
  uint8_t rows[16];
};

// Products of up to 16 rows, which take less time for fewer:
//   0 … 5  rows x 64 bytes   sums: 16 int32 or float32 of each row; 64 int8 or 32 bf16 of it
//   6, 7     16 x 64 bytes   quads of int8 or pairs of bf16, of 16 columns
constexpr TileConfig tiles_of(int rows) {
  const auto r = static_cast<uint8_t>(rows);
  return {.bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {r, r, r, r, r, r, 16, 16}};
}

#if TENFOLD_TILES == 1

inline void tiles_ready(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" : : "m"(config)); }
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
// The same of unsigned bytes times signed ones.
template <int SUM, int A, int B>
inline void tile_dot_unsigned() {
  __asm__ volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}
// The same of signed bytes, both.
template <int SUM, int A, int B>
inline void tile_dot_signed() {
  __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}
// SUM += (sum of the products of the even ones) + (that of the odd ones), each summed in order in float32.
template <int SUM, int A, int B>
inline void tile_dot_bf16() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}

#else

// One function each for all tiles: inlined into the kernels they would take the compiler minutes.
struct EmulatedTiles {
  TileConfig config;
  uint8_t tiles[8][16][64] = {};
};
inline EmulatedTiles& emulated() {
  static thread_local EmulatedTiles unit;
  return unit;
}
inline void tiles_ready(const TileConfig& config) { emulated().config = config; }

[[gnu::noinline]] inline void zero_tile(int t) {
  EmulatedTiles& unit = emulated();
  for (int r = 0; r < unit.config.rows[t]; ++r) __builtin_memset(unit.tiles[t][r], 0, 64);
}
[[gnu::noinline]] inline void load_tile(int t, const void* p, ptrdiff_t stride) {
  EmulatedTiles& unit = emulated();
  for (int r = 0; r < unit.config.rows[t]; ++r)
    __builtin_memcpy(unit.tiles[t][r], static_cast<const uint8_t*>(p) + r * stride, unit.config.bytes[t]);
}
[[gnu::noinline]] inline void store_tile(int t, void* p, ptrdiff_t stride) {
  EmulatedTiles& unit = emulated();
  for (int r = 0; r < unit.config.rows[t]; ++r)
    __builtin_memcpy(static_cast<uint8_t*>(p) + r * stride, unit.tiles[t][r], unit.config.bytes[t]);
}
template <typename Left, typename Right>
[[gnu::noinline]] void dot_of_bytes(int sum, int a, int b) {
  EmulatedTiles& unit = emulated();
  for (int m = 0; m < unit.config.rows[a]; ++m) {
    int32_t sums[16];
    __builtin_memcpy(sums, unit.tiles[sum][m], sizeof sums);
    for (int k = 0; k < unit.config.rows[b]; ++k)
      for (int n = 0; n < 16; ++n)
        for (int i = 0; i < 4; ++i)
          sums[n] += static_cast<Left>(unit.tiles[a][m][4 * k + i]) * static_cast<Right>(unit.tiles[b][k][4 * n + i]);
    __builtin_memcpy(unit.tiles[sum][m], sums, sizeof sums);
  }
}
[[gnu::noinline]] inline void dot_of_bf16(int sum, int a, int b) {
  EmulatedTiles& unit = emulated();
  const auto value = [](const uint8_t* p) {
    uint16_t bits;
    __builtin_memcpy(&bits, p, 2);
    return bf16_to_float(bits);
  };
  for (int m = 0; m < unit.config.rows[a]; ++m) {
    float sums[16];
    __builtin_memcpy(sums, unit.tiles[sum][m], sizeof sums);
    for (int n = 0; n < 16; ++n) {
      float even = 0.0f, odd = 0.0f;
      for (int k = 0; k < unit.config.rows[b]; ++k) {
        even = __builtin_fmaf(value(unit.tiles[a][m] + 4 * k), value(unit.tiles[b][k] + 4 * n), even);
        odd = __builtin_fmaf(value(unit.tiles[a][m] + 4 * k + 2), value(unit.tiles[b][k] + 4 * n + 2), odd);
      }
      const float both = even + odd;
      sums[n] += both;
    }
    __builtin_memcpy(unit.tiles[sum][m], sums, sizeof sums);
  }
}

template <int T>
inline void tile_zero() {
  zero_tile(T);
}
template <int T>
inline void tile_load(const void* p, ptrdiff_t stride) {
  load_tile(T, p, stride);
}
template <int T>
inline void tile_store(void* p, ptrdiff_t stride) {
  store_tile(T, p, stride);
}
template <int SUM, int A, int B>
inline void tile_dot_bytes() {
  dot_of_bytes<int8_t, uint8_t>(SUM, A, B);
}
template <int SUM, int A, int B>
inline void tile_dot_unsigned() {
  dot_of_bytes<uint8_t, int8_t>(SUM, A, B);
}
template <int SUM, int A, int B>
inline void tile_dot_signed() {
  dot_of_bytes<int8_t, int8_t>(SUM, A, B);
}
template <int SUM, int A, int B>
inline void tile_dot_bf16() {
  dot_of_bf16(SUM, A, B);
}

#endif

// Whether the unit multiplies as the kernels rely on: bytes exactly, bf16 nearly.
inline bool tiles_multiply() {
  alignas(64) int8_t a[16][64];
  alignas(64) uint8_t b[16][64];
  alignas(64) uint16_t x[16][32], y[16][32];
  uint32_t random = 12345;
  const auto next = [&] { return (random = random * 1664525u + 1013904223u) >> 24; };
  for (auto& row : a)
    for (int8_t& value : row) value = static_cast<int8_t>(next());
  for (auto& row : b)
    for (uint8_t& value : row) value = static_cast<uint8_t>(next());
  for (auto& row : x)
    for (uint16_t& value : row) value = static_cast<uint16_t>(0x3f80u | (next() & 0x807fu) | (next() & 1u) << 15);
  for (auto& row : y)
    for (uint16_t& value : row) value = static_cast<uint16_t>(0x3f80u | (next() & 0x807fu) | (next() & 1u) << 15);
  alignas(64) int32_t dots[3][16][16];
  alignas(64) float sums[16][16];
  tiles_ready(tiles_of(16));
  tile_zero<0>();
  tile_load<4>(a, sizeof a[0]);
  tile_load<6>(b, sizeof b[0]);
  tile_dot_bytes<0, 4, 6>();
  tile_store<0>(dots[0], sizeof dots[0][0]);
  tile_zero<0>();
  tile_dot_unsigned<0, 4, 6>();
  tile_store<0>(dots[1], sizeof dots[1][0]);
  tile_zero<0>();
  tile_dot_signed<0, 4, 6>();
  tile_store<0>(dots[2], sizeof dots[2][0]);
  tile_zero<1>();
  tile_load<5>(x, sizeof x[0]);
  tile_load<7>(y, sizeof y[0]);
  tile_dot_bf16<1, 5, 7>();
  tile_store<1>(sums, sizeof sums[0]);
  bool right = true;
  for (int m = 0; m < 16; ++m)
    for (int n = 0; n < 16; ++n) {
      int32_t dot = 0, other = 0, both = 0;
      double sum = 0.0;
      for (int k = 0; k < 64; ++k) {
        const uint8_t byte = b[k / 4][4 * n + k % 4];
        dot += a[m][k] * byte;
        other += static_cast<uint8_t>(a[m][k]) * static_cast<int8_t>(byte);
        both += a[m][k] * static_cast<int8_t>(byte);
      }
      for (int k = 0; k < 32; ++k) sum += static_cast<double>(bf16_to_float(x[m][k])) * bf16_to_float(y[k / 2][2 * n + k % 2]);
      const double error = sums[m][n] - sum;
      right = right && dots[0][m][n] == dot && dots[1][m][n] == other && dots[2][m][n] == both && error < 1e-3 && error > -1e-3;
    }
  return right;
}
