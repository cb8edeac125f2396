// What limits.cpp times: loops of independent multiply-adds, and reads of memory, of one instruction set each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tenfold {

struct Probe {
  const char* kind;                // the arithmetic: f32, int8, bf16, amx-int8, amx-bf16
  const char* instructions;        // for people
  int64_t (*run)(int64_t rounds);  // gives the multiply-adds that `rounds` rounds are
};

struct LevelProbes {
  Probe f32, int8;
  uint64_t (*read)(const uint8_t* data, size_t bytes);  // `bytes` a multiple of 512; something of all of them
};

namespace portable {
LevelProbes probes();
}
namespace avx2 {
LevelProbes probes();
}
namespace avx512 {
LevelProbes probes();
}
namespace avx512bf16 {
LevelProbes probes();
}
// Instruction sets beside the levels' own, where the CPU has them.
namespace bf16 {
Probe probe();
}
namespace amx {
Probe int8_probe();
Probe bf16_probe();
}  // namespace amx

}  // namespace tenfold
