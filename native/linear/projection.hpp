// One packed matrix by itself: for tests and benchmarks of the linear kernels.
#pragma once

#include <algorithm>
#include <string>

#include "dispatch/kernels.hpp"
#include "linear/encode.hpp"

namespace tenfold {

class Projection {
 public:
  Projection(const std::string& kind, const uint8_t* data, int64_t rows, int64_t cols, int64_t row_bytes,
             const Kernels& kernels, int threads, Form form, Use use)
      : kernels_(kernels),
        pool_(std::clamp(threads, 1, 1024)),
        matrix_(encode(form, kind, data, rows, cols, row_bytes, use, kernels, pool_, arena_)) {
    if (matrix_.view.looked)
      plain_ = encode(form, kind, data, rows, cols, row_bytes, {.grouped = true}, kernels, pool_, arena_);
  }

  int outputs() const { return matrix_.view.rows; }
  int inputs() const { return matrix_.view.cols; }
  size_t bytes() const { return matrix_.memory.size(); }

  // out [rows, outputs] = x [rows, inputs] W^T
  void apply(const float* x, int rows, float* out) {
    const FlushSubnormals flush;
    const Packed& w = matrix_.view;
    Acts acts;
    acts.values = x;
    acts.value_stride = w.cols;
    if (w.dense == Dense::none) {
      const auto quantize = w.grouped ? kernels_.quantize_groups : kernels_.quantize;
      acts.panel_bytes = (w.grouped ? kernels_.group_panel_bytes : kernels_.panel_bytes)(w.cols);
      uint8_t* panels = panels_.reserve(static_cast<size_t>(rows + kPanel - 1) / kPanel * acts.panel_bytes);
      acts.panels = panels;
      for (int r = 0; r < rows; ++r)
        quantize(x + static_cast<size_t>(r) * w.cols, 0, 1, w.cols, panels + r / kPanel * acts.panel_bytes, r % kPanel);
    }
    constexpr int kTiles = 4, kRows = 64;
    const int columns = (w.tiles() + kTiles - 1) / kTiles;
    pool_.run(columns * ((rows + kRows - 1) / kRows), [&](int item, int) {
      const int tile = item % columns * kTiles, row = item / columns * kRows;
      kernels_.linear_tile(w, tile, std::min(kTiles, w.tiles() - tile), acts, row, std::min(kRows, rows - row),
                           out + static_cast<size_t>(row) * w.rows + tile * kTile, w.rows, false);
    });
  }

  void row(int index, float* out) const { decode_row(matrix_.view.looked ? plain_.view : matrix_.view, index, out); }

 private:
  const Kernels& kernels_;
  Pool pool_;
  Arena arena_;
  Matrix matrix_, plain_;  // plain: whose rows can be read, where the other's cannot
  Array<uint8_t> panels_;
};

}  // namespace tenfold
