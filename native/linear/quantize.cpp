// Floats to codes, a group of 32 inputs of 16 outputs at a time: outputs are lanes, so that every sum is a
// lane's own and nothing is ever reduced across lanes. Only plain additions and multiplications: each level
// gives the same bits, and none has to emulate a fused multiply-add.
#include "linear/quantize.hpp"

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr float kTop = 15.0f;  // the largest 4-bit code

using Group = float[kGroup][kTile];  // [input][output]

// The clip ranges tried, as fractions of a group's own range: code i lies at low + i / steps. Whole steps below
// 15 find grids whose outer codes a group does not use; the rest were picked on Gaussian and on trained weights.
struct Clip {
  float low, steps;
};
constexpr Clip kClips[] = {
    {0.0f, 8.0f},           {0.0f, 9.0f},           {0.0f, 10.0f},          {0.0f, 11.0f},
    {0.0f, 12.0f},          {0.0f, 13.0f},          {0.0f, 13.5f},          {0.0f, 14.0f},
    {0.0f, 14.5f},          {0.0f, 15.5f},          {0.0f, 16.0f},          {0.0f, 16.5f},
    {0.0f, 17.0f},          {0.04f, 13.5f / 0.96f}, {0.04f, 14.0f / 0.96f}, {0.04f, 14.5f / 0.96f},
    {0.04f, 15.0f / 0.96f}, {0.04f, 15.5f / 0.96f}, {0.04f, 16.0f / 0.96f}, {0.04f, 16.5f / 0.96f},
    {0.04f, 17.0f / 0.96f},
};
constexpr int kRefinements = 2;

// To the nearest whole number, ties to even, for |x| < 2^22.
inline Vec nearest(Vec x) {
  const Vec shift = set1(12582912.0f);
  return sub(add(x, shift), shift);
}

inline Vec code(Vec x, Vec scale, Vec offset) {
  return vmin(set1(kTop), vmax(zero(), nearest(add(mul(x, scale), offset))));
}

// 1 / x, 0 where x is not positive.
inline Vec inverse(Vec x) { return select_below(zero(), x, div(set1(1.0f), x), zero()); }

struct Line {
  Vec s, m, error;  // x = s * code + m; sum of squared errors
};

// The codes of x for a line given by their scale and offset, and the least-squares line through them.
inline Line fit(const Group& x, Vec scale, Vec offset, Vec sum_x, Vec sum_xx) {
  Vec c1 = zero(), c2 = zero(), cx = zero();
  for (int k = 0; k < kGroup; ++k) {
    const Vec value = load(x[k]), c = code(value, scale, offset);
    c1 = add(c1, c);
    c2 = add(c2, mul(c, c));
    cx = add(cx, mul(c, value));
  }
  const Vec n = set1(kGroup);
  const Vec s = mul(sub(mul(n, cx), mul(c1, sum_x)), inverse(sub(mul(n, c2), mul(c1, c1))));
  const Vec m = mul(sub(sum_x, mul(s, c1)), set1(1.0f / kGroup));
  return {s, m, sub(sub(sum_xx, mul(s, cx)), mul(m, sum_x))};
}

inline void keep_better(Line& best, const Line& other) {
  best.s = select_below(other.error, best.error, other.s, best.s);
  best.m = select_below(other.error, best.error, other.m, best.m);
  best.error = vmin(other.error, best.error);
}

// Nearest float16, ties to even; the largest there is for what is beyond.
inline uint16_t to_f16(float f) {
  const uint32_t bits = float_to_bits(f), magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude >= 0x477fe000u) {  // 65504
    half = 0x7bffu;
  } else if (magnitude >= 0x38800000u) {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // subnormal: adding 1/2 leaves multiples of 2^-24
    half = float_to_bits(bits_to_float(magnitude) + 0.5f) - 0x3f000000u;
  }
  return static_cast<uint16_t>(bits >> 16 & 0x8000u) | static_cast<uint16_t>(half);
}

inline Vec to_f16(Vec x, uint16_t* half) {
  alignas(64) float value[kTile];
  store(value, x);
  for (int lane = 0; lane < kTile; ++lane) half[lane] = to_f16(value[lane]);
  return load_f16(half);
}

// A line as it is stored, with its codes: `error` is what decoding will give.
struct Stored {
  uint16_t s[kTile], m[kTile];
  Group codes;
  Vec error;
};

inline void round_line(const Group& w, Vec s, Vec m, Stored& out) {
  s = to_f16(s, out.s);
  m = to_f16(m, out.m);
  const Vec scale = inverse(s);
  Vec error = zero();
  for (int k = 0; k < kGroup; ++k) {
    const Vec value = load(w[k]);
    const Vec c = vmin(set1(kTop), vmax(zero(), nearest(mul(sub(value, m), scale))));
    store(out.codes[k], c);
    const Vec miss = sub(value, add(mul(s, c), m));
    error = add(error, mul(miss, miss));
  }
  out.error = error;
}

// The best of the group's own range and kClips, refined by turns (codes for the line, line for the codes); the
// range itself where, with both rounded as they are stored, that is no worse.
void search(const Group& w, Stored& out) {
  Vec low = load(w[0]), high = low;
  for (int k = 1; k < kGroup; ++k) {
    low = vmin(low, load(w[k]));
    high = vmax(high, load(w[k]));
  }
  const Vec range = sub(high, low), unit = inverse(range);
  Group x;  // in units of the range: from 0 to 1
  Vec sum_x = zero(), sum_xx = zero();
  for (int k = 0; k < kGroup; ++k) {
    const Vec value = mul(sub(load(w[k]), low), unit);
    store(x[k], value);
    sum_x = add(sum_x, value);
    sum_xx = add(sum_xx, mul(value, value));
  }
  Line best = fit(x, set1(kTop), zero(), sum_x, sum_xx);
  for (const Clip& clip : kClips)
    keep_better(best, fit(x, set1(clip.steps), set1(-clip.low * clip.steps), sum_x, sum_xx));
  for (int i = 0; i < kRefinements; ++i) {
    const Vec scale = inverse(best.s);
    keep_better(best, fit(x, scale, mul(sub(zero(), best.m), scale), sum_x, sum_xx));
  }

  round_line(w, mul(range, set1(1.0f / kTop)), low, out);
  Stored found;
  round_line(w, mul(best.s, range), add(mul(best.m, range), low), found);
  alignas(64) float plain_error[kTile], error[kTile];
  store(plain_error, out.error);
  store(error, found.error);
  for (int lane = 0; lane < kTile; ++lane) {
    if (!(error[lane] < plain_error[lane])) continue;
    out.s[lane] = found.s[lane];
    out.m[lane] = found.m[lane];
    for (int k = 0; k < kGroup; ++k) out.codes[k][lane] = found.codes[k][lane];
  }
}

void put_int4(const Stored& group, uint16_t* scales, uint8_t* codes) {
  for (int lane = 0; lane < kTile; ++lane) {
    scales[lane] = group.s[lane];
    scales[kTile + lane] = group.m[lane];
  }
  for (int run = 0; run < 4; ++run) {
    uint32_t bits[kTile] = {};
    for (int j = 0; j < 4; ++j) {
      const float *first = group.codes[8 * run + j], *second = group.codes[8 * run + 4 + j];
      for (int lane = 0; lane < kTile; ++lane) {
        const int both = static_cast<int>(first[lane]) | static_cast<int>(second[lane]) << 4;
        bits[lane] |= static_cast<uint32_t>(both) << 8 * j;
      }
    }
    __builtin_memcpy(codes + 64 * run, bits, sizeof bits);
  }
}

void put_int8(const Group& w, uint16_t* scales, uint8_t* codes) {
  constexpr float kMost = 127.0f;
  Vec peak = zero();
  for (int k = 0; k < kGroup; ++k) peak = vmax(peak, vabs(load(w[k])));
  Vec s = to_f16(mul(peak, set1(1.0f / kMost)), scales);
  // A subnormal scale may have been rounded so far down that the peak has no code: take the next one.
  alignas(64) float over[kTile];
  store(over, sub(peak, mul(s, set1(kMost + 0.5f))));
  for (int lane = 0; lane < kTile; ++lane) scales[lane] = static_cast<uint16_t>(scales[lane] + (over[lane] > 0.0f));
  s = load_f16(scales);
  const Vec scale = inverse(s);
  for (int run = 0; run < 8; ++run) {
    uint32_t bits[kTile] = {};
    for (int j = 0; j < 4; ++j) {
      alignas(64) float c[kTile];
      store(c, vmin(set1(kMost), vmax(set1(-kMost), nearest(mul(load(w[4 * run + j]), scale)))));
      for (int lane = 0; lane < kTile; ++lane)
        bits[lane] |= static_cast<uint32_t>(static_cast<int>(c[lane]) + 128) << 8 * j;
    }
    __builtin_memcpy(codes + 64 * run, bits, sizeof bits);
  }
}

}  // namespace

void quantize_tile(const Packed& w, const float* rows, uint8_t* tile) {
  const int halves = w.scales == Scales::affine ? 2 * kTile : kTile;
  auto* scales = reinterpret_cast<uint16_t*>(tile);
  uint8_t* codes = tile + w.code_offset;
  for (int first = 0; first < w.cols; first += kGroup, scales += halves, codes += kTile * kGroup * w.bits / 8) {
    Group group;
    for (int lane = 0; lane < kTile; ++lane) {
      const float* row = rows + static_cast<ptrdiff_t>(lane) * w.cols + first;
      for (int k = 0; k < kGroup; ++k) group[k][lane] = row[k];
    }
    if (w.bits == 8) {
      put_int8(group, scales, codes);
    } else {
      Stored stored;
      search(group, stored);
      put_int4(stored, scales, codes);
    }
  }
}

}  // namespace tenfold::TENFOLD_LEVEL
