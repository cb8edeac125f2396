// Scores and weighted values over bf16 keys and values, two of a sum at a time. Included inside a level's
// namespace by attention.cpp. Queries and softmax weights are rounded to bf16; sums are float32.
struct Bf16Kv {
  using Type = uint16_t;
  static constexpr int kBlock = kPairQueries;
  static constexpr int kTogether = 3;       // queries whose softmax takes turns
  static constexpr int kSoftmaxLines = 12;  // fetched ahead during each
  static constexpr int kWeightWords = kKeyTile / 2 * kPairWords;
  static constexpr float kSlack = 8.0f;
  // Vectors that a loaded pair of a query is multiplied with: loads bind where there are many queries.
  template <int QUERIES, int COUNT>
  static constexpr int kShared = QUERIES > 3 && COUNT % kPairsTogether == 0 ? kPairsTogether : 1;
  static constexpr uint16_t kInfinity = 0x7f80, kNan = 0x7fc0;

  static size_t query_words(const KvLayer& kv) { return static_cast<size_t>(kv.width) / 2 * kPairWords; }

  // n values times `by`, to bf16.
  static void round_to(const float* x, float by, int n, void* to) {
    auto* bytes = static_cast<uint8_t*>(to);
    int d = 0;
    for (; d + 16 <= n; d += 16) store_bf16(bytes + 2 * d, mul(load(x + d), set1(by)));
    for (; d < n; ++d) {
      const uint16_t rounded = float_to_bf16(x[d] * by);
      __builtin_memcpy(bytes + 2 * d, &rounded, 2);
    }
  }

  static void pack_query(const float* q, float by, const KvLayer& kv, uint32_t* to) {
    int d = 0;
    for (; d + 16 <= kv.head_dim; d += 16) store_pairs(to + d / 2 * kPairWords, mul(load(q + d), set1(by)));
    if (d == kv.head_dim) return;
    uint32_t last[8 * kPairWords];
    store_pairs(last, mul(load_n(q + d, kv.head_dim - d), set1(by)));
    __builtin_memcpy(to + d / 2 * kPairWords, last, static_cast<size_t>(kv.width - d) / 2 * kPairWords * sizeof *to);
  }

  // scores[query][16 group + lane] = q . k, over pairs in order.
  template <int QUERIES, int GROUPS>
  static void score_block(const KvLayer& kv, const uint32_t* q, const Type* const* keys, const uint16_t* const*,
                          float* scores, Ahead& ahead) {
    const int pairs = kv.width / 2;
    Vec sum[QUERIES][GROUPS];
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) sum[i][g] = zero();
    for (int p = 0; p < pairs; ++p) {
      ahead.fetch(kStepLines);
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; g += kShared<QUERIES, GROUPS>) {
        Pairs k[kShared<QUERIES, GROUPS>];
#pragma GCC unroll 2
        for (int j = 0; j < kShared<QUERIES, GROUPS>; ++j) k[j] = load_pairs(keys[g + j] + 32 * p);
        const uint32_t* x = anew(q + p * kPairWords);
#pragma GCC unroll 8
        for (int i = 0; i < QUERIES; ++i) {
          const Pair pair = load_pair(x + i * pairs * kPairWords);
#pragma GCC unroll 2
          for (int j = 0; j < kShared<QUERIES, GROUPS>; ++j) sum[i][g + j] = dot_pairs(sum[i][g + j], k[j], pair);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int g = 0; g < GROUPS; ++g) store(scores + i * kKeyTile + 16 * g, sum[i][g]);
  }

  // The queries' softmax weights, for value_block().
  static void pack_weights(const Vec (*weights)[kGroups], int queries, const uint16_t* const*, const Span*, uint32_t* to) {
    for (int i = 0; i < queries; ++i, to += kWeightWords)
      for (int g = 0; g < kGroups; ++g) store_pairs(to + 8 * g * kPairWords, weights[i][g]);
  }

  // sum[query][d …] += weight[query][key] * v[key] for keys low … high - 1 of the tile, over pairs in order. Weights of
  // keys that a query does not see are zero, and values finite (memory begins as zeros; see put): such a key adds nothing.
  template <int QUERIES, int WIDTH>
  static void value_block(const KvLayer& kv, const uint32_t* weights, const Type* const* values, int d, int low,
                          int high, float* sum, Ahead& ahead) {
    Vec acc[QUERIES][WIDTH];
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; ++w) acc[i][w] = load(sum + i * kv.padded + d + 16 * w);
    for (int p = low / 2; 2 * p < high; ++p) {
      const ptrdiff_t at = static_cast<ptrdiff_t>(p % 8) * 2 * kv.padded + 2 * d;
      const Type* v = values[p / 8] + at;
      ahead.fetch(kStepLines);
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; w += kShared<QUERIES, WIDTH>) {
        Pairs x[kShared<QUERIES, WIDTH>];
#pragma GCC unroll 2
        for (int j = 0; j < kShared<QUERIES, WIDTH>; ++j) x[j] = load_pairs(v + 32 * (w + j));
        const uint32_t* weight = anew(weights + p * kPairWords);
#pragma GCC unroll 8
        for (int i = 0; i < QUERIES; ++i) {
          const Pair pair = load_pair(weight + i * kWeightWords);
#pragma GCC unroll 2
          for (int j = 0; j < kShared<QUERIES, WIDTH>; ++j) acc[i][w + j] = dot_pairs(acc[i][w + j], x[j], pair);
        }
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < QUERIES; ++i)
#pragma GCC unroll 4
      for (int w = 0; w < WIDTH; ++w) store(sum + i * kv.padded + d + 16 * w, acc[i][w]);
  }

  // A key whose values are infinite or no numbers becomes no number itself, and its values zeros: whoever sees it
  // gets no number, and rows in the same pass that do not see it never meet 0 x infinity.
  static void put(const KvLayer& kv, int32_t block, int head, int slot, const float* k, const float* v) {
    uint16_t half[kMaxHead];
    const int dim = kv.head_dim, pairs = kv.width / 2;
    bool finite = true;
    round_to(v, 1.0f, dim, half);  // its neighbour in a pair may be written by another thread: two bytes at a time
    for (int d = 0; d < dim; ++d) finite &= (half[d] & kInfinity) != kInfinity;
    auto* values = reinterpret_cast<uint16_t*>(kv.values(block, head)) + slot / 2 * 2 * kv.padded + slot % 2;
    for (int d = 0; d < dim; ++d) values[2 * d] = finite ? half[d] : 0;
    round_to(k, 1.0f, dim, half);
    if (!finite)
      for (int d = 0; d < dim; ++d) half[d] = kNan;
    auto* keys = reinterpret_cast<uint32_t*>(kv.keys(block, head)) + slot / 16 * 16 * pairs + slot % 16;
    for (int p = 0; p < pairs; ++p) __builtin_memcpy(keys + 16 * p, half + 2 * p, 4);
  }
};
