// Scores and weighted values over bf16 keys and values on AMX tiles, up to 16 queries at a time. The unit sums in an
// order of its own (see tile_dot_bf16), so this level's bits differ from the others'; for any number of queries they are
// the same. Included inside a level's namespace by attention.cpp.
//
// Four tiles of sums at once share each tile of queries or of weights (4); tiles of keys or values take turns (6, 7).
// Values are taken 32 keys at a time: the unit needs as long for half of them. With each tile of 16 lines, as many are
// fetched ahead.
struct TiledKv : Bf16Kv {
  static constexpr int kQueries = 16;
  static constexpr int kTogether = 1;
  static constexpr int kSoftmaxLines = 0;
  static constexpr int kWeightWords = kKeyTile / 2;

  static bool takes(const KvLayer& kv) { return kv.type == KvType::bf16 && kv.head_dim % 32 == 0; }
  static int take(int queries) { return queries < kQueries ? queries : kQueries; }
  static void prepare(int queries) { tiles_ready(tiles_of(queries)); }

  // The unit takes pairs packed, also where this level's vectors do not.
  static size_t query_words(const KvLayer& kv) { return kv.width / 2; }
  static void pack_query(const float* q, float by, const KvLayer& kv, uint32_t* to) { round_to(q, by, kv.head_dim, to); }
  static void pack_weights(const Vec (*weights)[kGroups], int, const float* const*, const Span*, uint32_t* to) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g += 2) store_bf16(to + 8 * g, weights[0][g], weights[0][g + 1]);
  }

  // The values of groups 2i and 2i + 1 next to each other, where they are not already; zeros for groups outside
  // from … to - 1. `room` has room for a tile's.
  static void gather(const KvLayer& kv, int from, int to, const Type** values, float* room) {
    const ptrdiff_t size = static_cast<ptrdiff_t>(16) * kv.padded;  // of a group
    auto* at = reinterpret_cast<Type*>(room);
    for (int g = from & ~1; g < to; g += 2, at += 2 * size) {
      if (g >= from && g + 1 < to && values[g + 1] == values[g] + size) continue;
      for (int half = 0; half < 2; ++half) {
        if (from <= g + half && g + half < to)
          __builtin_memcpy(at + half * size, values[g + half], size * sizeof *at);
        else
          __builtin_memset(at + half * size, 0, size * sizeof *at);
      }
      values[g] = at;
    }
  }

  // f of each of from … to - 1, which lie in 0 … 3, as a constant.
  template <typename F>
  static void each(int from, int to, const F& f) {
    if (from <= 0 && to > 0) f(std::integral_constant<int, 0>());
    if (from <= 1 && to > 1) f(std::integral_constant<int, 1>());
    if (from <= 2 && to > 2) f(std::integral_constant<int, 2>());
    if (from <= 3 && to > 3) f(std::integral_constant<int, 3>());
  }

  static void score(const KvLayer& kv, int, const uint32_t* q, int from, int to, const Type* const* keys,
                    const float* const*, float* scores, Ahead& ahead) {
    const int pairs = kv.width / 2;
    each(from, to, []<int G>(std::integral_constant<int, G>) { tile_zero<G>(); });
    for (int p = 0; p < pairs; p += 16) {
      tile_load<4>(q + p, 4 * pairs);
      each(from, to, [&]<int G>(std::integral_constant<int, G>) {
        ahead.fetch_eight();
        tile_load<6 + G % 2>(keys[G] + 32 * p, 64);
        ahead.fetch_eight();
        tile_dot_bf16<G, 4, 6 + G % 2>();
      });
    }
    each(from, to, [&]<int G>(std::integral_constant<int, G>) {
      tile_store<G>(scores + 16 * G, sizeof(float) * kKeyTile);
    });
  }

  static void add_values(const KvLayer& kv, int, const uint32_t* weights, const Type* const* values, int low, int high,
                         float* sum, Ahead& ahead) {
    const ptrdiff_t stride = static_cast<ptrdiff_t>(sizeof(float)) * kv.padded;  // also of a pair of values
    for (int d = 0; d < kv.padded; d += 64) {
      const int tiles = (kv.padded - d) / 16;
      each(0, tiles, [&]<int I>(std::integral_constant<int, I>) { tile_load<I>(sum + d + 16 * I, stride); });
      for (int g = low / 32 * 2; 16 * g < high; g += 2) {
        tile_load<4>(weights + 8 * g, 4 * kWeightWords);
        each(0, tiles, [&]<int I>(std::integral_constant<int, I>) {
          ahead.fetch_eight();
          tile_load<6 + I % 2>(values[g] + 2 * (d + 16 * I), stride);
          ahead.fetch_eight();
          tile_dot_bf16<I, 4, 6 + I % 2>();
        });
      }
      each(0, tiles, [&]<int I>(std::integral_constant<int, I>) { tile_store<I>(sum + d + 16 * I, stride); });
    }
  }
};
