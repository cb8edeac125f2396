// Paged causal attention with online softmax (Milakov & Gimelshein, 2018; Dao et al., 2022).
//
// For one query the order of operations is fixed by absolute key positions: within a chunk of kChunk keys,
// one softmax update per tile of kKeyTile keys, values added in key order; chunks merged in order. Which
// queries share a pass, and whether chunks run in one item or in several, therefore never changes a bit.
// Scores are in units of log2 e. The reference point of the softmax is raised only when a score exceeds it by the KV
// type's kSlack: weights then reach 2^kSlack, which float32 and bf16 hold as well as 1.
#include "attention/attention.hpp"

#include <type_traits>

#include "simd/simd.hpp"

namespace tenfold::TENFOLD_LEVEL {
namespace {

constexpr int kGroups = kKeyTile / 16;
constexpr int kMaxHead = 4096;
constexpr float kLog2e = 1.44269504f;

// Keys low … high - 1 of a tile: those that a query sees.
struct Span {
  int low, high;
};

inline int min_of(int a, int b) { return a < b ? a : b; }
inline int max_of(int a, int b) { return a > b ? a : b; }

// Blocks are small and lie anywhere, so no hardware prefetcher follows: while one tile is worked on the next one's keys
// and values are fetched, a few lines at a time, for a core has few buffers for lines on their way.
class Ahead {
 public:
  void add(const void* place, size_t bytes) {
    const char* at = static_cast<const char*>(place);
    parts_[count_++] = {at, at + bytes};
  }
  // Pass `pass` of `passes` over a tile fetches its share.
  void begin(int pass, int passes) { last_ = count_ * (pass + 1) / passes; }
  inline void fetch(int lines) {
    while (lines > 0 && part_ < last_) {
      Part& part = parts_[part_];
      const char* at = part.at;
      for (; lines > 0 && at < part.end; at += 64, --lines) __builtin_prefetch(at, 0, 2);
      part.at = at;
      if (at >= part.end) ++part_;
    }
  }
  // Eight at once, of parts whose sizes are multiples of that.
  inline void fetch_eight() {
    if (part_ == last_) return;
    Part& part = parts_[part_];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) __builtin_prefetch(part.at + 64 * i, 0, 2);
    part.at += 512;
    if (part.at == part.end) ++part_;
  }

 private:
  struct Part {
    const char *at, *end;
  };
  Part parts_[4 * kGroups];
  int count_ = 0, part_ = 0, last_ = 0;
};
constexpr int kStepLines = 3;  // of a tile's lines, fetched per step of its products

// The largest size of n values; a NaN where there is one.
inline float peak_of(const float* x, int n) {
  Vec lanes = zero();
  int i = 0;
  for (; i + 16 <= n; i += 16) lanes = vpeak(lanes, load(x + i));
  float most = reduce_peak(lanes);
  for (; i < n; ++i) {
    const float size = __builtin_fabsf(x[i]);
    most = size > most || size != size ? size : most;
  }
  return most;
}

#include "attention/bf16.hpp"
#include "attention/int8.hpp"

// Any number of queries over passes of fixed numbers of queries, groups of keys and vectors of the head.
template <typename KV>
struct Blocked : KV {
  using Type = typename KV::Type;
  static constexpr int kQueries = KV::kBlock;

  static void prepare(int) {}
  static void gather(const KvLayer&, int, int, int, const Type**, float*) {}

  // How many of `queries` the next pass takes.
  static int take(int queries) { return queries >= kQueries ? kQueries : (kQueries > 3 && queries >= 3 ? 3 : 1); }

  template <typename F>
  static void with(int queries, const F& f) {
    if constexpr (kQueries > 3)
      if (queries == 3) return f(std::integral_constant<int, 3>());
    if (queries == kQueries) return f(std::integral_constant<int, kQueries>());
    f(std::integral_constant<int, 1>());
  }

  // scores[query][key] for groups from … to - 1 of the tile; queries is one of take()'s results.
  static void score(const KvLayer& kv, int queries, const uint32_t* q, int from, int to, const Type* const* keys,
                    const uint16_t* const* scales, float* scores, Ahead& ahead) {
    with(queries, [&]<int QUERIES>(std::integral_constant<int, QUERIES>) {
      int g = from;
      const auto pass = [&]<int GROUPS>(std::integral_constant<int, GROUPS>) {
        KV::template score_block<QUERIES, GROUPS>(kv, q, keys + g, scales + g, scores + 16 * g, ahead);
        g += GROUPS;
      };
      while (g + kKeyGroups <= to) pass(std::integral_constant<int, kKeyGroups>());
      if constexpr (kKeyGroups > 2)
        if (g + 2 <= to) pass(std::integral_constant<int, 2>());
      while (g < to) pass(std::integral_constant<int, 1>());
    });
  }

  // sum[query] += weights . values, for keys low … high - 1.
  static void add_values(const KvLayer& kv, int queries, const uint32_t* weights, const Type* const* values, int low,
                         int high, float* sum, Ahead& ahead) {
    with(queries, [&]<int QUERIES>(std::integral_constant<int, QUERIES>) {
      int d = 0;
      const auto pass = [&]<int WIDTH>(std::integral_constant<int, WIDTH>) {
        KV::template value_block<QUERIES, WIDTH>(kv, weights, values, d, low, high, sum, ahead);
        d += 16 * WIDTH;
      };
      while (d + 16 * kValueBlock <= kv.padded) pass(std::integral_constant<int, kValueBlock>());
      while (d < kv.padded) pass(std::integral_constant<int, 1>());
    });
  }
};

#if defined(TENFOLD_TILES)
#include "attention/tiled.hpp"
#endif

#include "attention/softmax.hpp"

template <typename KV>
struct Attention {
  using Type = typename KV::Type;
  const AttendItem& item;
  const KvLayer& kv;
  const int heads, queries, padded;
  const size_t words;  // of a packed query
  uint32_t *q, *weights;
  float *sum, *total, *scores, *room;
  float *lane_sums, *most, *total_most, *total_sum;  // of the softmax: of this chunk, of those before
  int prepared = 0;  // for passes over so many queries

  explicit Attention(const AttendItem& i)
      : item(i),
        kv(*i.kv),
        heads(i.queries_per_kv),
        queries(i.rows * i.queries_per_kv),
        padded(i.kv->padded),
        words(KV::query_words(*i.kv)) {
    sum = item.scratch;
    total = sum + queries * padded;
    room = total + queries * padded;
    scores = room + kKeyTile / 2 * padded;
    const int whole = (queries + 15) / 16 * 16;
    lane_sums = scores + KV::kQueries * kKeyTile;
    most = lane_sums + 16 * whole;
    total_most = most + whole;
    total_sum = total_most + whole;
    q = reinterpret_cast<uint32_t*>(total_sum + whole);
    weights = q + queries * words;
  }

  int position(int row) const { return item.positions[row]; }
  int low_of(int row) const { return item.window > 0 ? max_of(0, position(row) - item.window + 1) : 0; }

  void pack_queries() {
    for (int row = 0; row < item.rows; ++row)
      for (int h = 0; h < heads; ++h)
        KV::pack_query(item.q + item.row_numbers[row] * item.q_stride + h * kv.head_dim, kLog2e, kv,
                       q + (row * heads + h) * words);
  }

  struct Place {
    const Type *keys, *values;
    const uint16_t *key_scales, *value_scales;
  };
  // Where the 16 keys from position `at` on, and their values, lie.
  Place locate(int at) const { return locate(item.table, item.kv_head, at); }
  Place locate(const int32_t* table, int head, int at) const {
    const int32_t block = table[at / kv.block_size];
    const int slot = at % kv.block_size;
    Place place{reinterpret_cast<const Type*>(kv.keys(block, head)) + static_cast<size_t>(slot) * kv.width,
                reinterpret_cast<const Type*>(kv.values(block, head)) + static_cast<size_t>(slot) * padded, nullptr,
                nullptr};
    if (kv.type == KvType::int8) {
      place.key_scales = kv.key_scales(block, head) + slot;
      place.value_scales = kv.value_scales(block, head) + slot;
    }
    return place;
  }

  struct Tile {
    const Type *keys[kGroups], *values[kGroups];
    const uint16_t *key_scales[kGroups], *value_scales[kGroups];
    int start, from, to;  // first key; groups that any row sees
  };

  Span seen_by(int row, const Tile& tile) const {
    return {max_of(low_of(row) - tile.start, 0), min_of(position(row) + 1 - tile.start, kKeyTile)};
  }

  // The weights of a tile's keys for queries first … first + count - 1.
  template <bool EDGE>
  void softmax(const Tile& tile, int first, int count, Ahead& ahead) {
    int row = first / heads, left = (row + 1) * heads - first;  // of the row's queries
    for (int from = 0, many; from < count; from += many) {
      many = min_of(count - from, KV::kTogether);
      Span seen[KV::kTogether];
      Vec w[KV::kTogether][kGroups];
      for (int i = 0; i < many; ++i) {
        seen[i] = {0, kKeyTile};
        if (EDGE) {
          if (left-- == 0) {
            ++row;
            left = heads - 1;
          }
          seen[i] = seen_by(row, tile);
        }
        ahead.fetch(KV::kSoftmaxLines);
        const int query = first + from + i;
        softmax_update<EDGE>(scores + (from + i) * kKeyTile, seen[i], padded, KV::kSlack, most[query],
                             lane_sums + 16 * query, sum + query * padded, w[i]);
      }
      KV::pack_weights(w, many, tile.value_scales, seen, weights + from * KV::kWeightWords);
    }
  }

  // Queries first … first + count - 1, which may belong to several rows.
  void block(const Tile& tile, int first, int count, Ahead& ahead) {
    const int first_row = first / heads, last_row = (first + count - 1) / heads;
    int low = kKeyTile, high = 0;
    bool edge = false;  // some row does not see all keys
    for (int row = first_row; row <= last_row; ++row) {
      const Span seen = seen_by(row, tile);
      low = min_of(low, seen.low);
      high = max_of(high, seen.high);
      edge |= seen.low > 0 || seen.high < kKeyTile;
    }
    KV::score(kv, count, q + first * words, tile.from, (high + 15) / 16, tile.keys, tile.key_scales, scores, ahead);
    if (edge)
      softmax<true>(tile, first, count, ahead);
    else
      softmax<false>(tile, first, count, ahead);
    KV::add_values(kv, count, weights, tile.values, low, high, sum + first * padded, ahead);
  }

  // What the next tile reads, of this item or of the next.
  void fetch_next(int start, int last_key, Ahead& ahead) const {
    Place places[kGroups];
    int count = 0;
    const bool ends = start + kKeyTile > last_key;
    if (ends && item.next_table == nullptr) return;
    const int from = ends ? item.next_key : start + kKeyTile, to = ends ? item.next_last : last_key;
    for (int at = from; at <= to && count < kGroups; at += 16)
      places[count++] = ends ? locate(item.next_table, item.next_kv_head, at) : locate(at);
    const size_t key_bytes = 16 * kv.width * sizeof(Type), value_bytes = 16 * padded * sizeof(Type);
    for (int i = 0; i < count; ++i)
      if (places[i].key_scales != nullptr) ahead.add(places[i].key_scales, 16 * sizeof(uint16_t));
    for (int i = 0; i < count; ++i) ahead.add(places[i].keys, key_bytes);
    for (int i = 0; i < count; ++i)
      if (places[i].value_scales != nullptr) ahead.add(places[i].value_scales, 16 * sizeof(uint16_t));
    for (int i = 0; i < count; ++i) ahead.add(places[i].values, value_bytes);
  }

  // `last_key`: the last that any row sees.
  void tile(int start, int first_row, int last_row, int last_key) {
    Tile t;
    t.start = start;
    t.from = kGroups;
    int to = 0;
    for (int row = first_row; row < last_row; ++row) {
      t.from = min_of(t.from, max_of(low_of(row) - start, 0) / 16);
      to = max_of(to, (min_of(position(row) + 1 - start, kKeyTile) + 15) / 16);
    }
    for (int g = t.from; g < to; ++g) {
      const Place place = locate(start + 16 * g);
      t.keys[g] = place.keys;
      t.values[g] = place.values;
      t.key_scales[g] = place.key_scales;
      t.value_scales[g] = place.value_scales;
    }
    const int begin = first_row * heads, end = last_row * heads;
    KV::gather(kv, end - begin, t.from, to, t.values, room);
    const int passes = (end - begin + KV::kQueries - 1) / KV::kQueries;
    Ahead ahead;
    fetch_next(start, last_key, ahead);
    for (int i = begin, pass = 0, count; i < end; i += count) {
      count = KV::take(end - i);
      if (count != prepared) KV::prepare(prepared = count);
      ahead.begin(min_of(pass++, passes - 1), passes);
      block(t, i, count, ahead);
    }
  }

  void chunk(int number) {
    for (int i = 0; i < queries; ++i) {
      most[i] = -__builtin_inff();
      store(lane_sums + 16 * i, zero());
    }
    for (int i = 0; i < queries * padded; ++i) sum[i] = 0.0f;
    int last_key = 0;
    for (int row = 0; row < item.rows; ++row) last_key = max_of(last_key, position(row));
    last_key = min_of(last_key, item.last_chunk * kChunk - 1);
    for (int start = number * kChunk; start < (number + 1) * kChunk && start <= last_key; start += kKeyTile) {
      int first = 0, last = item.rows;  // the rows that see any key of the tile
      while (first < last && position(first) < start) ++first;
      while (last > first && low_of(last - 1) >= start + kKeyTile) --last;
      if (first < last) tile(start, first, last, last_key);
    }
  }

  // What chunk() found, for a merge of all chunks later.
  void keep(float* partial) const {
    for (int i = 0; i < queries; ++i, partial += item.query_stride) {
      partial[0] = most[i];
      partial[1] = reduce_add(load(lane_sums + 16 * i));
      copy(partial + 2, sum + i * padded, padded);
    }
  }

  // The same merged with the chunks before.
  void merge() {
    for (int first = 0; first < queries; first += 16) {
      const int last = min_of(first + 16, queries);
      float sums[16] = {}, total_by[16], chunk_by[16], merged_most[16], merged_sum[16];
      for (int i = first; i < last; ++i) sums[i - first] = reduce_add(load(lane_sums + 16 * i));
      const Merge merged =
          merge_states(load(total_most + first), load(total_sum + first), load(most + first), load(sums));
      store(merged_most, merged.most);
      store(merged_sum, merged.sum);
      store(total_by, merged.total_by);
      store(chunk_by, merged.chunk_by);
      for (int i = first, j = 0; i < last; ++i, ++j) {
        if (sums[j] == 0.0f) continue;  // sees no key of this chunk
        if (total_sum[i] == 0.0f) {
          total_most[i] = most[i];
          total_sum[i] = sums[j];
          copy(total + i * padded, sum + i * padded, padded);
        } else {
          total_most[i] = merged_most[j];
          total_sum[i] = merged_sum[j];
          merge_values(total + i * padded, sum + i * padded, set1(total_by[j]), set1(chunk_by[j]), padded);
        }
      }
    }
  }

  void run() {
    pack_queries();
    for (int i = 0; i < queries; ++i) total_sum[i] = 0.0f;
    for (int number = item.first_chunk; number < item.last_chunk; ++number) {
      chunk(number);
      if (item.partial != nullptr)
        keep(item.partial + (number - item.first_chunk) * item.chunk_stride);
      else
        merge();
    }
    if (item.partial != nullptr) return;
    for (int i = 0; i < queries; ++i)
      normalise(total + i * padded, total_sum[i], kv.head_dim,
                item.out + item.row_numbers[i / heads] * item.out_stride + i % heads * kv.head_dim);
  }
};

}  // namespace

void store_kv(const KvLayer& kv, int32_t block, int head, int slot, const float* k, const float* v) {
  if (kv.type == KvType::bf16) {
    Bf16Kv::put(kv, block, head, slot, k, v);
  } else {
    Int8Kv::put(kv, block, head, slot, k, v);
  }
}

void attend(const AttendItem& item) {
#if defined(TENFOLD_TILES)
  if (TiledKv::takes(*item.kv)) return Attention<TiledKv>(item).run();
  if (TiledInt8Kv::takes(*item.kv)) return Attention<TiledInt8Kv>(item).run();
#endif
  if (item.kv->type == KvType::bf16) {
    Attention<Blocked<Bf16Kv>>(item).run();
  } else {
    Attention<Blocked<Int8Kv>>(item).run();
  }
}

const char* attend_arithmetic(const KvLayer& kv) {
#if defined(TENFOLD_TILES)
  if (TiledKv::takes(kv)) return "amx-bf16";
  if (TiledInt8Kv::takes(kv)) return "amx-int8";
#endif
  if (kv.type == KvType::int8) return "int8";
#if defined(__AVX512BF16__)
  return "bf16";
#else
  return "f32";
#endif
}

// The merge of one query's chunks, each `chunk_stride` floats after the one before; the first chunk's memory
// takes the total.
void merge(const float* partials, ptrdiff_t chunk_stride, int chunks, int padded, int head_dim, float* out) {
  float most = -__builtin_inff(), sum = 0.0f;
  float* total = const_cast<float*>(partials) + 2;
  for (int c = 0; c < chunks; ++c) {
    const float* next = partials + c * chunk_stride;
    if (next[1] == 0.0f) continue;
    if (sum == 0.0f) {
      most = next[0];
      sum = next[1];
      if (c > 0) copy(total, next + 2, padded);
    } else {
      const Merge merged = merge_states(set1(most), set1(sum), set1(next[0]), set1(next[1]));
      store_n(&most, merged.most, 1);
      store_n(&sum, merged.sum, 1);
      merge_values(total, next + 2, merged.total_by, merged.chunk_by, padded);
    }
  }
  normalise(total, sum, head_dim, out);
}

}  // namespace tenfold::TENFOLD_LEVEL
