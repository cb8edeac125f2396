// Paged causal attention with online softmax (Milakov & Gimelshein, 2018; Dao et al., 2022).
//
// For one query the order of operations is fixed by absolute key positions: within a chunk of kChunk keys,
// one softmax update per tile of kKeyTile keys, values added in key order; chunks merged in order. Which
// queries share a pass, and whether chunks run in one item or in several, therefore never changes a bit.
// A key that a query may not see takes no part: not even as zero times its value.
#include "attention/attention.hpp"

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr int kGroups = kKeyTile / 16;

struct Bf16Kv {
  using Type = uint16_t;
  static inline Vec get(const Type* p) { return load_bf16(p); }
};
struct FloatKv {
  using Type = float;
  static inline Vec get(const Type* p) { return load(p); }
};

inline int min_of(int a, int b) { return a < b ? a : b; }
inline int max_of(int a, int b) { return a > b ? a : b; }

// Blocks are small and lie anywhere, so no hardware prefetcher follows: while keys are read the tile's values
// are fetched, and while values are read the next tile's keys. `ahead` holds a place for each group of 16
// that is as large as the one being read, or null.
inline void fetch(const void* p, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(p) + i, 0, 3);
}

// scores[query][16 group + lane] = q . k: one chain of multiply-adds over the head per (query, key).
template <typename KV, int QUERIES, int GROUPS>
void score_block(const float* q, int padded, const typename KV::Type* const* keys, int head_dim, float* scores,
                 const typename KV::Type* const* ahead) {
  Vec sum[QUERIES][GROUPS];
  for (int i = 0; i < QUERIES; ++i)
    for (int g = 0; g < GROUPS; ++g) sum[i][g] = zero();
  for (int d = 0; d < head_dim; ++d) {
    if (ahead != nullptr && d % 2 == 0)
      for (int g = 0; g < GROUPS; ++g) fetch(ahead[g] + 16 * d, 32 * sizeof(typename KV::Type));
    Vec k[GROUPS];
    for (int g = 0; g < GROUPS; ++g) k[g] = KV::get(keys[g] + 16 * d);
    for (int i = 0; i < QUERIES; ++i) {
      const Vec x = set1(q[i * padded + d]);
      for (int g = 0; g < GROUPS; ++g) sum[i][g] = fma(x, k[g], sum[i][g]);
    }
  }
  for (int i = 0; i < QUERIES; ++i)
    for (int g = 0; g < GROUPS; ++g) store(scores + i * kKeyTile + 16 * g, sum[i][g]);
}

template <typename KV, int GROUPS>
void score_queries(const float* q, int queries, int padded, const typename KV::Type* const* keys, int head_dim,
                   float* scores, const typename KV::Type* const* ahead) {
  int i = 0;
  const auto first = [&] { return i == 0 ? ahead : nullptr; };
  for (; i + kQueryBlock <= queries; i += kQueryBlock)
    score_block<KV, kQueryBlock, GROUPS>(q + i * padded, padded, keys, head_dim, scores + i * kKeyTile, first());
  if constexpr (kQueryBlock > 3)
    for (; i + 3 <= queries; i += 3)
      score_block<KV, 3, GROUPS>(q + i * padded, padded, keys, head_dim, scores + i * kKeyTile, first());
  for (; i < queries; ++i)
    score_block<KV, 1, GROUPS>(q + i * padded, padded, keys, head_dim, scores + i * kKeyTile, first());
}

// sum[query] += p[query][key] * v[key] for keys low … high - 1 of the tile, in order.
template <typename KV, int QUERIES, int WIDTH>
void value_block(const float* p, const typename KV::Type* const* values, int padded, int low, int high, float* sum,
                 const typename KV::Type* const* ahead) {
  Vec acc[QUERIES][WIDTH];
  for (int i = 0; i < QUERIES; ++i)
    for (int w = 0; w < WIDTH; ++w) acc[i][w] = load(sum + i * padded + 16 * w);
  for (int key = low; key < high;) {
    const int end = min_of(high, key / 16 * 16 + 16);
    const typename KV::Type* v = values[key / 16] + static_cast<ptrdiff_t>(key % 16) * padded;
    const typename KV::Type* next = ahead != nullptr ? ahead[key / 16] + (v - values[key / 16]) : nullptr;
    for (; key < end; ++key, v += padded) {
      if (next != nullptr) {
        fetch(next, 16 * WIDTH * sizeof(typename KV::Type));
        next += padded;
      }
      Vec x[WIDTH];
      for (int w = 0; w < WIDTH; ++w) x[w] = KV::get(v + 16 * w);
      for (int i = 0; i < QUERIES; ++i) {
        const Vec weight = set1(p[i * kKeyTile + key]);
        for (int w = 0; w < WIDTH; ++w) acc[i][w] = fma(weight, x[w], acc[i][w]);
      }
    }
  }
  for (int i = 0; i < QUERIES; ++i)
    for (int w = 0; w < WIDTH; ++w) store(sum + i * padded + 16 * w, acc[i][w]);
}

template <typename KV, int WIDTH>
void value_queries(const float* p, int queries, const typename KV::Type* const* values, int padded, int low,
                   int high, float* sum, const typename KV::Type* const* ahead) {
  int i = 0;
  const auto first = [&] { return i == 0 ? ahead : nullptr; };
  for (; i + kQueryBlock <= queries; i += kQueryBlock)
    value_block<KV, kQueryBlock, WIDTH>(p + i * kKeyTile, values, padded, low, high, sum + i * padded, first());
  if constexpr (kQueryBlock > 3)
    for (; i + 3 <= queries; i += 3)
      value_block<KV, 3, WIDTH>(p + i * kKeyTile, values, padded, low, high, sum + i * padded, first());
  for (; i < queries; ++i)
    value_block<KV, 1, WIDTH>(p + i * kKeyTile, values, padded, low, high, sum + i * padded, first());
}

template <typename KV>
void add_values(const float* p, int queries, const typename KV::Type* const* values, int padded, int low, int high,
                float* sum, const typename KV::Type* const* ahead) {
  const typename KV::Type *at[kGroups], *then[kGroups];
  for (int g = 0; g < kGroups; ++g) {
    at[g] = values[g];
    then[g] = ahead != nullptr ? ahead[g] : nullptr;
  }
  int d = 0;
  const auto advance = [&](int width) {
    d += 16 * width;
    for (int g = low / 16; g <= (high - 1) / 16; ++g) {
      at[g] += 16 * width;
      if (ahead != nullptr) then[g] += 16 * width;
    }
  };
  const auto next = [&] { return ahead != nullptr ? then : nullptr; };
  if constexpr (kValueBlock > 1)
    for (; d + 16 * kValueBlock <= padded; advance(kValueBlock))
      value_queries<KV, kValueBlock>(p, queries, at, padded, low, high, sum + d, next());
  for (; d < padded; advance(1)) value_queries<KV, 1>(p, queries, at, padded, low, high, sum + d, next());
}

// One query's update for the scores of a tile, of which it sees lanes low … high - 1: scores become weights.
inline void softmax_update(float* scores, int low, int high, int padded, float* state, float* sum) {
  const Vec minus_inf = set1(-__builtin_inff());
  Vec s[kGroups];
  for (int g = 0; g < kGroups; ++g) s[g] = keep_lanes(load(scores + 16 * g), low - 16 * g, high - 16 * g, minus_inf);
  const float seen = reduce_max(vmax(vmax(s[0], s[1]), vmax(s[2], s[3])));
  const float before = state[0];
  const float most = seen > before ? seen : before;
  if (most != before) {
    const Vec shrink = vexp(set1(before - most));
    for (int d = 0; d < padded; d += 16) store(sum + d, mul(load(sum + d), shrink));
    float factor[16];
    store(factor, shrink);
    state[1] *= factor[0];
    state[0] = most;
  }
  const Vec top = set1(most);
  for (int g = 0; g < kGroups; ++g) {
    s[g] = vexp(sub(s[g], top));
    store(scores + 16 * g, s[g]);
  }
  state[1] += reduce_add(add(add(s[0], s[1]), add(s[2], s[3])));
}

// total <- total merged with a later chunk; state and total_state hold (m, l).
inline void merge_chunk(float* total_state, float* total, const float* state, const float* sum, int padded) {
  const float most = state[0] > total_state[0] ? state[0] : total_state[0];
  const Vec a = vexp(set1(total_state[0] - most)), b = vexp(set1(state[0] - most));
  float fa[16], fb[16];
  store(fa, a);
  store(fb, b);
  total_state[0] = most;
  const float kept = total_state[1] * fa[0];
  const float added = state[1] * fb[0];
  total_state[1] = kept + added;
  for (int d = 0; d < padded; d += 16)
    store(total + d, fma(load(sum + d), b, mul(load(total + d), a)));
}

inline void normalise(const float* sum, float l, int head_dim, float* out) {
  const Vec by = set1(l);
  int d = 0;
  for (; d + 16 <= head_dim; d += 16) store(out + d, div(load(sum + d), by));
  if (d < head_dim) store_n(out + d, div(load(sum + d), by), head_dim - d);
}

inline void copy(float* to, const float* from, int n) {
  for (int i = 0; i < n; ++i) to[i] = from[i];
}

template <typename KV>
struct Attention {
  using Type = typename KV::Type;
  const AttendItem& item;
  const KvLayer& kv;
  const int heads, queries, padded;
  float *q, *sum, *total, *scores, *state, *total_state;

  explicit Attention(const AttendItem& i)
      : item(i), kv(*i.kv), heads(i.queries_per_kv), queries(i.rows * i.queries_per_kv), padded(i.kv->padded) {
    q = item.scratch;
    sum = q + queries * padded;
    total = sum + queries * padded;
    scores = total + queries * padded;
    state = scores + queries * kKeyTile;
    total_state = state + 2 * queries;
  }

  int low_of(int row) const { return item.window > 0 ? max_of(0, item.position + row - item.window + 1) : 0; }

  void gather_queries() {
    for (int row = 0; row < item.rows; ++row)
      for (int h = 0; h < heads; ++h)
        copy(q + (row * heads + h) * padded, item.q + row * item.q_stride + h * item.q_head_stride, kv.head_dim);
  }

  // Where the 16 keys from `position` on, and their values, lie.
  void locate(int position, const Type*& keys, const Type*& values) const {
    const size_t slot = position % kv.block_size;
    const size_t page = static_cast<size_t>(item.table[position / kv.block_size]) * kv.kv_heads + item.kv_head;
    keys = reinterpret_cast<const Type*>(kv.k) + (page * kv.block_size + slot) * kv.head_dim;
    values = reinterpret_cast<const Type*>(kv.v) + (page * kv.block_size + slot) * padded;
  }

  void tile(int start, int first_row, int last_row) {
    const int end = start + kKeyTile;
    const int from_key = max_of(start, low_of(first_row));
    const int to_key = min_of(end, item.position + last_row);  // past the last row's own key
    const Type* keys[kGroups] = {};
    const Type* values[kGroups] = {};
    const Type* later[kGroups] = {};  // the next tile's keys
    const int from = (from_key - start) / 16, to = (to_key - start + 15) / 16;
    const int last_key = item.position + item.rows - 1;
    for (int g = from; g < to; ++g) {
      const int position = start + 16 * g;
      locate(position, keys[g], values[g]);
      const Type* unused;
      later[g] = keys[g];
      if (position + kKeyTile <= last_key) locate(position + kKeyTile, later[g], unused);
    }
    const int offset = first_row * heads, count = (last_row - first_row) * heads;
    int g = from;
    for (; g + kKeyGroups <= to; g += kKeyGroups)
      score_queries<KV, kKeyGroups>(q + offset * padded, count, padded, keys + g, kv.head_dim,
                                    scores + offset * kKeyTile + 16 * g, values + g);
    if constexpr (kKeyGroups > 1)
      for (; g < to; ++g)
        score_queries<KV, 1>(q + offset * padded, count, padded, keys + g, kv.head_dim,
                             scores + offset * kKeyTile + 16 * g, values + g);
    // Rows that see the whole tile share the loads of V; at the edges each row goes alone.
    int shared = 0;
    const auto flush = [&](int row) {
      if (shared == 0) return;
      const int at = (row - shared) * heads;
      add_values<KV>(scores + at * kKeyTile, shared * heads, values, padded, 0, kKeyTile, sum + at * padded,
                     later);
      shared = 0;
    };
    for (int row = first_row; row < last_row; ++row) {
      const int low = max_of(low_of(row), start) - start, high = min_of(item.position + row + 1, end) - start;
      for (int i = row * heads; i < (row + 1) * heads; ++i)
        softmax_update(scores + i * kKeyTile, low, high, padded, state + 2 * i, sum + i * padded);
      if (low == 0 && high == kKeyTile) {
        ++shared;
        continue;
      }
      flush(row);
      const int at = row * heads;
      add_values<KV>(scores + at * kKeyTile, heads, values, padded, low, high, sum + at * padded, later);
    }
    flush(last_row);
  }

  void chunk(int number) {
    for (int i = 0; i < queries; ++i) {
      state[2 * i] = -__builtin_inff();
      state[2 * i + 1] = 0.0f;
    }
    for (int i = 0; i < queries * padded; ++i) sum[i] = 0.0f;
    const int last_key = item.position + item.rows - 1;
    for (int start = number * kChunk; start < (number + 1) * kChunk && start <= last_key; start += kKeyTile) {
      int first = max_of(0, start - item.position), last = item.rows;  // the rows that see any key of the tile
      while (last > first && low_of(last - 1) >= start + kKeyTile) --last;
      if (first < last) tile(start, first, last);
    }
  }

  void run() {
    gather_queries();
    for (int i = 0; i < queries; ++i) total_state[2 * i + 1] = 0.0f;
    for (int number = item.first_chunk; number < item.last_chunk; ++number) {
      chunk(number);
      for (int i = 0; i < queries; ++i) {
        if (item.partial != nullptr) {
          float* to = item.partial + static_cast<ptrdiff_t>(i) * (padded + 2);
          copy(to, state + 2 * i, 2);
          copy(to + 2, sum + i * padded, padded);
        } else if (state[2 * i + 1] == 0.0f) {
          continue;  // sees no key of this chunk
        } else if (total_state[2 * i + 1] == 0.0f) {
          copy(total_state + 2 * i, state + 2 * i, 2);
          copy(total + i * padded, sum + i * padded, padded);
        } else {
          merge_chunk(total_state + 2 * i, total + i * padded, state + 2 * i, sum + i * padded, padded);
        }
      }
    }
    if (item.partial != nullptr) return;
    for (int i = 0; i < queries; ++i)
      normalise(total + i * padded, total_state[2 * i + 1], kv.head_dim,
                item.out + i / heads * item.out_stride + i % heads * item.q_head_stride);
  }
};

}  // namespace

void attend(const AttendItem& item) {
  if (item.kv->bf16) {
    Attention<Bf16Kv>(item).run();
  } else {
    Attention<FloatKv>(item).run();
  }
}

// The merge of one query's chunks, each `chunk_stride` floats after the one before; the first chunk's memory
// takes the total.
void merge(const float* partials, ptrdiff_t chunk_stride, int chunks, int padded, int head_dim, float* out) {
  float state[2] = {-__builtin_inff(), 0.0f};
  float* total = const_cast<float*>(partials) + 2;
  for (int c = 0; c < chunks; ++c) {
    const float* next = partials + c * chunk_stride;
    if (next[1] == 0.0f) continue;
    if (state[1] == 0.0f) {
      copy(state, next, 2);
      if (c > 0) copy(total, next + 2, padded);
    } else {
      merge_chunk(state, total, next, next + 2, padded);
    }
  }
  normalise(total, state[1], head_dim, out);
}

}  // namespace tenfold::TENFOLD_LEVEL
