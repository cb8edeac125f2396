// The table of kernels of the level being compiled.
#include "attention/attention.hpp"
#include "dispatch/level.hpp"
#include "linear/linear.hpp"
#include "linear/quantize.hpp"
#include "rows/rows.hpp"
#include "sampling/scan.hpp"
#if defined(TENFOLD_TILES)
#include "simd/simd.hpp"
#endif

namespace tenfold::TENFOLD_LEVEL {

const Kernels& kernels() {
  static constexpr const char* name =
#if defined(TENFOLD_TILES) && TENFOLD_TILES == 1
      "amx";
#elif defined(TENFOLD_TILES)
      "amx-emulated";
#elif defined(__AVX512BF16__)
      "avx512bf16";
#elif defined(TENFOLD_AVX512)
      "avx512";
#elif defined(TENFOLD_AVX2)
      "avx2";
#else
      "portable";
#endif
#if defined(TENFOLD_TILES)
  constexpr int kAttendQueries = 96;
  constexpr bool kWholeRows = true;
  constexpr int kRowChunk = 256, kTilesTogether = 2;
#else
  constexpr int kAttendQueries = 24;
  constexpr bool kWholeRows = false;
  constexpr int kRowChunk = 64, kTilesTogether = 1;
#endif
  static const Kernels table = {name,          linear_tile, linear_rows, linear_arithmetic, settled_bytes, settle, kRowChunk,
                                dense_tiles(), kTilesTogether,
                                quantize_tile, kWholeRows,  panel_bytes, quantize, group_panel_bytes, quantize_groups, rms_norm,
                                add,           scale,       gate,        softcap,           rope,
                                store_kv,      kAttendQueries,           attend,            attend_arithmetic,
                                merge,         block_maxima, block_masses, weigh,           depths};
  return table;
}

#if defined(TENFOLD_TILES)
bool tiles_work() { return tiles_multiply(); }
#endif

}  // namespace tenfold::TENFOLD_LEVEL
