// Products of tiles, of AMX: four tiles of sums, from two tiles of rows times two of columns.
#include <immintrin.h>

#include "limits/probes.hpp"

namespace tenfold::amx {
namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

void zero_tiles() {
  const TileConfig config;
  // Not _tile_loadconfig: GCC 12's tells the compiler of the first eight bytes only, so the others are never written.
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

int64_t run_int8(int64_t rounds) {
  zero_tiles();
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return rounds * 4 * 16 * 16 * 64;
}

int64_t run_bf16(int64_t rounds) {
  zero_tiles();
  for (int64_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return rounds * 4 * 16 * 16 * 32;
}

}  // namespace

Probe int8_probe() { return {"amx-int8", "AMX tdpbssd", run_int8}; }
Probe bf16_probe() { return {"amx-bf16", "AMX tdpbf16ps", run_bf16}; }

}  // namespace tenfold::amx
