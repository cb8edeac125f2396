// Kernels over one row: norm, rotary embedding, activation, quantization. Reductions have a fixed order.
#include "rows/rows.hpp"

#include <type_traits>

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

// Calls f(offset, count) for each 16 of n; count < 16 at the end only.
template <typename F>
inline void sixteens(int n, F f) {
  int i = 0;
  for (; i + 16 <= n; i += 16) f(i, 16);
  if (i < n) f(i, n - i);
}

inline Vec get(const float* p, int count) { return count == 16 ? load(p) : load_n(p, count); }
inline void put(float* p, Vec x, int count) {
  if (count == 16) {
    store(p, x);
  } else {
    store_n(p, x, count);
  }
}

inline Vec sigmoid_times(Vec x, Vec y) {  // y * sigmoid(x)
  return mul(y, inverse_of(add(set1(1.0f), vexp(sub(zero(), x)))));
}

template <Activation KIND>
inline Vec activate(Vec x) {
  if constexpr (KIND == Activation::silu) return sigmoid_times(x, x);
  // 0.5 x (1 + tanh(u)) = x sigmoid(2u), u = sqrt(2 / pi) (x + 0.044715 x^3)
  const Vec cubic = fma(mul(set1(0.044715f), mul(x, x)), x, x);
  return sigmoid_times(mul(set1(1.5957691216057308f), cubic), x);
}

}  // namespace

#if defined(TENFOLD_TILES)

namespace {

// Symmetric 16 bits for the whole row: scale = absmax / 32512, the largest number of two signed bytes. A row that holds
// infinities or NaNs gets zeros and such a scale, so that every sum it enters is a NaN.
void quantize_row(const float* x, int cols, DigitRows& panel, int lane) {
  constexpr float kMost = 127.0f * 256.0f;
  Vec peaks[2] = {zero(), zero()};
  for (int i = 0; i < cols; i += 32)
    for (int half = 0; half < 2; ++half) peaks[half] = vpeak(peaks[half], load(x + i + 16 * half));
  const float largest = reduce_peak(vpeak(peaks[0], peaks[1]));
  const bool finite = largest < __builtin_inff(), none = largest < 1e-30f;  // below, the inverse overflows
  const Vec by = set1(finite && !none ? kMost / largest : 0.0f);
  IVec high = iset1(0), low = iset1(0);
  DigitUnit* units = panel.units();
  for (int i = 0; i < cols; i += 64) {
    Vec v[4];
    for (int j = 0; j < 4; ++j) v[j] = finite && i + 16 * j < cols ? mul(load(x + i + 16 * j), by) : zero();
    store_digits(units[i / 64].high[lane], units[i / 64].low[lane], v, high, low);
  }
  panel.scale[lane] = none ? 0.0f : largest / kMost;
  panel.high[lane] = -128 * reduce_add(high);
  panel.low[lane] = -128 * reduce_add(low);
}

}  // namespace

size_t panel_bytes(int cols) { return sizeof(DigitRows) + static_cast<size_t>((cols + 63) / 64) * sizeof(DigitUnit); }

void quantize(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane) {
  for (int i = 0; i < rows; ++i) quantize_row(x + i * stride, cols, *reinterpret_cast<DigitRows*>(panel), lane + i);
}

#else

size_t panel_bytes(int cols) { return group_panel_bytes(cols); }

void quantize(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane) {
  quantize_groups(x, stride, rows, cols, panel, lane);
}

#endif

namespace {

// Symmetric 8 bits per 32: scale = absmax / 127. Up to 16 groups at a time, so that the divisions are done for all at
// once and no group waits for another's reduction. Group i is at from(i) and goes to lane(i) of to(i). One that holds
// infinities or NaNs gets zeros and such a scale, so that every sum it enters is a NaN.
template <typename From, typename To, typename Lane>
inline void groups_to_codes(int count, From from, To to, Lane lane) {
  alignas(64) float largest[16] = {}, inverses[16], scales[16];
  for (int i = 0; i < count; ++i) largest[i] = reduce_peak(vpeak(load(from(i)), load(from(i) + 16)));
  // Below this the inverse overflows; such activations are zero to any sum they enter.
  const Vec most = load(largest), limit = set1(1e-30f), top = set1(127.0f);
  store(scales, select_below(most, limit, zero(), div(most, top)));
  store(inverses, select_below(most, limit, zero(), div(top, most)));
  for (int i = 0; i < count; ++i) {
    ActGroup& group = *to(i);
    const int row = lane(i);
    int32_t first, second;
    if (largest[i] < __builtin_inff()) [[likely]] {
      store_codes(group.codes[row], load(from(i)), load(from(i) + 16), set1(inverses[i]), first, second);
    } else {
      store_codes(group.codes[row], zero(), zero(), zero(), first, second);
    }
    const float scale = scales[i];
    group.rows[row] = {scale, kShiftBits - 128 * (first + second)};
    group.sums[row] = {scale * static_cast<float>(first + second),
                       {scale * static_cast<float>(first), scale * static_cast<float>(second)}};
  }
}

}  // namespace

size_t group_panel_bytes(int cols) { return static_cast<size_t>(cols / kGroup) * sizeof(ActGroup); }

void quantize_groups(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* bytes, int lane) {
  auto* panel = reinterpret_cast<ActGroup*>(bytes);
  const int groups = cols / kGroup;
  if (rows > 1) {
    for (int g = 0; g < groups; ++g)
      groups_to_codes(
          rows, [&](int i) { return x + i * stride + g * kGroup; }, [&](int) { return panel + g; },
          [&](int i) { return lane + i; });
    return;
  }
  for (int g = 0; g < groups; g += 16)
    groups_to_codes(
        groups - g < 16 ? groups - g : 16, [&](int i) { return x + (g + i) * kGroup; },
        [&](int i) { return panel + g + i; }, [&](int) { return lane; });
}

void rms_norm(const float* x, const float* weight, int n, float eps, float* out) {
  Vec sums[2] = {zero(), zero()};
  sixteens(n, [&](int i, int count) {
    const Vec v = get(x + i, count);
    sums[i / 16 % 2] = fma(v, v, sums[i / 16 % 2]);
  });
  const float mean = reduce_add(add(sums[0], sums[1])) / static_cast<float>(n);
  const Vec factor = set1(1.0f / __builtin_sqrtf(mean + eps));
  sixteens(n, [&](int i, int count) {
    put(out + i, mul(mul(get(x + i, count), factor), get(weight + i, count)), count);
  });
}

void add(float* x, const float* y, int n) {
  sixteens(n, [&](int i, int count) { put(x + i, add(get(x + i, count), get(y + i, count)), count); });
}

void scale(float* x, float by, int n) {
  sixteens(n, [&](int i, int count) { put(x + i, mul(get(x + i, count), set1(by)), count); });
}

void gate(Activation kind, const float* gate, const float* up, ptrdiff_t stride, int rows, int cols, float* out,
          ptrdiff_t out_stride) {
  const auto all = [&](auto activation) __attribute__((always_inline)) {
    for (int r = 0; r < rows; ++r, gate += stride, up += stride, out += out_stride)
      sixteens(cols, [&](int i, int count) __attribute__((always_inline)) {
        put(out + i, mul(activate<activation>(get(gate + i, count)), get(up + i, count)), count);
      });
  };
  switch (kind) {
    case Activation::silu: return all(std::integral_constant<Activation, Activation::silu>());
    case Activation::gelu_tanh: return all(std::integral_constant<Activation, Activation::gelu_tanh>());
  }
}

// cap * tanh(x / cap), with tanh(y) = 1 - 2 / (1 + e^2y)
void softcap(float* x, float cap, int n) {
  const Vec factor = set1(2.0f / cap), limit = set1(cap);
  sixteens(n, [&](int i, int count) {
    const Vec e = vexp(mul(get(x + i, count), factor));
    put(x + i, sub(limit, div(set1(2.0f * cap), add(set1(1.0f), e))), count);
  });
}

void rope(float* head, const float* cos, const float* sin, int half) {
  sixteens(half, [&](int i, int count) {
    const Vec a = get(head + i, count), b = get(head + half + i, count);
    const Vec c = get(cos + i, count), s = get(sin + i, count);
    put(head + i, sub(mul(a, c), mul(b, s)), count);
    put(head + half + i, add(mul(b, c), mul(a, s)), count);
  });
}

}  // namespace tenfold::TENFOLD_LEVEL
