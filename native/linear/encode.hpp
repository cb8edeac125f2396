// Packing of matrices in another form than the checkpoint's: rounded to 8 or 4 bits, or to bfloat16.
#pragma once

#include <string>

#include "dispatch/kernels.hpp"
#include "linear/pack.hpp"

namespace tenfold {

enum class Form : uint8_t { stored, bf16, int8, int4 };

// "" is Form::stored. Throws std::invalid_argument for other names than bf16, int8, int4.
Form form_named(const std::string& name);

// Scales are float16. A matrix with a weight beyond the first bound, or none that reaches the second, is not rounded
// to integers.
constexpr float kLargestWeight = 32768.0f;
constexpr float kSmallestPeak = 0x1p-12f;

// As pack(), in `form`: bf16 rounds to nearest; int8 has a scale per 32 inputs (peak / 127); int4 has a scale and an
// offset per 32 inputs, from a search for the least squared error. Matrices whose values that form cannot hold (bounds
// above; bfloat16's range) stay as stored. Beside the result it takes 16 rows of floats per thread. The weights do not
// depend on the level of `kernels` or on the threads; how they lie does: as its linear_tile wants them.
// `use`: which of these are as in format.hpp.
// Throws std::invalid_argument as pack() does, where columns are not whole groups of 32, and for weights that are
// infinite or no numbers.
Matrix encode(Form form, const std::string& kind, const uint8_t* data, int64_t rows, int64_t cols, int64_t row_bytes,
              Use use, const Kernels& kernels, Pool& pool, Arena& arena);

}  // namespace tenfold
