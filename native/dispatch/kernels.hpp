// The table of kernels one instruction-set level offers. Kernels see raw pointers only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "linear/format.hpp"

namespace tenfold {

enum class Activation : uint8_t { silu, gelu_tanh };

// One layer's KV memory. K: [block][kv_head][block_size / 16][head_dim][16]; V: [block][kv_head][slot][padded].
struct KvLayer {
  uint8_t* k;
  uint8_t* v;
  int block_size, kv_heads, head_dim;
  int padded;  // head_dim rounded up to 16
  bool bf16;   // else float32
};

// Attention of `rows` consecutive rows of one sequence, for the query heads of one KV head.
struct AttendItem {
  const KvLayer* kv;
  const int32_t* table;
  const float* q;  // first row's, of the first head of the KV head; scaled
  float* out;      // as q
  ptrdiff_t q_stride, out_stride;  // floats from row to row
  int q_head_stride;               // floats from head to head
  int kv_head, queries_per_kv, rows, position, window;
  int first_chunk, last_chunk;  // chunks of kChunk keys, by absolute position
  float* partial;  // null, or [rows x queries_per_kv][padded + 2]: m, l, unnormalised sum of one chunk
  float* scratch;  // attend_scratch() floats
};

constexpr int kKeyTile = 64;  // keys per online-softmax update
constexpr int kChunk = 256;   // keys whose softmax state is formed apart, then merged in order

struct Kernels {
  const char* name;
  // out [rows, 16 columns of the tile] = or += x W^T, rows row … row + rows - 1 of `x`, out at the first.
  // `row` begins a panel, unless the rows stay within one half of theirs.
  void (*linear_tile)(const Packed& w, int tile, int tiles, const Acts& x, int row, int rows, float* out,
                      ptrdiff_t out_stride, bool accumulate);
  int dense_tiles;  // tiles that linear_tile likes to be given at once for few rows of a dense matrix
    // One row into its lane of a panel's groups.
  void (*quantize)(const float* x, int cols, ActGroup* panel, int lane);
  void (*rms_norm)(const float* x, const float* weight, int n, float eps, float* out);
  void (*add)(float* x, const float* y, int n);
  void (*scale)(float* x, float by, int n);
  void (*gate)(Activation kind, const float* gate, const float* up, int n, float* out);
  void (*softcap)(float* x, float cap, int n);
  void (*rope)(float* head, const float* cos, const float* sin, int half);
  void (*attend)(const AttendItem& item);
  void (*merge)(const float* partials, ptrdiff_t chunk_stride, int chunks, int padded, int head_dim, float* out);
};

// Floats of scratch that attend needs for `queries` query vectors.
constexpr size_t attend_scratch(size_t queries, size_t padded) {
  return queries * (3 * padded + kKeyTile + 4) + 64;
}

}  // namespace tenfold
