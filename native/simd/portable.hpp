// Sixteen float lanes in plain C++, for any CPU. Included inside a level's namespace by simd.hpp.
constexpr int kRowBlock = 4;
constexpr int kMostRows = 4;
constexpr int kDotParts = 1;
constexpr int kDenseTiles = 1;
constexpr int kPairQueries = 3;
constexpr int kQuadQueries = 1;
constexpr int kPairsTogether = 1;
constexpr int kValueBlock = 1;
constexpr int kKeyGroups = 1;

struct Vec {
  float v[16];
};
struct IVec {
  int32_t v[16];
};

// One correctly rounded multiply-add, so that this level gives the bits of the others. Without the
// instruction: the product is exact in double; the sum is rounded to odd there, which makes the second
// rounding, to float, correct (Boldo & Melquiond, 2008).
inline float fma1(float a, float b, float c) {
#if defined(__FP_FAST_FMAF) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  const double product = static_cast<double>(a) * b, addend = c;
  double sum = product + addend;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);
  int64_t bits;
  __builtin_memcpy(&bits, &sum, 8);
  if ((error > 0.0 || error < 0.0) && !(bits & 1)) {
    bits += (error > 0.0) == (sum > 0.0) ? 1 : -1;
    __builtin_memcpy(&sum, &bits, 8);
  }
  return static_cast<float>(sum);
#endif
}

// Round to nearest, ties to even, for |x| < 2^22; the far rest only has to be defined.
inline int32_t round1(float x) {
  if (!(x > -4194304.0f && x < 4194304.0f)) return x > 0.0f ? INT32_MAX : INT32_MIN;
  const volatile float shifted = x + 12582912.0f;
  return static_cast<int32_t>(shifted - 12582912.0f);
}

template <typename F>
inline Vec each(F f) {
  Vec r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}
template <typename F>
inline IVec ieach(F f) {
  IVec r;
  for (int i = 0; i < 16; ++i) r.v[i] = f(i);
  return r;
}

inline Vec set1(float x) {
  return each([=](int) { return x; });
}
inline Vec zero() { return set1(0.0f); }
inline IVec iset1(int32_t x) {
  return ieach([=](int) { return x; });
}
inline Vec load(const float* p) {
  return each([=](int i) { return p[i]; });
}
inline void store(float* p, const Vec& x) { __builtin_memcpy(p, x.v, sizeof x.v); }
inline Vec load_n(const float* p, int n) {
  return each([=](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_n(float* p, const Vec& x, int n) {
  for (int i = 0; i < n; ++i) p[i] = x.v[i];
}
inline Vec load_bf16(const uint16_t* p) {
  return each([=](int i) { return bf16_to_float(p[i]); });
}
inline Vec load_f16(const uint16_t* p) {
  return each([=](int i) { return f16_to_float(p[i]); });
}
inline Vec load_i8(const int8_t* p) {
  return each([=](int i) { return static_cast<float>(p[i]); });
}
inline Vec add(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] + y.v[i]; });
}
inline Vec sub(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] - y.v[i]; });
}
inline Vec mul(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] * y.v[i]; });
}
inline Vec div(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] / y.v[i]; });
}
inline Vec rough_inverse(const Vec& x) {
  return each([&](int i) { return __builtin_bit_cast(float, static_cast<uint32_t>(kInverseBits) - __builtin_bit_cast(uint32_t, x.v[i])); });
}
inline Vec fma(const Vec& x, const Vec& y, const Vec& z) {
  return each([&](int i) { return fma1(x.v[i], y.v[i], z.v[i]); });
}
inline Vec vmax(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
inline Vec vmin(const Vec& x, const Vec& y) {
  return each([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
inline Vec vabs(const Vec& x) {
  return each([&](int i) { return __builtin_fabsf(x.v[i]); });
}
// The larger magnitude; a NaN is larger than all.
inline float peak1(float a, float b) {
  const uint32_t x = float_to_bits(a) & 0x7fffffffu, y = float_to_bits(b) & 0x7fffffffu;
  return bits_to_float(x > y ? x : y);
}
inline Vec vpeak(const Vec& x, const Vec& y) {
  return each([&](int i) { return peak1(x.v[i], y.v[i]); });
}
inline Vec select_below(const Vec& x, const Vec& limit, const Vec& then, const Vec& otherwise) {
  return each([&](int i) { return x.v[i] < limit.v[i] ? then.v[i] : otherwise.v[i]; });
}
inline Vec keep_lanes(const Vec& x, int low, int high, const Vec& other) {
  return each([&](int i) { return i >= low && i < high ? x.v[i] : other.v[i]; });
}
inline IVec to_int(const Vec& x) {
  return ieach([&](int i) { return round1(x.v[i]); });
}
inline Vec as_float(const IVec& x) {
  return each([&](int i) { return bits_to_float(static_cast<uint32_t>(x.v[i])); });
}
inline Vec to_float(const IVec& x) {
  return each([&](int i) { return static_cast<float>(x.v[i]); });
}
inline Vec power_of_two(const IVec& n) {
  return each([&](int i) {
    const uint32_t bits = static_cast<uint32_t>(n.v[i] + 127) << 23;
    float f;
    __builtin_memcpy(&f, &bits, 4);
    return f;
  });
}
inline void store_i8(int8_t* p, const IVec& x) {
  for (int i = 0; i < 16; ++i) {
    const int32_t v = x.v[i];
    p[i] = static_cast<int8_t>(v < -128 ? -128 : (v > 127 ? 127 : v));
  }
}
inline int32_t reduce_add(const IVec& x) {
  uint32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += static_cast<uint32_t>(x.v[i]);
  return static_cast<int32_t>(sum);
}
inline IVec shift_left(const IVec& x, int n) {
  return ieach([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) << n); });
}
template <typename F>
inline float fold(Vec x, F f) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) x.v[i] = f(x.v[i], x.v[i + width]);
  return x.v[0];
}
inline float reduce_add(const Vec& x) {
  return fold(x, [](float a, float b) { return a + b; });
}
inline float reduce_max(const Vec& x) {
  return fold(x, [](float a, float b) { return a > b ? a : b; });
}
// Of magnitudes, likewise.
inline float reduce_peak(const Vec& x) { return fold(x, peak1); }

inline IVec iadd(const IVec& x, const IVec& y) {
  return ieach([&](int i) {
    return static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) + static_cast<uint32_t>(y.v[i]));  // wraps
  });
}
inline IVec shift_right(const IVec& x, int n) {
  return ieach([&](int i) { return static_cast<int32_t>(static_cast<uint32_t>(x.v[i]) >> n); });
}
inline bool any_above(const Vec& x, const Vec& limit) {
  bool any = false;
  for (int i = 0; i < 16; ++i) any |= x.v[i] > limit.v[i];
  return any;
}
inline Vec add_exponent(const Vec& x, const Vec& shifted) {
  return each([&](int i) { return bits_to_float(float_to_bits(x.v[i]) + (float_to_bits(shifted.v[i]) << 23)); });
}

inline void load_pairs(const uint16_t* p, Vec& even, Vec& odd) {
  uint32_t pairs[16];
  __builtin_memcpy(pairs, p, sizeof pairs);
  even = each([&](int i) { return bits_to_float(pairs[i] << 16); });
  odd = each([&](int i) { return bits_to_float(pairs[i] & 0xffff0000u); });
}
inline Vec round_bf16(const Vec& x) {
  return each([&](int i) { return bits_to_float(static_cast<uint32_t>(float_to_bf16(x.v[i])) << 16); });
}
inline void store_bf16(void* p, const Vec& x) {
  uint16_t rounded[16];
  for (int i = 0; i < 16; ++i) rounded[i] = float_to_bf16(x.v[i]);
  __builtin_memcpy(p, rounded, sizeof rounded);
}
struct Bytes {
  uint8_t v[64];
};
inline Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  __builtin_memcpy(r.v, p, sizeof r.v);
  return r;
}
inline Bytes set_quad(uint32_t x) {
  Bytes r;
  for (int i = 0; i < 16; ++i) __builtin_memcpy(r.v + 4 * i, &x, 4);
  return r;
}
inline IVec dot_quads(const IVec& sum, const Bytes& a, const Bytes& b) {
  IVec r = sum;
  for (int i = 0; i < 64; ++i) r.v[i / 4] += a.v[i] * static_cast<int8_t>(b.v[i]);
  return r;
}
inline IVec dot_quad(const IVec& sum, const Bytes& a, const int8_t* quad) {
  uint32_t x;
  __builtin_memcpy(&x, quad, sizeof x);
  return dot_quads(sum, a, set_quad(x));
}
inline void store_codes(int8_t* p, const Vec& a, const Vec& b, const Vec& by, int32_t& first, int32_t& second) {
  const IVec low = to_int(mul(a, by)), high = to_int(mul(b, by));
  store_i8(p, low);
  store_i8(p + 16, high);
  first = reduce_add(low);
  second = reduce_add(high);
}
inline void store_low_bytes(uint8_t* p, const IVec& x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(x.v[i]);
}
// As in avx512.hpp.
inline void split_codes(const IVec* codes, uint8_t* high, uint8_t* low) {
  for (int g = 0; g < 4; ++g) {
    store_low_bytes(high + 16 * g, shift_right(codes[g], 8));
    store_low_bytes(low + 16 * g, codes[g]);
  }
}


// Byte j of run i of a group's packed codes, BITS (4 or 5) bits each.
template <int BITS>
inline uint8_t unpack_code(const uint8_t* group, int i, int j) {
  const int low = group[i / 2 * 64 + j] >> i % 2 * 4 & 15;
  const int fifth = BITS == 5 ? group[256 + 8 * i + j / 8] >> j % 8 & 1 : 0;
  return static_cast<uint8_t>(low | fifth << 4);
}
template <int BITS>
inline void unpack_codes(const uint8_t* group, uint8_t* to) {
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 64; ++j) to[64 * i + j] = unpack_code<BITS>(group, i, j);
}
// As in avx512.hpp.
template <int BITS, bool PACKED, int QUADS, int ROWS, int PARTS>
inline void dot_codes(const uint8_t* const* codes, const int8_t* const* acts, IVec (*dot)[ROWS]) {
  for (int p = 0; p < PARTS; ++p)
    for (int i = 0; i < QUADS; ++i) {
      uint8_t q[64];
      for (int j = 0; j < 64; ++j) {
        if constexpr (PACKED && BITS < 8) {
          q[j] = unpack_code<BITS>(codes[p], i, j);
        } else {
          q[j] = codes[p][64 * i + j];
        }
      }
      for (int r = 0; r < ROWS; ++r)
        for (int lane = 0; lane < 16; ++lane)
          for (int k = 0; k < 4; ++k) dot[p][r].v[lane] += q[4 * lane + k] * acts[p][32 * r + 4 * i + k];
    }
}
