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

// Packs rows of `row_bytes` bytes in encoding `kind` (GGUF's name) into `form`, stored_form() of these. Every weight keeps
// its exact value.
Matrix pack(const Packed& form, const std::string& kind, const uint8_t* data, int64_t row_bytes, Pool& pool, Arena& arena);

// The encodings `pack` takes, by GGUF's names.
std::vector<std::string> encoding_names();

// The packed form that keeps every weight of a matrix of `kind`, without data. Throws std::invalid_argument where kind,
// sizes and bytes do not fit each other.
Packed stored_form(const std::string& kind, int64_t rows, int64_t cols, int64_t row_bytes);

// A zeroed matrix of `form`'s sizes and encoding, laid out, with at least form.tile_bytes per tile.
Matrix empty_matrix(const Packed& form, Arena& arena);

// The values of one row, cols floats; not of a matrix in the looked-up form.
void decode_row(const Packed& w, int row, float* out);

}  // namespace tenfold
