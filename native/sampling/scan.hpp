// The passes over a whole row of logits that choosing a token needs: compiled once per level.
#pragma once

#include "dispatch/kernels.hpp"

namespace tenfold::TENFOLD_LEVEL {

void block_maxima(const float* row, int n, int32_t* maxima);
void block_masses(const float* row, int n, const Weighing& how, double* masses);
void weigh(const float* row, int n, const Weighing& how, float* weights);
void depths(const float* row, int n, const Weighing& how, int most, uint16_t* out);

}  // namespace tenfold::TENFOLD_LEVEL
