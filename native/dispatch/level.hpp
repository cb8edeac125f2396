#pragma once

#include "dispatch/kernels.hpp"

namespace tenfold {

namespace portable {
const Kernels& kernels();
}
namespace avx2 {
const Kernels& kernels();
}
namespace avx512 {
const Kernels& kernels();
}
namespace avx512bf16 {
const Kernels& kernels();
}
namespace amx {
const Kernels& kernels();
bool tiles_work();
}
namespace amx_emulated {
const Kernels& kernels();
bool tiles_work();
}

// The levels this CPU and this build can run, best first; with those that only tests have a use for after them.
struct Levels {
  const Kernels* found[6];
  int count;
  int emulated;
};
Levels levels();

}  // namespace tenfold
