// Online softmax: a query's update per tile of keys, and the merge of chunks. Included inside a level's namespace by
// attention.cpp.

// 2^x within 3e-6, for x <= 8; a tiny positive number below -126. A NaN stays one.
inline Vec exp2_of(Vec x) {
  x = vmax(set1(-126.0f), x);
  const Vec magic = set1(12582912.0f);  // 1.5 * 2^23: rounds to an integer and leaves it in the low bits
  const Vec shifted = add(x, magic);
  const Vec f = sub(x, sub(shifted, magic));
  Vec p = set1(0x1.3997cap-7f);
  p = fma(p, f, set1(0x1.ca1440p-5f));
  p = fma(p, f, set1(0x1.ec06dap-3f));
  p = fma(p, f, set1(0x1.62e0dcp-1f));
  p = fma(p, f, set1(0x1.ffffe8p-1f));
  return add_exponent(p, shifted);
}

// One query's update for the scores of a tile: of the softmax's reference point, which is raised when a score exceeds it by
// more than `slack`, of the sums of weights by lane and of weighted values; gives the weights of its keys. EDGE: it may not
// see all of them.
template <bool EDGE>
[[gnu::always_inline]] inline void softmax_update(const float* scores, Span seen, int padded, float slack,
                                                  float& reference, float* lane_sums, float* sum, Vec* weights) {
  const int low = seen.low, high = seen.high;
  const Vec minus_inf = set1(-__builtin_inff());
  Vec s[kGroups];
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) {
    s[g] = load(scores + 16 * g);
    if (EDGE) s[g] = keep_lanes(s[g], low - 16 * g, high - 16 * g, minus_inf);
  }
  const Vec most = vmax(vmax(s[0], s[1]), vmax(s[2], s[3]));
  Vec sums = load(lane_sums);
  if (any_above(most, set1(reference + slack))) {
    const float raised = reduce_max(most);
    if (reference != -__builtin_inff()) {  // else the sums are zero
      const Vec shrink = exp2_of(set1(reference - raised));
      sums = mul(sums, shrink);
      for (int d = 0; d < padded; d += 16) store(sum + d, mul(load(sum + d), shrink));
    }
    reference = raised;
  }
  const Vec top = set1(reference);
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) {
    weights[g] = exp2_of(sub(s[g], top));
    if (EDGE) weights[g] = keep_lanes(weights[g], low - 16 * g, high - 16 * g, zero());
  }
  store(lane_sums, add(sums, add(add(weights[0], weights[1]), add(weights[2], weights[3]))));
}

// A total merged with a later chunk, for sixteen queries: their reference points and sums of weights, and by what the
// sums of values of both are multiplied.
struct Merge {
  Vec most, sum, total_by, chunk_by;
};
inline Merge merge_states(Vec total_most, Vec total_sum, Vec most, Vec sum) {
  const Vec top = vmax(most, total_most);
  const Vec total_by = exp2_of(sub(total_most, top)), chunk_by = exp2_of(sub(most, top));
  return {top, add(mul(total_sum, total_by), mul(sum, chunk_by)), total_by, chunk_by};
}
inline void merge_values(float* total, const float* sum, Vec total_by, Vec chunk_by, int padded) {
  for (int d = 0; d < padded; d += 16) store(total + d, fma(load(sum + d), chunk_by, mul(load(total + d), total_by)));
}

inline void normalise(const float* sum, float l, int head_dim, float* out) {
  const Vec by = set1(1.0f / l);
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) store(out + d, mul(load(sum + d), by));
  if (d < head_dim) store_n(out + d, mul(load(sum + d), by), head_dim - d);
}

inline void copy(float* to, const float* from, int n) {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}
