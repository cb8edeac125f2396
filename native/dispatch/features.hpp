// Which instruction sets this CPU has and the operating system lets us use.
#pragma once

#include <string>
#include <vector>

namespace tenfold {

// Of those that matter to kernels, by the names Linux gives them in /proc/cpuinfo (avx2, avx512_vnni,
// amx_tile, …); empty where the CPU is not an x86.
std::vector<std::string> cpu_features();

// Asks the system for the tile registers of AMX, once for the whole process; false where it does not give them.
bool enable_amx();

}  // namespace tenfold
