// Scores and weighted values over 8-bit keys and values with a scale per key. Included inside a level's namespace
// by attention.cpp. Queries and softmax weights go through it as two bytes each, so that the error is that of
// the stored keys and values alone; sums of products are exact in int32.
struct Int8Kv {
  using Type = uint8_t;
  static constexpr int kBlock = kQuadQueries;
  static constexpr int kTogether = 3;       // queries whose softmax takes turns
  static constexpr int kSoftmaxLines = 12;  // fetched ahead during each
  static constexpr int kWeightQuads = kKeyTile / 4;
  static constexpr int kWeightWords = 2 * kWeightQuads + 16;  // high bytes, low bytes, scale; whole lines
  static constexpr int kQueryMax = 8191;                     // so that 2048 products fit in 31 bits
  static constexpr float kCodeMax = 65535.0f;
  static constexpr float kSlack = 2.0f;  // less than for other keys: it costs the codes as many bits
  static constexpr float kLargestWeight = 4.0f;  // 2^kSlack

  // Whole lines too, for a tile unit's sake.
  static size_t query_words(const KvLayer& kv) { return static_cast<size_t>(kv.width / 2 + 2 + 15) / 16 * 16; }

  // The code nearest to x; 0 for a NaN, which then is in the scale.
  static int32_t code_of(float x) { return x == x ? static_cast<int32_t>(__builtin_rintf(x)) : 0; }

  // High bytes, low bytes, -128 times the sum of the codes (keys are biased by 128), scale.
  static void pack_query(const float* q, float by, const KvLayer& kv, uint32_t* to) {
    const float most = peak_of(q, kv.head_dim);
    const float inverse = most < 1e-30f ? 0.0f : kQueryMax / most;
    auto* high = reinterpret_cast<uint8_t*>(to);
    auto* low = high + kv.width;
    IVec sum = iset1(0);
    int d = 0;
    for (; d + 16 <= kv.head_dim; d += 16) {  // a NaN's code does not matter: it is in the scale
      const IVec code = to_int(mul(load(q + d), set1(inverse)));
      store_low_bytes(low + d, code);
      store_low_bytes(high + d, shift_right(iadd(code, iset1(128)), 8));
      sum = iadd(sum, code);
    }
    uint32_t total = static_cast<uint32_t>(reduce_add(sum));
    for (; d < kv.width; ++d) {
      const int32_t code = d < kv.head_dim ? code_of(q[d] * inverse) : 0;
      low[d] = static_cast<uint8_t>(code);
      high[d] = static_cast<uint8_t>(static_cast<uint32_t>(code + 128) >> 8);
      total += static_cast<uint32_t>(code);
    }
    const uint32_t start = total * static_cast<uint32_t>(-128);
    const float scale = most * by / kQueryMax;
    __builtin_memcpy(to + kv.width / 2, &start, 4);
    __builtin_memcpy(to + kv.width / 2 + 1, &scale, 4);
  }

  template <int QUERIES, int GROUPS>
  static void score_block(const KvLayer& kv, const uint32_t* q, const Type* const* keys, const uint16_t* const* scales,
                          float* scores, Ahead& ahead) {
    const int quads = kv.width / 4, words = static_cast<int>(query_words(kv));
    IVec high[QUERIES][GROUPS], low[QUERIES][GROUPS];
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) {
        high[i][g] = iset1(0);
        low[i][g] = iset1(static_cast<int32_t>(q[i * words + 2 * quads]));
      }
    for (int p = 0; p < quads; ++p) {
      ahead.fetch(kStepLines);
      Bytes x[QUERIES][2];
#pragma GCC unroll 8
      for (int i = 0; i < QUERIES; ++i) {
        x[i][0] = set_quad(q[i * words + p]);
        x[i][1] = set_quad(q[i * words + quads + p]);
      }
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) {
        const Bytes k = load_bytes(keys[g] + 64 * p);
#pragma GCC unroll 8
        for (int i = 0; i < QUERIES; ++i) {
          high[i][g] = dot_quads(high[i][g], k, x[i][0]);
          low[i][g] = dot_quads(low[i][g], k, x[i][1]);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i) {
      float scale;
      __builtin_memcpy(&scale, q + i * words + 2 * quads + 1, 4);
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) {
        const Vec dot = to_float(iadd(shift_left(high[i][g], 8), low[i][g]));
        store(scores + i * kKeyTile + 16 * g, mul(dot, mul(set1(scale), load_bf16(scales[g]))));
      }
    }
  }

  // What a weight is multiplied with to become a code, and what a code is worth, for a query that sees some of a tile's
  // keys: the largest code is for the largest weight there may be with the largest scale of those keys' values.
  struct Coding {
    Vec by[kGroups];  // zero for keys that are not seen
    float scale;

    Coding(const uint16_t* const* scales, Span seen) {
      Vec all[kGroups], most = zero();
      for (int g = 0; g < kGroups; ++g) {
        all[g] = zero();
        if (16 * g >= seen.high || 16 * (g + 1) <= seen.low) continue;
        all[g] = keep_lanes(load_bf16(scales[g]), seen.low - 16 * g, seen.high - 16 * g, zero());
        most = vpeak(most, all[g]);
      }
      const float largest = reduce_peak(most) * kLargestWeight;
      const Vec inverse = set1(largest < 1e-30f ? 0.0f : kCodeMax / largest);
      for (int g = 0; g < kGroups; ++g) by[g] = mul(all[g], inverse);
      scale = largest / kCodeMax;
    }
  };

  // Softmax weights of `queries` queries times the values' scales, as 16-bit codes. That one is no number is also in the
  // sum of the weights.
  static void pack_weights(const Vec (*weights)[kGroups], int queries, const uint16_t* const* scales, const Span* seen,
                           uint32_t* to) {
    for (int i = 0; i < queries;) {
      const Coding coding(scales, seen[i]);
      const Span span = seen[i];
      for (; i < queries && seen[i].low == span.low && seen[i].high == span.high; ++i, to += kWeightWords) {
        IVec codes[kGroups];
#pragma GCC unroll 4
        for (int g = 0; g < kGroups; ++g) codes[g] = to_int(mul(weights[i][g], coding.by[g]));
        auto* bytes = reinterpret_cast<uint8_t*>(to);
        split_codes(codes, bytes, bytes + kKeyTile);
        __builtin_memcpy(to + 2 * kWeightQuads, &coding.scale, 4);
      }
    }
  }

  template <int QUERIES, int WIDTH>
  static void value_block(const KvLayer& kv, const uint32_t* weights, const Type* const* values, int d, int low,
                          int high, float* sum, Ahead& ahead) {
    IVec upper[QUERIES][WIDTH], lower[QUERIES][WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; ++w) upper[i][w] = lower[i][w] = iset1(0);
    for (int p = low / 4; 4 * p < high; ++p) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(p % 4) * 4 * kv.padded + 4 * d;
      const Type* v = values[p / 4] + at;
      ahead.fetch(kStepLines);
      Bytes weight[QUERIES][2];
#pragma GCC unroll 8
      for (int i = 0; i < QUERIES; ++i) {
        weight[i][0] = set_quad(weights[i * kWeightWords + p]);
        weight[i][1] = set_quad(weights[i * kWeightWords + kWeightQuads + p]);
      }
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; ++w) {
        const Bytes x = load_bytes(v + 64 * w);
#pragma GCC unroll 8
        for (int i = 0; i < QUERIES; ++i) {
          upper[i][w] = dot_quads(upper[i][w], weight[i][0], x);
          lower[i][w] = dot_quads(lower[i][w], weight[i][1], x);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i) {
      float scale;
      __builtin_memcpy(&scale, weights + i * kWeightWords + 2 * kWeightQuads, 4);
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; ++w) {
        float* to = sum + i * kv.padded + d + 16 * w;
        store(to, fma(to_float(iadd(shift_left(upper[i][w], 8), lower[i][w])), set1(scale), load(to)));
      }
    }
  }

  // The least bf16 number that is not less than a 127th of `most`, so that codes end at 127; 0 where that is next to nothing. A NaN stays one.
  static uint16_t scale_for(float most) {
    if (most < 1e-30f) return 0;
    const uint32_t bits = float_to_bits(most / 127.0f), rest = bits & 0xffff;
    return static_cast<uint16_t>(most == most ? (bits >> 16) + (rest != 0) : (bits >> 16) | 0x40);
  }

  static void put(const KvLayer& kv, int32_t block, int head, int slot, const float* k, const float* v) {
    alignas(64) uint8_t codes[kMaxHead];
    const int dim = kv.head_dim, width = kv.width;
    const auto round = [&](const float* x, int32_t bias) {
      const uint16_t scale = scale_for(peak_of(x, dim));
      const float inverse = scale == 0 ? 0.0f : 1.0f / bf16_to_float(scale);
      int d = 0;
      for (; d + 16 <= dim; d += 16)
        store_low_bytes(codes + d, iadd(to_int(mul(load(x + d), set1(inverse))), iset1(bias)));
      for (; d < dim; ++d) codes[d] = static_cast<uint8_t>(code_of(x[d] * inverse) + bias);
      return scale;
    };
    kv.key_scales(block, head)[slot] = round(k, 128);
    for (int d = dim; d < width; ++d) codes[d] = 0;  // the query's codes are zero there
    uint8_t* keys = kv.keys(block, head) + slot / 16 * 16 * width + slot % 16 * 4;
    for (int d = 0; d < width; d += 4) __builtin_memcpy(keys + d * 16, codes + d, 4);
    kv.value_scales(block, head)[slot] = round(v, 0);
    uint8_t* values = kv.values(block, head) + slot / 4 * 4 * kv.padded + slot % 4;
    for (int d = 0; d < dim; ++d) values[4 * d] = codes[d];  // its neighbours may be another thread's
  }
};
