#include "sampling/scan.hpp"

#include "sampling/order.hpp"
#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

static_assert(kScanBlock == 64);

// Of a block that is not whole, or of a row with values that are not finite.
int32_t slow_maximum(const float* block, int n) {
  int32_t top = order_key(block[0]);
  for (int i = 1; i < (n < kScanBlock ? n : kScanBlock); ++i) {
    const int32_t key = order_key(block[i]);
    top = key > top ? key : top;
  }
  return top;
}

inline Vec weight(Vec x, const Weighing& how) {
  const Vec w = vexp(mul(sub(x, set1(how.top)), set1(how.scale)));
  return select_below(w, set1(how.least), zero(), w);
}

}  // namespace

void block_maxima(const float* row, int n, int32_t* maxima) {
  Vec odd = zero();  // gathers x - x: NaN where some x is not finite
  const int whole = n / kScanBlock;
  for (int b = 0; b < whole; ++b) {
    const float* x = row + b * kScanBlock;
    const Vec v[4] = {load(x), load(x + 16), load(x + 32), load(x + 48)};
    odd = add(odd, add(add(sub(v[0], v[0]), sub(v[1], v[1])), add(sub(v[2], v[2]), sub(v[3], v[3]))));
    maxima[b] = order_key(reduce_max(vmax(vmax(v[0], v[1]), vmax(v[2], v[3]))));
  }
  const bool finite = reduce_add(odd) == 0.0f;
  for (int b = finite ? whole : 0; b * kScanBlock < n; ++b)
    maxima[b] = slow_maximum(row + b * kScanBlock, n - b * kScanBlock);
}

void weigh(const float* row, int n, const Weighing& how, float* weights) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(weights + i, weight(load(row + i), how));
  if (i < n) store_n(weights + i, weight(load_n(row + i, n - i), how), n - i);
}

// Summed in double: a large weight must not swallow the small ones beside it.
void block_masses(const float* row, int n, const Weighing& how, double* masses) {
  for (; n > 0; n -= kScanBlock, row += kScanBlock) {
    float weights[kScanBlock];
    const int count = n < kScanBlock ? n : kScanBlock;
    weigh(row, count, how, weights);
    for (int i = count; i < kScanBlock; ++i) weights[i] = 0.0f;
    double sums[16];
    for (int j = 0; j < 16; ++j)
      sums[j] = (static_cast<double>(weights[j]) + static_cast<double>(weights[j + 16])) +
                (static_cast<double>(weights[j + 32]) + static_cast<double>(weights[j + 48]));
    for (int width = 8; width > 0; width /= 2)
      for (int j = 0; j < width; ++j) sums[j] += sums[j + width];
    *masses++ = sums[0];
  }
}

void depths(const float* row, int n, const Weighing& how, int most, uint16_t* out) {
  const float limit = static_cast<float>(most);
  for (int i = 0; i < n; ++i) {
    const float depth = (how.top - row[i]) * how.scale;
    out[i] = static_cast<uint16_t>(static_cast<int32_t>(depth < limit ? depth : limit));
  }
}

}  // namespace tenfold::TENFOLD_LEVEL
