#include "dispatch/features.hpp"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tenfold {

#if defined(__x86_64__)
namespace {

enum Register { kA, kB, kC, kD };
struct Feature {
  const char* name;
  uint32_t leaf, subleaf;
  Register where;
  int bit;
  uint64_t states;  // bits of XCR0 that must be set
};

constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
constexpr Feature kFeatures[] = {
    {"fma", 1, 0, kC, 12, kYmm},           {"f16c", 1, 0, kC, 29, kYmm},
    {"avx2", 7, 0, kB, 5, kYmm},           {"avx_vnni", 7, 1, kA, 4, kYmm},
    {"avx512f", 7, 0, kB, 16, kZmm},       {"avx512dq", 7, 0, kB, 17, kZmm},
    {"avx512bw", 7, 0, kB, 30, kZmm},      {"avx512vl", 7, 0, kB, 31, kZmm},
    {"avx512_vnni", 7, 0, kC, 11, kZmm},   {"avx512_bf16", 7, 1, kA, 5, kZmm},
    {"avx512_fp16", 7, 0, kD, 23, kZmm},   {"amx_tile", 7, 0, kD, 24, kTiles},
    {"amx_int8", 7, 0, kD, 25, kTiles},    {"amx_bf16", 7, 0, kD, 22, kTiles},
};

// What the operating system saves of the registers; 0 where it does not say.
uint64_t enabled_states() {
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace

std::vector<std::string> cpu_features() {
  std::vector<std::string> found;
  const uint64_t states = enabled_states();
  for (const Feature& feature : kFeatures) {
    uint32_t r[4] = {};
    if ((states & feature.states) == feature.states &&
        __get_cpuid_count(feature.leaf, feature.subleaf, &r[kA], &r[kB], &r[kC], &r[kD]) &&
        (r[feature.where] >> feature.bit & 1))
      found.emplace_back(feature.name);
  }
  return found;
}
#else
std::vector<std::string> cpu_features() { return {}; }
#endif

#if defined(__x86_64__) && defined(__linux__)
bool enable_amx() {
  constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}
#else
bool enable_amx() { return false; }
#endif

}  // namespace tenfold
