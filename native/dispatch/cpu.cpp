// What the CPU and the operating system offer, from cpuid and xgetbv.
#include "dispatch/level.hpp"

#if defined(TENFOLD_X86_LEVELS)
#include <cpuid.h>
#endif

namespace tenfold {
namespace {

#if defined(TENFOLD_X86_LEVELS)
struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false;
};

uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

Features features() {
  Features found;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const bool fma = c >> 12 & 1, osxsave = c >> 27 & 1, f16c = c >> 29 & 1;
  if (!osxsave) return found;
  const uint64_t states = enabled_states();
  const bool ymm = (states & 0x6) == 0x6, zmm = (states & 0xe6) == 0xe6;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const bool avx2 = b >> 5 & 1, f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
  const bool vnni = c >> 11 & 1;
  found.avx2 = ymm && avx2 && fma && f16c;
  found.avx512 = found.avx2 && zmm && f && dq && bw && vl && vnni;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) found.avx512bf16 = found.avx512 && (a >> 5 & 1);
  return found;
}
#endif

}  // namespace

Levels levels() {
  Levels result{};
#if defined(TENFOLD_X86_LEVELS)
  const Features found = features();
  if (found.avx512bf16) result.found[result.count++] = &avx512bf16::kernels();
  if (found.avx512) result.found[result.count++] = &avx512::kernels();
  if (found.avx2) result.found[result.count++] = &avx2::kernels();
#endif
  result.found[result.count++] = &portable::kernels();
  return result;
}

}  // namespace tenfold
