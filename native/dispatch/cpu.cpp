// What the CPU and the operating system offer, from cpuid and xgetbv.
#include "dispatch/level.hpp"

#if defined(TENFOLD_X86_LEVELS)
#include <cpuid.h>
#endif
#if defined(TENFOLD_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tenfold {
namespace {

#if defined(TENFOLD_X86_LEVELS)
struct Features {
  bool avx2 = false, avx512 = false, avx512bf16 = false, amx = false;
};

uint64_t enabled_states() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

#if defined(TENFOLD_AMX)
// The system saves a process's tiles only once it has asked for that.
bool tiles_permitted() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

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
#if defined(TENFOLD_AMX)
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
    const bool tiles = d >> 24 & 1, int8 = d >> 25 & 1, bf16 = d >> 22 & 1;
    found.amx = found.avx512bf16 && tiles && int8 && bf16 && (states & 0x60000) == 0x60000 && tiles_permitted();
  }
#endif
  return found;
}
#endif

}  // namespace

Levels levels() {
  Levels result{};
#if defined(TENFOLD_X86_LEVELS)
  static const Features found = features();
#if defined(TENFOLD_AMX)
  if (found.amx) result.found[result.count++] = &amx::kernels();
#endif
  if (found.avx512bf16) result.found[result.count++] = &avx512bf16::kernels();
  if (found.avx512) result.found[result.count++] = &avx512::kernels();
  if (found.avx2) result.found[result.count++] = &avx2::kernels();
#endif
  result.found[result.count++] = &portable::kernels();
#if defined(TENFOLD_X86_LEVELS)
  if (found.avx2) result.found[result.count + result.emulated++] = &amx_emulated::kernels();
#endif
  return result;
}

}  // namespace tenfold
