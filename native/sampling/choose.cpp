#include "sampling/choose.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cfloat>
#include <cmath>
#include <functional>
#include <numeric>

#include "sampling/order.hpp"

namespace tenfold {
namespace {

constexpr int32_t kInfinity = 0x7f800000;
constexpr int kFew = 128;      // candidates that hold the nucleus of most rows
constexpr int kDepths = 1024;  // classes of logits by their distance from the top …
constexpr float kFine = 16.0f;  // … that many per factor e

uint64_t rank_of(int32_t key, int index) {
  return static_cast<uint64_t>(static_cast<uint32_t>(key) ^ 0x80000000u) << 32 | ~static_cast<uint32_t>(index);
}
int index_of(uint64_t rank) { return static_cast<int>(~static_cast<uint32_t>(rank)); }
float value_of(uint64_t rank) {
  return key_value(static_cast<int32_t>(static_cast<uint32_t>(rank >> 32) ^ 0x80000000u));
}

constexpr auto better = [](const auto& a, const auto& b) { return a.rank > b.rank; };

// How many of the best it takes until `reached` holds for the sum of their weights; they are put first. n where it
// never holds. A quickselect by weight: the work of a few passes, whatever n.
template <typename C, typename F>
int reach(C* candidates, int n, const F& reached) {
  int first = 0, last = n;
  double before = 0.0;
  while (last - first > 32) {
    const uint64_t a = candidates[first].rank, b = candidates[(first + last) / 2].rank, c = candidates[last - 1].rank;
    const uint64_t pivot = std::max(std::min(a, b), std::min(std::max(a, b), c));  // the median: neither part is empty
    int middle = first;
    double sum = before;
    for (int i = first; i < last; ++i) {  // no branch: which way an element goes cannot be predicted
      const C moved = candidates[i];
      const bool front = moved.rank >= pivot;
      candidates[i] = candidates[middle];
      candidates[middle] = moved;
      sum += front ? moved.weight : 0.0;
      middle += front;
    }
    if (reached(sum)) {
      last = middle;
    } else {
      first = middle;
      before = sum;
    }
  }
  std::sort(candidates + first, candidates + last, better);
  for (int i = first; i < last; ++i) {
    before += candidates[i].weight;
    if (reached(before)) return i + 1;
  }
  return last;
}

Weighing weighing(const Filters& filters, float top) {
  return {top, static_cast<float>(std::min(1.0 / filters.temperature, static_cast<double>(FLT_MAX))), 0.0f};
}

}  // namespace

void Chooser::reserve(int n) {
  maxima_.reserve(blocks(n));
  ordered_.reserve(blocks(n));
  masses_.reserve(blocks(n));
  candidates_.reserve(n);
  values_.reserve(n);
  weights_.reserve(n);
  depths_.reserve(n);
  among_.reserve(n);
  which_.reserve(n);
}

// Fills maxima_ and top_; whether the largest value is finite.
bool Chooser::scan(const Kernels& kernels, const float* row, int n) {
  kernels.block_maxima(row, n, maxima_.data());
  const int32_t key = greatest(maxima_.data(), n);
  top_ = key_value(key);
  return key > -kInfinity && key < kInfinity;
}

int Chooser::largest(const int32_t* maxima, const float* row, int n) {
  const int32_t key = greatest(maxima, n);
  if (key <= -kInfinity || key >= kInfinity) return -1;
  int i = static_cast<int>(std::find(maxima, maxima + blocks(n), key) - maxima) * kScanBlock;
  while (i < n && order_key(row[i]) != key) ++i;
  return i < n ? i : -1;
}

int Chooser::largest(const Kernels& kernels, const float* row, int n) {
  kernels.block_maxima(row, n, maxima_.data());
  return largest(maxima_.data(), row, n);
}

int Chooser::largest_among(const int32_t* maxima, const float* row, int n, const uint32_t* bits) {
  static_assert(kScanBlock == 64);
  int32_t best = -kInfinity;
  int found = -1;
  for (int b = 0; b < blocks(n); ++b) {
    if (maxima[b] <= best) continue;
    const uint64_t low = bits[2 * b], high = b * kScanBlock + 32 < n ? bits[2 * b + 1] : 0;
    for (uint64_t left = high << 32 | low; left != 0; left &= left - 1) {
      const int i = b * kScanBlock + std::countr_zero(left);
      if (i >= n) break;
      const int32_t key = order_key(row[i]);
      if (key > best) best = key, found = i;
    }
  }
  return best < kInfinity ? found : -1;
}

int Chooser::largest_among(const Kernels& kernels, const float* row, int n, const uint32_t* bits) {
  kernels.block_maxima(row, n, maxima_.data());
  return largest_among(maxima_.data(), row, n, bits);
}

int Chooser::draw(const Kernels& kernels, const float* row, int n, const Filters& filters) {
  return draw(kernels, row, n, filters, n);
}

int Chooser::draw(const Kernels& kernels, const float* row, int n, const Filters& filters, int width) {
  if (filters.temperature == 0.0) return largest(kernels, row, n);
  if (!scan(kernels, row, n)) return -1;
  if (filters.top_k >= 1.0 && filters.top_k < width) return draw_top(kernels, row, n, filters);
  if (filters.top_p < 1.0) return draw_nucleus(kernels, row, n, filters);
  return draw_any(kernels, row, n, filters);
}

int Chooser::draw_among(const Kernels& kernels, const float* row, int n, const uint32_t* bits, const Filters& filters) {
  float* values = among_.data();
  int32_t* which = which_.data();
  int count = 0;
  for (int from = 0; from < n; from += 32) {
    uint32_t left = bits[from / 32];
    if (n - from < 32) left &= (1u << (n - from)) - 1;
    if (left == UINT32_MAX) {
      std::copy_n(row + from, 32, values + count);
      std::iota(which + count, which + count + 32, from);
      count += 32;
      continue;
    }
    for (; left != 0; left &= left - 1, ++count) {
      which[count] = from + std::countr_zero(left);
      values[count] = row[which[count]];
    }
  }
  const int drawn = count == 0 ? -1 : draw(kernels, values, count, filters, n);
  return drawn < 0 ? -1 : which[drawn];
}

// Among all tokens, in their own order.
int Chooser::draw_any(const Kernels& kernels, const float* row, int n, const Filters& filters) {
  Weighing how = weighing(filters, top_);
  how.least = static_cast<float>(filters.min_p);
  const double target = filters.at * total(kernels, row, n, how);
  const double* masses = masses_.data();
  double sum = 0.0;
  int block = 0;
  while (block + 1 < blocks(n) && !(sum + masses[block] > target)) sum += masses[block++];
  while (block > 0 && !(masses[block] > 0.0)) sum -= masses[--block];  // rounding kept the sum from exceeding it
  const float* values = row + block * kScanBlock;
  const int count = std::min(kScanBlock, n - block * kScanBlock);
  float weights[kScanBlock];
  kernels.weigh(values, count, how, weights);
  int last = 0;
  for (int i = 0; i < count && !(sum > target); ++i) {
    if (weights[i] > 0.0f) last = i;
    sum += weights[i];
  }
  return block * kScanBlock + last;
}

// Among the top_k largest, or the fewest of them that have top_p of their mass.
int Chooser::draw_top(const Kernels& kernels, const float* row, int n, const Filters& filters) {
  int kept = static_cast<int>(std::min(filters.top_k, static_cast<double>(n)));
  const int size = gather(row, n, kept);
  std::nth_element(candidates_.data(), candidates_.data() + kept - 1, candidates_.data() + size, better);
  const double sum = weigh(kernels, kept, weighing(filters, top_));
  if (filters.top_p < 1.0)
    kept = reach(candidates_.data(), kept, [&](double part) { return part >= filters.top_p * sum; });
  return draw_first(kept, filters);
}

// Among the fewest of all tokens that have top_p of the mass.
int Chooser::draw_nucleus(const Kernels& kernels, const float* row, int n, const Filters& filters) {
  const Weighing how = weighing(filters, top_);
  const double mass = filters.top_p * total(kernels, row, n, how);
  int size = gather(row, n, std::min(kFew, n));
  if (weigh(kernels, size, how) < mass) {
    size = gather_depth(kernels, row, n, how, mass);
    weigh(kernels, size, how);
  }
  return draw_first(reach(candidates_.data(), size, [mass](double part) { return part >= mass; }), filters);
}

// Among the first candidates, less those below min_p, in the order of their rank.
int Chooser::draw_first(int size, const Filters& filters) {
  Candidate* candidates = candidates_.data();
  const auto least = static_cast<float>(filters.min_p);
  double sum = 0.0;
  for (int i = 0; i < size; ++i) {
    if (candidates[i].weight < least) candidates[i].weight = 0.0f;
    sum += candidates[i].weight;
  }
  const double target = filters.at * sum;
  int drawn = reach(candidates, size, [target](double part) { return part > target; }) - 1;
  while (drawn > 0 && !(candidates[drawn].weight > 0.0f)) --drawn;  // rounding kept the sum from exceeding it
  return index_of(candidates[drawn].rank);
}

double Chooser::total(const Kernels& kernels, const float* row, int n, const Weighing& how) {
  double* masses = masses_.data();
  kernels.block_masses(row, n, how, masses);
  double sum = 0.0;
  for (int b = 0; b < blocks(n); ++b) sum += masses[b];
  return sum;
}

// Gathers at least the `count` largest of a scanned row, in no order, and gives how many: all that reach a bound
// which `count` blocks' maxima reach.
int Chooser::gather(const float* row, int n, int count) {
  const int32_t* maxima = maxima_.data();
  int32_t bound = INT32_MIN;
  if (count < blocks(n)) {
    int32_t* ordered = ordered_.data();
    std::copy(maxima, maxima + blocks(n), ordered);
    std::nth_element(ordered, ordered + count - 1, ordered + blocks(n), std::greater<>());
    bound = ordered[count - 1];
  }
  Candidate* found = candidates_.data();
  int size = 0;
  for (int b = 0; b < blocks(n); ++b) {
    if (maxima[b] < bound) continue;
    for (int i = b * kScanBlock; i < std::min(n, (b + 1) * kScanBlock); ++i) {
      const int32_t key = order_key(row[i]);
      found[size].rank = rank_of(key, i);
      size += key >= bound;
    }
  }
  return size;
}

// Gathers the largest that together have at least `mass`, as many classes of depth as that takes.
int Chooser::gather_depth(const Kernels& kernels, const float* row, int n, const Weighing& how, double mass) {
  uint16_t* depths = depths_.data();
  kernels.depths(row, n, {how.top, std::min(how.scale, FLT_MAX / kFine) * kFine, 0.0f}, kDepths - 1, depths);
  kernels.weigh(row, n, how, weights_.data());
  std::array<double, kDepths> masses{};
  for (int i = 0; i < n; ++i) masses[depths[i]] += weights_.data()[i];
  int deepest = 0;
  for (double sum = masses[0]; sum < mass && deepest + 1 < kDepths;) sum += masses[++deepest];
  // One class more, for the sums' rounding.
  Candidate* found = candidates_.data();
  int size = 0;
  for (int i = 0; i < n; ++i) {
    found[size].rank = rank_of(order_key(row[i]), i);
    size += depths[i] <= deepest + 1;
  }
  return size;
}

// Weighs the first `size` candidates and gives their sum.
double Chooser::weigh(const Kernels& kernels, int size, const Weighing& how) {
  Candidate* candidates = candidates_.data();
  float *values = values_.data(), *weights = weights_.data();
  for (int i = 0; i < size; ++i) values[i] = value_of(candidates[i].rank);
  kernels.weigh(values, size, how, weights);
  double sum = 0.0;
  for (int i = 0; i < size; ++i) {
    candidates[i].weight = weights[i];
    sum += weights[i];
  }
  return sum;
}

void Chooser::summarize(const Kernels& kernels, const float* row, int n, int count, double* top_and_log_sum,
                        int32_t* indices) {
  if (!scan(kernels, row, n)) {
    top_and_log_sum[0] = top_and_log_sum[1] = 0.0;
    std::fill(indices, indices + count, -1);
    return;
  }
  top_and_log_sum[0] = top_;
  top_and_log_sum[1] = std::log(total(kernels, row, n, {top_, 1.0f, 0.0f}));
  if (count == 0) return;
  Candidate* candidates = candidates_.data();
  const int size = gather(row, n, count);
  std::partial_sort(candidates, candidates + count, candidates + size, better);
  for (int i = 0; i < count; ++i) indices[i] = index_of(candidates[i].rank);
}

}  // namespace tenfold
