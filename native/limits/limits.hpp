// What this machine can do at most, measured: the roof that a profile sets the kernels' times beside.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tenfold {

struct MacRate {
  std::string kind, instructions;
  double macs;  // per second, of all threads
};

// Both keep `threads` threads busy for about a tenth of a second per figure, each on a CPU of its own, and give the best
// pass. They throw std::invalid_argument for a level that is not there.

// Bytes per second at which all threads together read the same `bytes` bytes again and again, with the level's loads.
// Throws std::bad_alloc.
double read_rate(const std::string& level, int threads, size_t bytes);

// Multiply-adds per second of the level's own instructions, float32 and int8, then of every further instruction
// set the CPU has.
std::vector<MacRate> mac_rates(const std::string& level, int threads);

}  // namespace tenfold
