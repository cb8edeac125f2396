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

// Names of the levels this CPU and this build can run, best first.
struct Levels {
  const Kernels* found[4];
  int count;
};
Levels levels();

}  // namespace tenfold
