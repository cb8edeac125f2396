// bf16 pairs into float32, of AVX-512 BF16.
#include <immintrin.h>

#include "limits/probes.hpp"

namespace tenfold::bf16 {
namespace {

int64_t run(int64_t rounds) {
  constexpr int kChains = 12;
  const __m512bh a = (__m512bh)_mm512_set1_epi16(0x3f80), b = (__m512bh)_mm512_set1_epi16(0x3400);  // 1, 2^-23
  __m512 sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = _mm512_set1_ps(static_cast<float>(c));
  for (int64_t i = 0; i < rounds; ++i)
    for (int c = 0; c < kChains; ++c) sum[c] = _mm512_dpbf16_ps(sum[c], a, b);
  for (int c = 0; c < kChains; ++c) __asm__ volatile("" : : "v"(sum[c]));
  return rounds * kChains * 32;
}

}  // namespace

Probe probe() { return {"bf16", "vdpbf16ps zmm", run}; }

}  // namespace tenfold::bf16
