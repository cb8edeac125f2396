// The table of kernels one instruction-set level offers. Kernels see raw pointers only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/format.hpp"
#include "linear/format.hpp"

namespace tenfold {

enum class Activation : uint8_t { silu, gelu_tanh };

// Attention of some rows over chunks of one KV head's keys, for the query heads of that KV head. The rows are
// those of one sequence in order of position, or of several whose blocks for these chunks are the same and which
// see all of them.
struct AttendItem {
  const KvLayer* kv;
  const int32_t* table;
  const float* q;  // row 0's, of the first head of the KV head; scaled; heads lie side by side
  float* out;      // as q
  ptrdiff_t q_stride, out_stride;  // floats from row to row
  const int32_t *row_numbers, *positions;  // [rows]
  int kv_head, queries_per_kv, rows, window;
  int first_chunk, last_chunk;  // chunks of kChunk keys, by absolute position
  // Null, or for each query and chunk padded + 2 floats: reference point, sum of weights, weighted sum of values.
  float* partial;
  ptrdiff_t query_stride, chunk_stride;  // floats from query to query and from chunk to chunk
  float* scratch;                        // attend_scratch() floats
  // Whose keys the thread will most likely read next, from `next_key` (a multiple of kKeyTile) to next_last: fetched in
  // time. Null: nobody's.
  const int32_t* next_table;
  int next_kv_head, next_key, next_last;
};

constexpr int kKeyTile = 64;  // keys per online-softmax update
constexpr int kChunk = 256;   // keys whose softmax state is formed apart, then merged in order

constexpr int kScanBlock = 64;  // logits looked at together when a token is chosen

// A logit x weighs e^((x - top) * scale), or nothing where that is below `least`. top is the largest, scale > 0.
struct Weighing {
  float top, scale, least;
};

struct Kernels {
  const char* name;
  // out [rows, 16 columns of the tile] = or += x W^T, rows row … row + rows - 1 of `x`, out at the first.
  // `row` begins a panel, unless the rows stay within theirs.
  void (*linear_tile)(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                      ptrdiff_t out_stride, bool accumulate);
  int (*linear_rows)(const Packed& w, int rows);  // rows served by one pass over the weights, when there are `rows`
  const char* (*linear_arithmetic)(const Packed& w, int rows);  // what its multiply-adds are: f32, int8, amx-int8
  // Bytes of a tile in the form that linear_tile wants it in, and from the packed form to that, in place, with room for as
  // much. 0: as it is packed.
  size_t (*settled_bytes)(const Packed& w);
  void (*settle)(const Packed& w, uint8_t* tile, uint8_t* room);
  int row_chunk;       // rows that linear_tile likes to be given at most: their activations stay in cache meanwhile
  int dense_tiles;     // tiles that linear_tile likes to be given at once for few rows of a dense matrix
  int tiles_together;  // of a quantized one, for any rows
  // 16 rows of floats [16][cols] to a tile; see linear/quantize.hpp.
  void (*quantize_tile)(const Packed& w, const float* rows, uint8_t* tile);
  bool whole_rows;  // whether quantize() wants all inputs of a row at once; else any groups of 32
  size_t (*panel_bytes)(int cols);  // of 16 quantized rows; cols is a multiple of 32
  // Rows, `stride` floats apart, into lanes `lane` … of a panel, from its first group or the one that `panel` points to.
  void (*quantize)(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane);
  // The same for matrices that are `grouped`; any groups of 32.
  size_t (*group_panel_bytes)(int cols);
  void (*quantize_groups)(const float* x, ptrdiff_t stride, int rows, int cols, uint8_t* panel, int lane);
  void (*rms_norm)(const float* x, const float* weight, int n, float eps, float* out);
  void (*add)(float* x, const float* y, int n);
  void (*scale)(float* x, float by, int n);
  // out = activation(gate) * up
  void (*gate)(Activation kind, const float* gate, const float* up, ptrdiff_t stride, int rows, int cols, float* out,
               ptrdiff_t out_stride);
  void (*softcap)(float* x, float cap, int n);
  void (*rope)(float* head, const float* cos, const float* sin, int half);
  // One position's key and value of a KV head into its slot.
  void (*store_kv)(const KvLayer& kv, int32_t block, int head, int slot, const float* k, const float* v);
  int attend_queries;  // query vectors that attend likes to be given at once, so that loads of K and V serve many
  void (*attend)(const AttendItem& item);
  const char* (*attend_arithmetic)(const KvLayer& kv);  // likewise; also bf16, amx-bf16
  void (*merge)(const float* partials, ptrdiff_t chunk_stride, int chunks, int padded, int head_dim, float* out);
  void (*block_maxima)(const float* row, int n, int32_t* maxima);  // order_key of each block's largest logit
  void (*block_masses)(const float* row, int n, const Weighing& how, double* masses);
  void (*weigh)(const float* row, int n, const Weighing& how, float* weights);
  // Whole steps of 1 / scale below the top, at most `most`: never less for a smaller logit.
  void (*depths)(const float* row, int n, const Weighing& how, int most, uint16_t* out);
};

// Floats of scratch that attend needs for `queries` query vectors: packed query, sums and state of each, scores and
// weights of a pass over up to 16, values of a tile of keys.
constexpr size_t attend_scratch(size_t queries, size_t padded) {
  return (queries + 15) / 16 * 16 * (3 * padded + 32) + 16 * (2 * kKeyTile + padded) + kKeyTile / 2 * padded + 64;
}

}  // namespace tenfold
