// Sixteen float lanes in two AVX registers. Included inside a level's namespace by simd.hpp.
constexpr int kRowBlock = 4;
constexpr int kMostRows = 4;
constexpr int kDotParts = 1;
constexpr int kDenseTiles = 2;
constexpr int kPairQueries = 3;
constexpr int kQuadQueries = 1;
constexpr int kPairsTogether = 1;
constexpr int kValueBlock = 1;
constexpr int kKeyGroups = 1;

struct Vec {
  __m256 a, b;
};
struct IVec {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline IVec iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline Vec load_n(const float* p, int n) {
  alignas(32) float buffer[16] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
inline void store_n(float* p, Vec x, int n) {
  alignas(32) float buffer[16];
  store(buffer, x);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}
inline __m256 widen_bf16(const uint16_t* p) {
  const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}
inline Vec load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline Vec load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
inline Vec load_i8(const int8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
}
inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec rough_inverse(Vec x) {
  const auto half = [](__m256 v) {
    return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_set1_epi32(kInverseBits), _mm256_castps_si256(v)));
  };
  return {half(x.a), half(x.b)};
}
inline Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline Vec vmax(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec vmin(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline Vec vabs(Vec x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
// The larger magnitude; a NaN is larger than all.
inline Vec vpeak(Vec x, Vec y) {
  x = vabs(x);
  y = vabs(y);
  return {_mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x.a), _mm256_castps_si256(y.a))),
          _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(x.b), _mm256_castps_si256(y.b)))};
}
inline Vec select_below(Vec x, Vec limit, Vec then, Vec otherwise) {
  return {_mm256_blendv_ps(otherwise.a, then.a, _mm256_cmp_ps(x.a, limit.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(otherwise.b, then.b, _mm256_cmp_ps(x.b, limit.b, _CMP_LT_OQ))};
}
inline Vec keep_lanes(Vec x, int low, int high, Vec other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i eight = _mm256_set1_epi32(8);
  const __m256i from = _mm256_set1_epi32(low - 1), to = _mm256_set1_epi32(high);
  const __m256i upper = _mm256_add_epi32(lane, eight);
  const __m256i in_a = _mm256_and_si256(_mm256_cmpgt_epi32(lane, from), _mm256_cmpgt_epi32(to, lane));
  const __m256i in_b = _mm256_and_si256(_mm256_cmpgt_epi32(upper, from), _mm256_cmpgt_epi32(to, upper));
  return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(in_a)),
          _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(in_b))};
}
inline IVec to_int(Vec x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline Vec to_float(IVec x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Vec as_float(IVec x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline Vec power_of_two(IVec n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.a, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.b, bias), 23))};
}
inline void store_i8(int8_t* p, IVec x) {
  // packs works within 128-bit halves: put the quarters back in order before narrowing further.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline int32_t reduce_add(IVec x) {
  const __m256i y = _mm256_add_epi32(x.a, x.b);
  __m128i z = _mm_add_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  z = _mm_add_epi32(z, _mm_shuffle_epi32(z, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(z, _mm_shuffle_epi32(z, 0xb1)));
}
inline IVec shift_left(IVec x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return {_mm256_sll_epi32(x.a, count), _mm256_sll_epi32(x.b, count)};
}
inline IVec iadd(IVec x, IVec y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline IVec shift_right(IVec x, int n) {
  const __m128i count = _mm_cvtsi32_si128(n);
  return {_mm256_srl_epi32(x.a, count), _mm256_srl_epi32(x.b, count)};
}
inline bool any_above(Vec x, Vec limit) {
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GT_OQ),
                                         _mm256_cmp_ps(x.b, limit.b, _CMP_GT_OQ))) != 0;
}
inline __m256 add_exponent(__m256 x, __m256 shifted) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(x), _mm256_slli_epi32(_mm256_castps_si256(shifted), 23)));
}
inline Vec add_exponent(Vec x, Vec shifted) { return {add_exponent(x.a, shifted.a), add_exponent(x.b, shifted.b)}; }

inline Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
inline void store_bytes(uint8_t* p, Bytes x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
}
inline IVec iload(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline Bytes set_quad(uint32_t x) {
  const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(x));
  return {all, all};
}
inline void load_pairs(const uint16_t* p, Vec& even, Vec& odd) {
  const Bytes pairs = load_bytes(reinterpret_cast<const uint8_t*>(p));
  const __m256i top = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  even = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pairs.b, 16))};
  odd = {_mm256_castsi256_ps(_mm256_and_si256(pairs.a, top)), _mm256_castsi256_ps(_mm256_and_si256(pairs.b, top))};
}
// The nearest bf16 values, ties to even; a NaN stays one.
inline __m256 round_bf16(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x), top = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000u));
  const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), even);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  const __m256i number = _mm256_blendv_epi8(rounded, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
  return _mm256_castsi256_ps(_mm256_and_si256(number, top));
}
inline Vec round_bf16(Vec x) { return {round_bf16(x.a), round_bf16(x.b)}; }
inline void store_bf16(void* p, Vec x) {
  const Vec rounded = round_bf16(x);
  const __m256i words = _mm256_packus_epi32(_mm256_srli_epi32(_mm256_castps_si256(rounded.a), 16),
                                            _mm256_srli_epi32(_mm256_castps_si256(rounded.b), 16));
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xd8));
}
inline __m256i dot_quads(__m256i sum, __m256i a, __m256i b) {
  const __m256i even = _mm256_set1_epi16(255);
  sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_and_si256(a, even),
                                                _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8)));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8)));
}
inline IVec dot_quads(IVec sum, Bytes a, Bytes b) { return {dot_quads(sum.a, a.a, b.a), dot_quads(sum.b, a.b, b.b)}; }
inline IVec dot_quad(const IVec& sum, const Bytes& a, const int8_t* quad) {
  uint32_t x;
  __builtin_memcpy(&x, quad, sizeof x);
  return dot_quads(sum, a, set_quad(x));
}
inline void store_codes(int8_t* p, Vec a, Vec b, Vec by, int32_t& first, int32_t& second) {
  const IVec low = to_int(mul(a, by)), high = to_int(mul(b, by));
  store_i8(p, low);
  store_i8(p + 16, high);
  first = reduce_add(low);
  second = reduce_add(high);
}
inline void store_low_bytes(uint8_t* p, IVec x) {
  const __m256i low = _mm256_set1_epi32(255);
  const __m256i words = _mm256_permute4x64_epi64(
      _mm256_packus_epi32(_mm256_and_si256(x.a, low), _mm256_and_si256(x.b, low)), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
// As in avx512.hpp.
inline void split_codes(const IVec* codes, uint8_t* high, uint8_t* low) {
  for (int g = 0; g < 4; ++g) {
    store_low_bytes(high + 16 * g, shift_right(codes[g], 8));
    store_low_bytes(low + 16 * g, codes[g]);
  }
}
inline float reduce_add(Vec x) {
  const __m256 y = _mm256_add_ps(x.a, x.b);
  __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_add_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_shuffle_ps(z, z, 1)));
}
inline float reduce_max(Vec x) {
  const __m256 y = _mm256_max_ps(x.a, x.b);
  __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
  z = _mm_max_ps(z, _mm_movehl_ps(z, z));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_shuffle_ps(z, z, 1)));
}
// Of magnitudes, likewise.
inline float reduce_peak(Vec x) {
  const __m256i y = _mm256_max_epi32(_mm256_castps_si256(x.a), _mm256_castps_si256(x.b));
  __m128i z = _mm_max_epi32(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
  z = _mm_max_epi32(z, _mm_shuffle_epi32(z, 0x4e));
  return __builtin_bit_cast(float, _mm_cvtsi128_si32(_mm_max_epi32(z, _mm_shuffle_epi32(z, 0xb1))));
}

inline Bytes and_bytes(Bytes x, Bytes y) { return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)}; }
inline Bytes high_nibbles(Bytes x) {
  const __m256i low = _mm256_set1_epi8(15);
  return and_bytes({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}, {low, low});
}
// 16 where the bit is set, of 32 bits.
inline __m256i sixteens(const uint8_t* bits) {
  uint32_t x;
  __builtin_memcpy(&x, bits, sizeof x);
  const __m256i spread = _mm256_shuffle_epi8(
      _mm256_set1_epi32(static_cast<int32_t>(x)),
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
  const __m256i each = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, each), each), _mm256_set1_epi8(16));
}
// Of a group's packed codes, BITS (4 or 5) bits each, run i, a byte each.
template <int BITS>
inline Bytes unpack_run(const uint8_t* group, int i) {
  const Bytes low = {_mm256_set1_epi8(15), _mm256_set1_epi8(15)}, x = load_bytes(group + i / 2 * 64);
  Bytes run = i % 2 == 0 ? and_bytes(x, low) : high_nibbles(x);
  if constexpr (BITS == 5) {
    const uint8_t* fifth = group + 256 + 8 * i;
    run = {_mm256_or_si256(run.a, sixteens(fifth)), _mm256_or_si256(run.b, sixteens(fifth + 4))};
  }
  return run;
}
template <int BITS>
inline void unpack_codes(const uint8_t* group, uint8_t* to) {
  for (int i = 0; i < 8; ++i) store_bytes(to + 64 * i, unpack_run<BITS>(group, i));
}
// sum + codes below 16 times activations, in 16 bits: of 8 quads, at most 8 x 2 x 15 x 128 < 2^15.
inline IVec add_nibbles(IVec sum, Bytes codes, const int8_t* quad) {
  int32_t x;
  __builtin_memcpy(&x, quad, sizeof x);
  const __m256i all = _mm256_set1_epi32(x);
  return {_mm256_add_epi16(sum.a, _mm256_maddubs_epi16(codes.a, all)),
          _mm256_add_epi16(sum.b, _mm256_maddubs_epi16(codes.b, all))};
}
inline IVec widen_add(IVec sum, IVec words, __m256i by) {
  return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(words.a, by)),
          _mm256_add_epi32(sum.b, _mm256_madd_epi16(words.b, by))};
}
// As in avx512.hpp. maddubs saturates at 16 bits, so codes go through it four bits at a time.
template <int BITS, bool PACKED, int QUADS, int ROWS, int PARTS>
inline void dot_codes(const uint8_t* const* codes, const int8_t* const* acts, IVec (*dot)[ROWS]) {
  const Bytes low = {_mm256_set1_epi8(15), _mm256_set1_epi8(15)};
  for (int p = 0; p < PARTS; ++p) {
    IVec first[ROWS], second[ROWS];
    for (int r = 0; r < ROWS; ++r) first[r] = second[r] = iset1(0);
    for (int i = 0; i < QUADS; ++i) {
      Bytes q;
      if constexpr (PACKED && BITS < 8) {
        q = unpack_run<BITS>(codes[p], i);
      } else {
        q = load_bytes(codes[p] + 64 * i);
      }
      const int8_t* x = acts[p] + 4 * i;
      if constexpr (BITS == 4) {
        for (int r = 0; r < ROWS; ++r) first[r] = add_nibbles(first[r], q, x + 32 * r);
      } else {
        const Bytes least = and_bytes(q, low), most = high_nibbles(q);
        for (int r = 0; r < ROWS; ++r) {
          first[r] = add_nibbles(first[r], least, x + 32 * r);
          second[r] = add_nibbles(second[r], most, x + 32 * r);
        }
      }
    }
    for (int r = 0; r < ROWS; ++r) {
      dot[p][r] = widen_add(dot[p][r], first[r], _mm256_set1_epi16(1));
      if constexpr (BITS > 4) dot[p][r] = widen_add(dot[p][r], second[r], _mm256_set1_epi16(16));
    }
  }
}
