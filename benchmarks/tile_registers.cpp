// What a product of AMX tiles takes by how many different tile registers are in use, alone on a core and beside another
// program (docs/experiments.md, section 35). Linux, x86-64 with AMX int8:
//
//   g++ -std=c++20 -O2 benchmarks/tile_registers.cpp -o tile_registers && taskset -c 0 ./tile_registers 10
//
// Patterns take turns for so many seconds. A sample counts as quiet or busy by how fast a chain of additions runs just
// before and just after it: on a core that another hardware thread uses, at little more than half its pace.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int kProducts = 240;  // of a sample, so that each begins equally seldom
alignas(4096) uint8_t data[16384];

struct alignas(64) Config {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
} config;

double now() {
  using clock = std::chrono::steady_clock;
  return std::chrono::duration<double, std::nano>(clock::now().time_since_epoch()).count();
}

// Dependent additions per nanosecond.
double pace() {
  constexpr int kAdditions = 30000;
  uint64_t x = 1;
  const double begin = now();
  for (int i = 0; i < kAdditions / 10; ++i)
    __asm__ volatile(
        "add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
        "add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n add $1, %0\n"
        : "+r"(x));
  return kAdditions / (now() - begin);
}

template <int TILE>
inline void load() {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(data + 1024 * TILE), "r"(int64_t{64}), "i"(TILE) : "memory");
}
template <int SUM, int A, int B>
inline void product() {
  __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}

// Nanoseconds per four products of a pattern that has PRODUCTS.
template <int PRODUCTS, typename F>
double time_of(const F& pattern) {
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  const double begin = now();
  for (int i = 0; i < kProducts / PRODUCTS; ++i) pattern();
  return (now() - begin) / kProducts * 4;
}

struct Pattern {
  const char* name;
  int registers;
  double (*run)();
  std::vector<double> quiet = {}, busy = {};
};

// Sums in tiles 0 …, activations in 4 and 5, weights in 6 and 7.
Pattern patterns[] = {
    {"products alone", 8,
     [] { return time_of<4>([] { product<0, 4, 6>(), product<1, 5, 6>(), product<2, 4, 7>(), product<3, 5, 7>(); }); }},
    {"4 sums, 2 x 2 tiles", 8,
     [] { return time_of<4>([] { load<4>(), load<6>(), product<0, 4, 6>(), load<5>(), product<1, 5, 6>(), load<7>(), product<2, 4, 7>(), product<3, 5, 7>(); }); }},
    {"4 sums, 1 x 2 tiles", 7,
     [] { return time_of<4>([] { load<4>(), load<6>(), product<0, 4, 6>(), load<7>(), product<2, 4, 7>(), load<4>(), product<1, 4, 6>(), product<3, 4, 7>(); }); }},
    {"4 sums, 1 x 1 tiles", 6,
     [] { return time_of<4>([] { load<4>(), load<6>(), product<0, 4, 6>(), load<6>(), product<2, 4, 6>(), load<4>(), product<3, 4, 6>(), load<6>(), product<1, 4, 6>(); }); }},
    {"3 sums, 1 x 1 tiles", 5,
     [] { return time_of<3>([] { load<4>(), load<6>(), product<0, 4, 6>(), load<6>(), product<1, 4, 6>(), load<6>(), product<2, 4, 6>(); }); }},
    {"2 sums, 1 x 1 tiles", 4, [] { return time_of<2>([] { load<4>(), load<6>(), product<0, 4, 6>(), load<6>(), product<1, 4, 6>(); }); }},
    {"1 sum, 1 x 1 tiles", 3, [] { return time_of<1>([] { load<4>(), load<6>(), product<0, 4, 6>(); }); }},
    {"1 sum, weights stay", 3, [] { return time_of<1>([] { load<4>(), product<0, 4, 6>(); }); }},
};

double median(std::vector<double>& x) {
  std::sort(x.begin(), x.end());
  return x.empty() ? 0.0 : x[x.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    std::fprintf(stderr, "this system gives no AMX tiles\n");
    return 1;
  }
  double fastest = 0.0;
  for (int i = 0; i < 1000; ++i) fastest = std::max(fastest, pace());
  const double end = now() + 1e9 * (argc > 1 ? std::atof(argv[1]) : 10.0);
  while (now() < end)
    for (Pattern& pattern : patterns) {
      const double before = pace(), took = pattern.run(), after = pace();
      const double slower = std::min(before, after), faster = std::max(before, after);
      if (slower > 0.92 * fastest) pattern.quiet.push_back(took);
      if (faster < 0.75 * fastest) pattern.busy.push_back(took);
    }
  std::printf("%-22s registers   quiet (samples)    busy (samples)   ns per four products\n", "");
  for (Pattern& pattern : patterns)
    std::printf("%-22s %9d %7.1f %9zu %7.1f %9zu\n", pattern.name, pattern.registers, median(pattern.quiet), pattern.quiet.size(),
                median(pattern.busy), pattern.busy.size());
}
