// Packing of matrices from a checkpoint's encodings into the layout of format.hpp.
#pragma once

#include <string>
#include <vector>

#include "linear/format.hpp"
#include "model/memory.hpp"
#include "threads/pool.hpp"

namespace tenfold {

struct Matrix {
  Packed view;
  Memory memory;
};

// Packs `rows` rows of `row_bytes` bytes in encoding `kind` (GGUF's name). Every weight keeps its exact value.
// Throws std::invalid_argument where kind, sizes and bytes do not fit each other.
Matrix pack(const std::string& kind, const uint8_t* data, int64_t rows, int64_t cols, int64_t row_bytes, Pool& pool,
            Arena& arena);

// The encodings `pack` takes, by GGUF's names.
std::vector<std::string> encoding_names();

// The packed form that keeps every weight of a matrix of `kind`, without data. Throws as pack() does.
Packed stored_form(const std::string& kind, int64_t rows, int64_t cols, int64_t row_bytes);

// A zeroed matrix of `form`'s sizes and encoding, laid out.
Matrix empty_matrix(const Packed& form, Arena& arena);

// The values of one row, cols floats.
void decode_row(const Packed& w, int row, float* out);

}  // namespace tenfold
