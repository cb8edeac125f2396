// The vector type of the level being compiled. TENFOLD_LEVEL (avx512, avx2 or portable) names both the
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

#if defined(TENFOLD_AVX512)
#include "simd/avx512.hpp"
#elif defined(TENFOLD_AVX2)
#include "simd/avx2.hpp"
#else
#include "simd/portable.hpp"
#endif

#if defined(TENFOLD_TILES)
#include "simd/tiles.hpp"
#endif

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
