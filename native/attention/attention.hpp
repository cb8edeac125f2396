#pragma once

#include "dispatch/kernels.hpp"

namespace tenfold::TENFOLD_LEVEL {

void store_kv(const KvLayer& kv, int32_t block, int head, int slot, const float* k, const float* v);
void attend(const AttendItem& item);
const char* attend_arithmetic(const KvLayer& kv);
void merge(const float* partials, ptrdiff_t chunk_stride, int chunks, int padded, int head_dim, float* out);

}  // namespace tenfold::TENFOLD_LEVEL
