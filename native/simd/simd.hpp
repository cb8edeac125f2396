// The vector type of the level being compiled. TENFOLD_LEVEL (avx512bf16, avx2, portable …) names both the
// namespace and the flags of the build; every function lives in an anonymous namespace of its translation
// unit, so that the linker can never merge code of two instruction sets. All levels have 16 lanes and do the
// same float operations in the same order: they give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/half.hpp"

#if defined(TENFOLD_AVX512) || defined(TENFOLD_AVX2)
#include <immintrin.h>
#endif

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr int32_t kInverseBits = 0x7ef311c7;  // less a float's bits: those of about its inverse

#if defined(TENFOLD_AVX512)
#include "simd/avx512.hpp"
#elif defined(TENFOLD_AVX2)
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif

#if defined(TENFOLD_TILES)
#include "simd/words.hpp"

#include "simd/tiles.hpp"
#endif

// The same pointer, unknown to the compiler: what is read through it is an operand in memory each time, and takes no
// register from the sums.
template <typename T>
inline const T* anew(const T* p) {
  __asm__ volatile("" : "+r"(p));
  return p;
}

// Sixteen pairs of bf16 times one pair for all of them. A sum takes the odd one's product first, each with one rounding
// (that of the sum: the product is exact), as the instruction does. The one pair lies packed in a word where there is
// the instruction; elsewhere as two floats.
#if defined(__AVX512BF16__)
constexpr int kPairWords = 1;
using Pairs = __m512i;
using Pair = __m512i;  // the same in all lanes
inline Pairs load_pairs(const uint16_t* p) { return _mm512_loadu_si512(p); }
inline Pair load_pair(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int32_t>(*p)); }
inline Vec dot_pairs(Vec sum, Pairs a, Pair x) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(x));
}
// In one store: a load of all 32 values that follows need not wait until it has left for memory.
inline void store_bf16(void* p, Vec a, Vec b) {
  _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
}
// Sixteen values, rounded to bf16, as the pairs that load_pair() takes.
inline void store_pairs(uint32_t* p, Vec x) { store_bf16(p, x); }
#else
constexpr int kPairWords = 2;
struct Pairs {
  Vec even, odd;
};
using Pair = Pairs;
inline Pairs load_pairs(const uint16_t* p) {
  Pairs pairs;
  load_pairs(p, pairs.even, pairs.odd);
  return pairs;
}
inline Pair load_pair(const uint32_t* p) {
  float x[2];
  __builtin_memcpy(x, p, sizeof x);
  return {set1(x[0]), set1(x[1])};
}
inline Vec dot_pairs(const Vec& sum, const Pairs& a, const Pair& x) {
  return fma(a.even, x.even, fma(a.odd, x.odd, sum));
}
inline void store_bf16(void* p, const Vec& a, const Vec& b) {
  store_bf16(p, a);
  store_bf16(static_cast<uint8_t*>(p) + 32, b);
}
inline void store_pairs(uint32_t* p, const Vec& x) {
  float rounded[16];
  store(rounded, round_bf16(x));
  __builtin_memcpy(p, rounded, sizeof rounded);
}
#endif

// 1 / x within 2 ulp, for x of 1 and more; of those above 1e37 that of 1e37. By Newton's steps: a division takes as long
// as sixteen other operations.
inline Vec inverse_of(Vec x) {
  const Vec bounded = vmin(set1(1e37f), x), minus = sub(zero(), bounded);  // a NaN stays one
  Vec y = rough_inverse(bounded);
  for (int i = 0; i < 3; ++i) y = mul(y, fma(minus, y, set1(2.0f)));
  return y;
}

// e^x within 2 ulp; 0 below -87.3 (also for -inf), saturated above 88.
// e^r = 1 + r + r^2 p(r) on |r| <= ln 2 / 2, p a least-squares fit (relative error 1e-8).
inline Vec vexp(Vec x) {
  const Vec bounded = vmax(set1(-87.3f), vmin(set1(88.0f), x));  // a NaN stays one
  const IVec n = to_int(mul(bounded, set1(1.44269504f)));
  const Vec nf = to_float(n);
  Vec r = fma(nf, set1(-0.693359375f), bounded);
  r = fma(nf, set1(2.12194440e-4f), r);
  Vec p = set1(0x1.6d4366p-10f);
  p = fma(p, r, set1(0x1.120ba6p-7f));
  p = fma(p, r, set1(0x1.5554e8p-5f));
  p = fma(p, r, set1(0x1.5554dcp-3f));
  p = fma(p, r, set1(0.5f));
  const Vec e = fma(mul(r, r), p, add(r, set1(1.0f)));
  return select_below(x, set1(-87.3f), zero(), mul(e, power_of_two(n)));
}

}  // namespace
}  // namespace tenfold::TENFOLD_LEVEL
