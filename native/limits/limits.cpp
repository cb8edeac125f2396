#include "limits/limits.hpp"

#include <time.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "dispatch/features.hpp"
#include "dispatch/level.hpp"
#include "limits/crew.hpp"
#include "limits/probes.hpp"
#include "model/memory.hpp"

namespace tenfold {
namespace {

constexpr double kSeconds = 0.1;                  // passes over memory go on this long, and the best counts
constexpr size_t kReadBytes = size_t{256} << 10;  // bytes read by an item
constexpr size_t kPassBytes = size_t{128} << 20;  // a pass reads at least this much
constexpr double kProbeSeconds = 0.5e-3;
constexpr int kProbes = 60;  // on each thread, of which the best counts

template <typename F>
double fastest_pass(const Crew& crew, int items, const F& f) {
  double best = crew.run(items, f);
  for (double spent = best, last; spent < kSeconds; spent += last) best = std::min(best, last = crew.run(items, f));
  return best;
}

LevelProbes probes_of(const std::string& level) {
  const Levels found = levels();
  for (int i = 0; i < found.count; ++i) {
    const std::string name = found.found[i]->name;
    if (name != level) continue;
#if defined(TENFOLD_X86_LEVELS)
    if (name == "amx" || name == "avx512bf16") return avx512bf16::probes();
    if (name == "avx512") return avx512::probes();
    if (name == "avx2") return avx2::probes();
#endif
    return portable::probes();
  }
  throw std::invalid_argument("this CPU has no kernels of level " + level);
}

// CPU time of this thread: what others take of its CPU is not in it.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double cpu_seconds_of(const Probe& probe, int64_t rounds) {
  const double began = cpu_seconds();
  probe.run(rounds);
  return cpu_seconds() - began;
}

MacRate mac_rate(const Crew& crew, const Probe& probe) {
  int64_t rounds = 1 << 8;
  while (cpu_seconds_of(probe, rounds) < kProbeSeconds) rounds *= 2;
  std::vector<double> best(crew.threads());
  crew.each([&](int thread) {
    best[thread] = cpu_seconds_of(probe, rounds);
    for (int i = 1; i < kProbes; ++i) best[thread] = std::min(best[thread], cpu_seconds_of(probe, rounds));
  });
  const double macs = static_cast<double>(probe.run(1)) * static_cast<double>(rounds);
  double rate = 0.0;
  for (const double seconds : best) rate += macs / seconds;
  return {probe.kind, probe.instructions, rate};
}

}  // namespace

double read_rate(const std::string& level, int threads, size_t bytes) {
  const LevelProbes probes = probes_of(level);
  const Crew crew(threads);
  const auto chunks = static_cast<int>(std::max<size_t>(1, bytes / kReadBytes));
  const Memory memory(chunks * kReadBytes);
  crew.run(chunks, [&](int i) { std::memset(memory.data() + i * kReadBytes, i + 1, kReadBytes); });
  const int rounds = static_cast<int>(std::max<size_t>(1, kPassBytes / (chunks * kReadBytes)));
  const double best = fastest_pass(crew, rounds * chunks, [&](int item) {
    const uint64_t kept = probes.read(memory.data() + static_cast<size_t>(item % chunks) * kReadBytes, kReadBytes);
    __asm__ volatile("" : : "r"(kept));
  });
  return static_cast<double>(rounds) * static_cast<double>(chunks * kReadBytes) / best;
}

std::vector<MacRate> mac_rates(const std::string& level, int threads) {
  const Crew crew(threads);
  const LevelProbes own = probes_of(level);
  std::vector<MacRate> rates = {mac_rate(crew, own.f32), mac_rate(crew, own.int8)};
#if defined(TENFOLD_X86_LEVELS)
  const std::vector<std::string> features = cpu_features();
  const auto has = [&](const char* name) { return std::find(features.begin(), features.end(), name) != features.end(); };
  if (has("avx512f") && has("avx512_bf16")) rates.push_back(mac_rate(crew, bf16::probe()));
  if (has("amx_tile") && (has("amx_int8") || has("amx_bf16")) && enable_amx()) {
    if (has("amx_int8")) rates.push_back(mac_rate(crew, amx::int8_probe()));
    if (has("amx_bf16")) rates.push_back(mac_rate(crew, amx::bf16_probe()));
  }
#endif
  return rates;
}

}  // namespace tenfold
