// One token from one row of logits: greedy, temperature, top-k, top-p, min-p. Ranks are exact; weights are float32,
// their sums double.
#pragma once

#include <algorithm>

#include "dispatch/kernels.hpp"
#include "model/memory.hpp"

namespace tenfold {

// The filters apply in this order. `at` in [0, 1) is where the cumulative distribution is inverted.
struct Filters {
  double temperature;  // 0: the largest logit
  double top_k;        // a count; 0 or less: off
  double top_p;        // 1: off
  double min_p;        // 0: off
  double at;
};

// A thread's memory between rows.
class Chooser {
 public:
  static int blocks(int n) { return (n + kScanBlock - 1) / kScanBlock; }
  // Makes room for rows of up to `n` values; nothing below allocates. Throws std::bad_alloc.
  void reserve(int n);
  // The index of the row's largest value, the first among equals (subnormals equal 0); -1 where that is not
  // finite or NaN.
  int largest(const Kernels& kernels, const float* row, int n);
  // The same, given each block's largest.
  static int largest(const int32_t* maxima, const float* row, int n);
  // The same among the values whose bit is set, 32 to a word and the first lowest; -1 also where there is none.
  static int largest_among(const int32_t* maxima, const float* row, int n, const uint32_t* bits);
  int largest_among(const Kernels& kernels, const float* row, int n, const uint32_t* bits);
  // The token of `filters`; -1 as above. Candidates are ranked by logit, then by lower index.
  int draw(const Kernels& kernels, const float* row, int n, const Filters& filters);
  // The same of the values whose bit is set.
  int draw_among(const Kernels& kernels, const float* row, int n, const uint32_t* bits, const Filters& filters);
  // The row's largest value, the log of the sum of e^(x - that), and the indices of the `count` <= n largest, in order;
  // 0, 0 and -1 where the largest is not finite.
  void summarize(const Kernels& kernels, const float* row, int n, int count, double* top_and_log_sum, int32_t* indices);

 private:
  struct Candidate {
    uint64_t rank;  // the key of its logit, then its index counted down: greater is better
    float weight;
  };

  static int32_t greatest(const int32_t* maxima, int n) { return *std::max_element(maxima, maxima + blocks(n)); }
  // `width`: how many values there are with those that may not come; of as many, top_k is off.
  int draw(const Kernels& kernels, const float* row, int n, const Filters& filters, int width);
  bool scan(const Kernels& kernels, const float* row, int n);
  int draw_any(const Kernels& kernels, const float* row, int n, const Filters& filters);
  int draw_top(const Kernels& kernels, const float* row, int n, const Filters& filters);
  int draw_nucleus(const Kernels& kernels, const float* row, int n, const Filters& filters);
  int draw_first(int size, const Filters& filters);
  double total(const Kernels& kernels, const float* row, int n, const Weighing& how);
  int gather(const float* row, int n, int count);
  int gather_depth(const Kernels& kernels, const float* row, int n, const Weighing& how, double mass);
  double weigh(const Kernels& kernels, int size, const Weighing& how);
  float top_ = 0.0f;                 // of the row scanned last
  Array<int32_t> maxima_, ordered_;  // per block
  Array<double> masses_;             // per block
  Array<Candidate> candidates_;
  Array<float> values_, weights_;  // of candidates, or of the row
  Array<uint16_t> depths_;         // of the row
  Array<float> among_;             // what of a row may be drawn,
  Array<int32_t> which_;           // and where it was
};

}  // namespace tenfold
