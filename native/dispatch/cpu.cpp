// Which levels the CPU and the operating system can run.
#include <algorithm>

#include "dispatch/features.hpp"
#include "dispatch/level.hpp"

namespace tenfold {

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
  if (bf16) result.found[result.count++] = &avx512bf16::kernels();
  if (avx512) result.found[result.count++] = &avx512::kernels();
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
