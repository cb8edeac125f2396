// Logits as integers, so that comparing them is exact whatever the floating-point mode. Static: see half.hpp.
#pragma once

#include <cstdint>

namespace tenfold {

constexpr int32_t kNan = INT32_MAX;  // the key of every NaN, above that of infinity

// Keys compare as their floats do: -0 equals 0, a NaN is above all.
static inline int32_t order_key(float x) {
  const int32_t bits = __builtin_bit_cast(int32_t, x);
  const int32_t size = bits & 0x7fffffff;
  const int32_t key = bits < 0 ? -size : size;
  return size > 0x7f800000 ? kNan : key;
}

static inline float key_value(int32_t key) {
  return __builtin_bit_cast(float, key < 0 ? -key | INT32_MIN : key);
}

}  // namespace tenfold
