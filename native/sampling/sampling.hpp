// Tokens for many rows of logits at once, on a model's threads.
#pragma once

#include <span>
#include <vector>

#include "model/model.hpp"
#include "sampling/choose.hpp"

namespace tenfold {

// Rows of `width` logits each, `stride` floats apart.
struct Logits {
  const float* data;
  int rows, width;
  ptrdiff_t stride;
  const float* row(int i) const { return data + i * stride; }
};

constexpr int words_of(int width) { return (width + 31) / 32; }  // of a mask with a bit for each value of a row

// What it gives for a row depends on that row alone. Throws std::invalid_argument where a row is not there.
class Sampling {
 public:
  explicit Sampling(Model& model) : model_(model), choosers_(model.threads()) {}
  Sampling(const Sampling&) = delete;
  Sampling& operator=(const Sampling&) = delete;

  // See Chooser; `out` has an entry per row of the logits, or per entry of `rows`.
  // Takes what the model found on the way where these are its own logits, which then must not have been changed.
  void largest(const Logits& logits, int32_t* out);
  void draw(const Logits& logits, Ints rows, std::span<const Filters> filters, int32_t* out);
  void summarize(const Logits& logits, Ints rows, int count, double* top_and_log_sum, int32_t* indices);
  // `bits`: words_of(width) words for each of `rows`, the first value lowest. As `largest` otherwise.
  void largest_among(const Logits& logits, Ints rows, Ints bits, int32_t* out);
  void draw_among(const Logits& logits, Ints rows, Ints bits, std::span<const Filters> filters, int32_t* out);

 private:
  void reserve(int width);

  Model& model_;
  std::vector<Chooser> choosers_;  // per thread
};

}  // namespace tenfold
