#pragma once

#include "dispatch/kernels.hpp"

namespace tenfold::TENFOLD_LEVEL {

size_t panel_bytes(int cols);
void quantize(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane);
size_t group_panel_bytes(int cols);
void quantize_groups(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane);
void rms_norm(const float* x, const float* weight, int n, float eps, float* out);
void add(float* x, const float* y, int n);
void scale(float* x, float by, int n);
void gate(Activation kind, const float* gate, const float* up, ptrdiff_t stride, int rows, int cols, float* out,
          ptrdiff_t out_stride);
void softcap(float* x, float cap, int n);
void rope(float* head, const float* cos, const float* sin, int half);

}  // namespace tenfold::TENFOLD_LEVEL
