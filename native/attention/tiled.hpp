// Scores and weighted values over bf16 keys and values on AMX tiles, up to 16 queries at a time. The unit sums in an
// order of its own (see tile_dot_bf16), so this level's bits differ from the others'; for any number of queries they are
// the same. Included inside a level's namespace by attention.cpp.
struct TiledKv : Bf16Kv {
  static constexpr int kQueries = 16;
  static constexpr int kWeightWords = kKeyTile / 2;

  static bool takes(const KvLayer& kv) { return kv.type == KvType::bf16 && kv.head_dim % 32 == 0; }
  static int take(int queries) { return queries < kQueries ? queries : kQueries; }

  // The unit takes pairs packed, also where this level's vectors do not.
  static size_t query_words(const KvLayer& kv) { return kv.width / 2; }
  static void pack_query(const float* q, float by, const KvLayer& kv, uint32_t* to) { round_to(q, by, kv.head_dim, to); }
  static void pack_weights(const Vec (*weights)[kGroups], int queries, const float* const*, const Span*, uint32_t* to) {
    for (int i = 0; i < queries; ++i, to += kWeightWords)
      for (int g = 0; g < kGroups; ++g) store_bf16(to + 8 * g, weights[i][g]);
  }

  // `q` has room for kQueries queries; what it holds beyond `queries` takes no part.
  static void score(const KvLayer& kv, int queries, const uint32_t* q, int from, int to, const Type* const* keys,
                    const float* const*, float* scores, Ahead& ahead) {
    const int pairs = kv.width / 2;
    alignas(64) float sums[kQueries][16];
    const auto group = [&](int g) {
      tile_zero<0>();
      for (int p = 0; p < pairs; p += 16) {
        ahead.fetch(4 * kStepLines);
        tile_load<4>(q + p, 4 * pairs);
        tile_load<5>(keys[g] + 32 * p, 64);
        tile_dot_bf16<0, 4, 5>();
      }
      if (queries == kQueries) {
        tile_store<0>(scores + 16 * g, sizeof(float) * kKeyTile);
        return;
      }
      tile_store<0>(sums, sizeof sums[0]);
      for (int i = 0; i < queries; ++i) store(scores + i * kKeyTile + 16 * g, load(sums[i]));
    };
    for (int g = from; g < to; ++g) group(g);
  }

  static void add_values(const KvLayer& kv, int queries, const uint32_t* weights, const Type* const* values, int low,
                         int high, float* sum, Ahead& ahead) {
    const int from = low / 16, to = (high + 15) / 16;
    alignas(64) float sums[kQueries][16];
    for (int d = 0; d < kv.padded; d += 16) {
      const bool whole = queries == kQueries;
      float* at = whole ? sum + d : sums[0];
      const ptrdiff_t stride = whole ? static_cast<ptrdiff_t>(sizeof(float)) * kv.padded : sizeof sums[0];
      if (!whole)
        for (int i = 0; i < queries; ++i) store(sums[i], load(sum + i * kv.padded + d));
      tile_load<1>(at, stride);
      for (int g = from; g < to; ++g) {
        ahead.fetch(kStepLines);
        tile_load<6>(weights + 8 * g, 4 * kWeightWords);
        tile_load<7>(values[g] + 2 * d, static_cast<ptrdiff_t>(4) * kv.padded);
        tile_dot_bf16<1, 6, 7>();
      }
      tile_store<1>(at, stride);
      if (!whole)
        for (int i = 0; i < queries; ++i) store(sum + i * kv.padded + d, load(sums[i]));
    }
  }
};
