#pragma once

#include "linear/format.hpp"

namespace tenfold::TENFOLD_LEVEL {

void linear_tile(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                 ptrdiff_t out_stride, bool accumulate);
int dense_tiles();
int linear_rows(const Packed& w, int rows);
size_t settled_bytes(const Packed& w);
void settle(const Packed& w, uint8_t* tile, uint8_t* room);
const char* linear_arithmetic(const Packed& w, int rows);

}  // namespace tenfold::TENFOLD_LEVEL
