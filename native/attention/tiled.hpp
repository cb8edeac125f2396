// Scores and weighted values over bf16 keys and values on AMX tiles, up to 16 queries at a time. The unit sums in an
// order of its own (see tile_dot_bf16), so this level's bits differ from the others'; for any number of queries they are
// the same. Included inside a level's namespace by attention.cpp.
//
// Two tiles of sums (0, 1) share each tile of queries or of weights (4); their tiles of keys or values take turns (6): as
// few as in linear/digits.hpp. Values are taken 32 keys at a time: the unit needs as long for half of them. With each tile
// of 16 lines, as many are fetched ahead.
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
  static void pack_weights(const Vec (*weights)[kGroups], int, const uint16_t* const*, const Span*, uint32_t* to) {
#pragma GCC unroll 2
    for (int g = 0; g < kGroups; g += 2) store_bf16(to + 8 * g, weights[0][g], weights[0][g + 1]);
  }

  // The values of groups 2i and 2i + 1 next to each other, where they are not already; zeros for groups outside
  // from … to - 1. `room` has room for a tile's.
  static void gather(const KvLayer& kv, int, int from, int to, const Type** values, float* room) {
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

  static void score(const KvLayer& kv, int, const uint32_t* q, int from, int to, const Type* const* keys,
                    const uint16_t* const*, float* scores, Ahead& ahead) {
    const int pairs = kv.width / 2;
    for (int g = from; g < to; g += 2) {
      const bool two = g + 1 < to;
      tile_zero<0>();
      tile_zero<1>();
      for (int p = 0; p < pairs; p += 16) {
        tile_load<4>(q + p, 4 * pairs);
        add_product<0>(keys[g] + 32 * p, 64, ahead);
        if (two) add_product<1>(keys[g + 1] + 32 * p, 64, ahead);
      }
      tile_store<0>(scores + 16 * g, sizeof(float) * kKeyTile);
      if (two) tile_store<1>(scores + 16 * (g + 1), sizeof(float) * kKeyTile);
    }
  }

  static void add_values(const KvLayer& kv, int, const uint32_t* weights, const Type* const* values, int low, int high,
                         float* sum, Ahead& ahead) {
    const ptrdiff_t stride = static_cast<ptrdiff_t>(sizeof(float)) * kv.padded;  // also of a pair of values
    for (int d = 0; d < kv.padded; d += 32) {
      tile_load<0>(sum + d, stride);
      tile_load<1>(sum + d + 16, stride);
      for (int g = low / 32 * 2; 16 * g < high; g += 2) {
        tile_load<4>(weights + 8 * g, 4 * kWeightWords);
        add_product<0>(values[g] + 2 * d, stride, ahead);
        add_product<1>(values[g] + 2 * (d + 16), stride, ahead);
      }
      tile_store<0>(sum + d, stride);
      tile_store<1>(sum + d + 16, stride);
    }
  }

 private:
  template <int SUM>
  static inline void add_product(const Type* right, ptrdiff_t stride, Ahead& ahead) {
    ahead.fetch_eight();
    tile_load<6>(right, stride);
    ahead.fetch_eight();
    tile_dot_bf16<SUM, 4, 6>();
  }
};

// The same over 8-bit keys and values, whose quads lie as the unit takes them, for many queries; a few go faster by vectors.
// Sums are whole numbers, so that both give the same bits. A quad is one of a tile's lines: values are taken kKeyTile keys
// at a time.
struct TiledInt8Kv : Blocked<Int8Kv> {
  using Few = Blocked<Int8Kv>;
  static constexpr int kQueries = 16;
  static constexpr int kTogether = 16;
  static constexpr int kSoftmaxLines = 4;
  static constexpr int kLines = 8;  // fetched ahead with each tile
  using Sums = int32_t[2][kQueries][16];  // by the high and by the low bytes of codes

  static bool takes(const KvLayer& kv) { return kv.type == KvType::int8 && kv.head_dim % 64 == 0; }
  static bool few(int queries) { return queries <= Few::kQueries; }
  static int take(int queries) { return few(queries) ? Few::take(queries) : min_of(queries, kQueries); }
  static void prepare(int queries) {
    if (!few(queries)) tiles_ready(tiles_of(queries));
  }

  // The values of all groups next to each other from values[0] on, where they are not already; zeros for groups outside
  // from … to - 1.
  static void gather(const KvLayer& kv, int queries, int from, int to, const Type** values, float* room) {
    if (few(queries)) return;
    const ptrdiff_t size = static_cast<ptrdiff_t>(16) * kv.padded;  // of a group
    bool together = from == 0 && to == kGroups;
    for (int g = from + 1; g < to; ++g) together = together && values[g] == values[g - 1] + size;
    if (together) return;
    auto* at = reinterpret_cast<Type*>(room);
    for (int g = 0; g < kGroups; ++g) {
      if (from <= g && g < to)
        __builtin_memcpy(at + g * size, values[g], size);
      else
        __builtin_memset(at + g * size, 0, size);
    }
    values[0] = at;
  }

  static void score(const KvLayer& kv, int queries, const uint32_t* q, int from, int to, const Type* const* keys,
                    const uint16_t* const* scales, float* scores, Ahead& ahead) {
    if (few(queries)) return Few::score(kv, queries, q, from, to, keys, scales, scores, ahead);
    const size_t words = query_words(kv);
    alignas(64) Sums sums[kGroups];
    for (int g = from; g < to; ++g) {
      tile_zero<0>();
      tile_zero<1>();
      for (int d = 0; d < kv.width; d += 64) {
        ahead.fetch(kLines);
        tile_load<6>(keys[g] + 16 * d, 64);
        tile_load<4>(q + d / 4, sizeof *q * words);
        tile_dot_bytes<0, 4, 6>();
        tile_load<4>(q + (kv.width + d) / 4, sizeof *q * words);
        tile_dot_bytes<1, 4, 6>();
      }
      tile_store<0>(sums[g][0], 64);
      tile_store<1>(sums[g][1], 64);
    }
    for (int i = 0; i < queries; ++i, q += words) {
      float scale;
      __builtin_memcpy(&scale, q + kv.width / 2 + 1, 4);
      const IVec start = iset1(static_cast<int32_t>(q[kv.width / 2]));
      for (int g = from; g < to; ++g) {
        const IVec all = iadd(sum_of(sums[g], i), start);
        store(scores + i * kKeyTile + 16 * g, mul(to_float(all), mul(set1(scale), load_bf16(scales[g]))));
      }
    }
  }

  static void add_values(const KvLayer& kv, int queries, const uint32_t* weights, const Type* const* values, int first,
                         int last, float* sum, Ahead& ahead) {
    if (few(queries)) return Few::add_values(kv, queries, weights, values, first, last, sum, ahead);
    constexpr ptrdiff_t kStride = sizeof(uint32_t) * kWeightWords;
    for (int from = 0, many; from < kv.padded; from += 16 * many) {
      many = min_of(kGroups, (kv.padded - from) / 16);
      alignas(64) Sums sums[kGroups];
      for (int i = 0; i < many; ++i) {
        ahead.fetch(kLines);
        tile_zero<0>();
        tile_zero<1>();
        tile_load<6>(values[0] + 4 * (from + 16 * i), static_cast<ptrdiff_t>(4) * kv.padded);
        tile_load<4>(weights, kStride);
        tile_dot_unsigned<0, 4, 6>();
        tile_load<4>(weights + kWeightQuads, kStride);
        tile_dot_unsigned<1, 4, 6>();
        tile_store<0>(sums[i][0], 64);
        tile_store<1>(sums[i][1], 64);
      }
      for (int query = 0; query < queries; ++query) {
        float scale;
        __builtin_memcpy(&scale, weights + query * kWeightWords + 2 * kWeightQuads, 4);
        for (int i = 0; i < many; ++i) {
          float* to = sum + query * kv.padded + from + 16 * i;
          const IVec all = sum_of(sums[i], query);
          store(to, fma(to_float(all), set1(scale), load(to)));
        }
      }
    }
  }

 private:
  static inline IVec sum_of(const Sums& sums, int query) {
    return iadd(shift_left(iload(sums[0][query]), 8), iload(sums[1][query]));
  }
};
