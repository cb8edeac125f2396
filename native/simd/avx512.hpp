// Sixteen float lanes in one AVX-512 register. Included inside a level's namespace by simd.hpp.
constexpr int kRowBlock = 8;     // rows of activations per pass of the linear kernels
constexpr int kMostRows = 12;    // and at most, in one that takes one part of their inputs at a time
constexpr int kDotParts = 2;     // parts of their inputs whose products take turns
constexpr int kDenseTiles = 4;   // column tiles in flight when few rows hide no latency
constexpr int kPairQueries = 6;  // queries per pass over bf16 keys and values
constexpr int kQuadQueries = 3;  // the same for 8-bit ones
constexpr int kPairsTogether = 2;  // vectors of K or V that a loaded pair of a query serves
constexpr int kValueBlock = 4;   // head-dim vectors per pass over V
constexpr int kKeyGroups = 4;    // groups of 16 keys per pass over K

using Vec = __m512;
using IVec = __m512i;
using Bytes = __m512i;  // 64 code bytes

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec set1(float x) { return _mm512_set1_ps(x); }
inline IVec iset1(int32_t x) { return _mm512_set1_epi32(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
inline Vec load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
inline void store_n(float* p, Vec x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
inline IVec iadd(IVec a, IVec b) { return _mm512_add_epi32(a, b); }
inline Vec load_bf16(const uint16_t* p) {
  const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}
inline Vec load_f16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load_i8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
// Within an eighth of 1 / x, for positive x of less than 2^125.
inline Vec rough_inverse(Vec x) {
  return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_set1_epi32(kInverseBits), _mm512_castps_si512(x)));
}
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec vmax(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec vmin(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec vabs(Vec a) { return _mm512_abs_ps(a); }
// The larger magnitude; a NaN is larger than all.
inline Vec vpeak(Vec a, Vec b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(vabs(a)), _mm512_castps_si512(vabs(b))));
}
inline Vec select_below(Vec x, Vec limit, Vec then, Vec otherwise) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), otherwise, then);
}
// Lanes low … high - 1 of x, `other` elsewhere.
inline Vec keep_lanes(Vec x, int low, int high, Vec other) {
  const uint32_t upto = high >= 16 ? 0xffffu : (high <= 0 ? 0u : (1u << high) - 1u);
  const uint32_t below = low >= 16 ? 0xffffu : (low <= 0 ? 0u : (1u << low) - 1u);
  return _mm512_mask_blend_ps(static_cast<__mmask16>(upto & ~below), other, x);
}
inline IVec to_int(Vec x) { return _mm512_cvtps_epi32(x); }
inline Vec to_float(IVec x) { return _mm512_cvtepi32_ps(x); }
inline Vec as_float(IVec x) { return _mm512_castsi512_ps(x); }
inline Vec power_of_two(IVec n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
inline int32_t reduce_add(IVec x) { return _mm512_reduce_add_epi32(x); }
inline IVec shift_left(IVec x, int n) { return _mm512_sll_epi32(x, _mm_cvtsi32_si128(n)); }

inline IVec shift_right(IVec x, int n) { return _mm512_srl_epi32(x, _mm_cvtsi32_si128(n)); }
inline bool any_above(Vec x, Vec limit) { return _mm512_cmp_ps_mask(x, limit, _CMP_GT_OQ) != 0; }
// x times two to the integer in the low bits of `shifted`.
inline Vec add_exponent(Vec x, Vec shifted) {
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(x), _mm512_slli_epi32(_mm512_castps_si512(shifted), 23)));
}

#if defined(__AVX512BF16__)
inline void store_bf16(void* p, Vec x) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
}
#else
// The nearest bf16 values, ties to even; a NaN stays one.
inline Vec round_bf16(Vec x) {
  const __m512i bits = _mm512_castps_si512(x), top = _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), even);
  const __m512i number = _mm512_mask_or_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits,
                                              _mm512_set1_epi32(0x400000));
  return _mm512_castsi512_ps(_mm512_and_si512(number, top));
}
inline void store_bf16(void* p, Vec x) {
  const __m512i top = _mm512_srli_epi32(_mm512_castps_si512(round_bf16(x)), 16);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(top));
}
inline void load_pairs(const uint16_t* p, Vec& even, Vec& odd) {
  const __m512i pairs = _mm512_loadu_si512(p);
  even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
  odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int32_t>(0xffff0000u))));
}
#endif

inline Bytes load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(uint8_t* p, Bytes x) { _mm512_storeu_si512(p, x); }
inline IVec iload(const int32_t* p) { return _mm512_loadu_si512(p); }
inline Bytes set_quad(uint32_t x) { return _mm512_set1_epi32(static_cast<int32_t>(x)); }
// sum + products of four unsigned bytes of a with four signed ones of b, exactly.
inline IVec dot_quads(IVec sum, Bytes a, Bytes b) {
  __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));  // g++ copies sums around the intrinsic
  return sum;
}
// The same with one quad in memory for all lanes, which g++ would load into a register first.
inline IVec dot_quad(IVec sum, Bytes a, const int8_t* quad) {
  __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(*reinterpret_cast<const char(*)[4]>(quad)));
  return sum;
}
// The codes of 32 values times `by`, and the sums of the first and of the second 16.
inline void store_codes(int8_t* p, Vec a, Vec b, Vec by, int32_t& first, int32_t& second) {
  const __m128i low = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(a, by)));
  const __m128i high = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(b, by)));
  const __m256i codes = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), codes);
  __m256i sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), codes);
  sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0x4e));
  sums = _mm256_add_epi32(sums, _mm256_shuffle_epi32(sums, 0xb1));
  first = _mm256_cvtsi256_si32(sums);
  second = _mm_cvtsi128_si32(_mm256_extracti128_si256(sums, 1));
}
inline void store_low_bytes(uint8_t* p, IVec x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x));
}

// 64 codes below 2^16 as their high and their low bytes.
inline void split_codes(const IVec* codes, uint8_t* high, uint8_t* low) {
  // Packing takes turns between four parts of each register; this puts them in order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i bytes = _mm512_set1_epi16(255);
  const __m512i a = _mm512_packus_epi32(codes[0], codes[1]), b = _mm512_packus_epi32(codes[2], codes[3]);
  const __m512i top = _mm512_packus_epi16(_mm512_srli_epi16(a, 8), _mm512_srli_epi16(b, 8));
  const __m512i bottom = _mm512_packus_epi16(_mm512_and_si512(a, bytes), _mm512_and_si512(b, bytes));
  _mm512_storeu_si512(high, _mm512_permutexvar_epi32(order, top));
  _mm512_storeu_si512(low, _mm512_permutexvar_epi32(order, bottom));
}

// All levels add (and compare) lanes i and i + 8, then + 4, + 2, + 1.
inline float reduce_add(Vec x) {
  const __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_add_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
inline float reduce_max(Vec x) {
  const __m256 y = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_max_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_shuffle_ps(z, z, 1)));
}
// Of magnitudes, likewise.
inline float reduce_peak(Vec x) { return __builtin_bit_cast(float, _mm512_reduce_max_epi32(_mm512_castps_si512(x))); }

// Of a group's packed codes, BITS (4 or 5) bits each, runs 2i and 2i + 1, a byte each.
template <int BITS>
inline void unpack_runs(const uint8_t* group, int i, Bytes& first, Bytes& second) {
  const Bytes low = _mm512_set1_epi8(15), x = load_bytes(group + 64 * i);
  first = _mm512_and_si512(x, low);
  second = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
  if constexpr (BITS == 5) {
    uint64_t fifth[2];
    __builtin_memcpy(fifth, group + 256 + 16 * i, sizeof fifth);
    const Bytes sixteen = _mm512_set1_epi8(16);
    first = _mm512_mask_add_epi8(first, fifth[0], first, sixteen);
    second = _mm512_mask_add_epi8(second, fifth[1], second, sixteen);
  }
}
// A group's packed codes, to a byte each.
template <int BITS>
inline void unpack_codes(const uint8_t* group, uint8_t* to) {
  for (int i = 0; i < 4; ++i) {
    Bytes first, second;
    unpack_runs<BITS>(group, i, first, second);
    store_bytes(to + 128 * i, first);
    store_bytes(to + 128 * i + 64, second);
  }
}
// dot[part][row] += codes times activations, exactly, over QUADS quads of each part; rows' activations are 32 bytes
// apart. Codes have BITS bits; below 8 they lie packed, or in a byte each.
template <int BITS, bool PACKED, int QUADS, int ROWS, int PARTS>
[[gnu::always_inline]] inline void dot_codes(const uint8_t* const* codes, const int8_t* const* acts, IVec (*dot)[ROWS]) {
  if constexpr (PACKED && BITS < 8) {
#pragma GCC unroll 4
    for (int i = 0; i < QUADS / 2; ++i)
#pragma GCC unroll 2
      for (int p = 0; p < PARTS; ++p) {
        Bytes first, second;
        unpack_runs<BITS>(codes[p], i, first, second);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) dot[p][r] = dot_quad(dot[p][r], first, acts[p] + 32 * r + 8 * i);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) dot[p][r] = dot_quad(dot[p][r], second, acts[p] + 32 * r + 8 * i + 4);
      }
  } else {
#pragma GCC unroll 8
    for (int i = 0; i < QUADS; ++i)
#pragma GCC unroll 2
      for (int p = 0; p < PARTS; ++p) {
        const Bytes q = load_bytes(codes[p] + 64 * i);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; ++r) dot[p][r] = dot_quad(dot[p][r], q, acts[p] + 32 * r + 4 * i);
      }
  }
}
