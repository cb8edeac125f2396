#pragma once

#include "linear/format.hpp"

namespace tenfold::TENFOLD_LEVEL {

// Rounds 16 rows of floats [16][w.cols] to the codes and scales of one tile of `w`: 8 bits with a scale, or 4 bits with
// a scale and an offset. All values are finite and within kLargestWeight (linear/encode.hpp).
void quantize_tile(const Packed& w, const float* rows, uint8_t* tile);

}  // namespace tenfold::TENFOLD_LEVEL
