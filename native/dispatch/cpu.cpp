// Which levels the CPU and the operating system can run.
#include <algorithm>
#include <chrono>

#include "dispatch/features.hpp"
#include "dispatch/level.hpp"
#include "limits/probes.hpp"

namespace tenfold {
namespace {

#if defined(TENFOLD_X86_LEVELS)
// Seconds per multiply-add: the best of some runs of microseconds.
double seconds_per_mac(const Probe& probe) {
  using Clock = std::chrono::steady_clock;
  double best = 1.0;
  for (int i = 0; i < 16; ++i) {
    const auto began = Clock::now();
    const auto macs = static_cast<double>(probe.run(256));
    best = std::min(best, std::chrono::duration<double>(Clock::now() - began).count() / macs);
  }
  return best;
}

// Intel's cores take pairs of bf16 at half the rate of float32, AMD's at twice. Results are the same bits.
bool pairs_pay() {
  const Probe pairs = bf16::probe(), floats = avx512::probes().f32;
  seconds_per_mac(floats);  // wide units wake up first
  return seconds_per_mac(pairs) < seconds_per_mac(floats);
}
#endif

}  // namespace

Levels levels() {
  Levels result{};
#if defined(TENFOLD_X86_LEVELS)
  static const std::vector<std::string> found = cpu_features();
  const auto has = [](std::initializer_list<const char*> names) {
    return std::all_of(names.begin(), names.end(),
                       [](const char* name) { return std::find(found.begin(), found.end(), name) != found.end(); });
  };
  const bool avx2 = has({"avx2", "fma", "f16c"});
  [[maybe_unused]] const bool avx512 = avx2 && has({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni"});
  const bool bf16 = avx512 && has({"avx512_bf16"});
#if defined(TENFOLD_AMX)
  static const bool amx = bf16 && has({"amx_tile", "amx_int8", "amx_bf16"}) && enable_amx() && amx::tiles_work();
  if (amx) result.found[result.count++] = &::tenfold::amx::kernels();
#endif
  static const bool pairs = bf16 && pairs_pay();
  if (pairs) result.found[result.count++] = &avx512bf16::kernels();
  if (avx512) result.found[result.count++] = &avx512::kernels();
  if (bf16 && !pairs) result.found[result.count++] = &avx512bf16::kernels();
  if (avx2) result.found[result.count++] = &avx2::kernels();
#endif
  result.found[result.count++] = &portable::kernels();
#if defined(TENFOLD_X86_LEVELS)
  static const bool emulated = avx2 && amx_emulated::tiles_work();
  if (emulated) result.found[result.count + result.emulated++] = &amx_emulated::kernels();
#endif
  return result;
}

}  // namespace tenfold
