// What a model's ops run, in words, for profiles.
#include <algorithm>

#include "model/model.hpp"

namespace tenfold {
namespace {

std::string format_of(const Packed& w) {
  if (w.dense == Dense::f32) return "f32";
  if (w.dense == Dense::f16) return "f16";
  if (w.dense == Dense::bf16) return "bf16";
  const char* scales = w.scales == Scales::half     ? ""
                       : w.scales == Scales::affine ? " affine"
                       : w.scales == Scales::super  ? " of 256"
                                                    : " affine of 256";
  return "int" + std::to_string(w.bits) + " g" + std::to_string(w.group) + scales;
}

}  // namespace

std::vector<MatrixInfo> Model::matrices(int rows) const {
  std::vector<MatrixInfo> found;
  const auto note = [&](int layer, const char* name, const Packed& w) {
    found.push_back({layer, name, format_of(w), kernels_.linear_arithmetic(w, std::max(1, rows)), w.rows, w.cols,
                     w.tile_bytes * static_cast<size_t>(w.tiles()), kernels_.linear_rows(w, std::max(1, rows))});
  };
  note(-1, "embed", embedding());
  note(-1, "head", head());
  for (int i = 0; i < spec_.layers; ++i) {
    const Layer& l = layers_[i];
    note(i, "q", l.q.view);
    note(i, "k", l.k.view);
    note(i, "v", l.v.view);
    note(i, "o", l.o.view);
    note(i, "gate", l.gate.view);
    note(i, "up", l.up.view);
    note(i, "down", l.down.view);
  }
  return found;
}

}  // namespace tenfold
