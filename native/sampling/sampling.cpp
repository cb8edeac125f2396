#include "sampling/sampling.hpp"

#include <stdexcept>
#include <string>

namespace tenfold {
namespace {

void check(const Logits& logits, Ints rows) {
  if (logits.width < 1) throw std::invalid_argument("logits: a row needs at least one value");
  for (const int32_t row : rows)
    if (row < 0 || row >= logits.rows)
      throw std::invalid_argument("logits: no row " + std::to_string(row) + " of " + std::to_string(logits.rows));
}

const uint32_t* words(Ints bits) { return reinterpret_cast<const uint32_t*>(bits.data()); }

void check(const Logits& logits, Ints rows, Ints bits) {
  check(logits, rows);
  if (bits.size() != rows.size() * words_of(logits.width))
    throw std::invalid_argument("logits: a mask of " + std::to_string(words_of(logits.width)) +
                                " words per row is needed");
}

void check(Ints rows, std::span<const Filters> filters) {
  if (filters.size() != rows.size()) throw std::invalid_argument("logits: one set of filters per row is needed");
}

}  // namespace

void Sampling::reserve(int width) {
  for (Chooser& chooser : choosers_) chooser.reserve(width);
}

void Sampling::largest(const Logits& logits, int32_t* out) {
  check(logits, {});
  reserve(logits.width);
  model_.exclusively([&](const Kernels& kernels, Pool& pool) {
    if (const int32_t* maxima = model_.maxima_of(logits.data, logits.rows, logits.width)) {
      const int blocks = Chooser::blocks(logits.width);
      for (int i = 0; i < logits.rows; ++i)
        out[i] = Chooser::largest(maxima + static_cast<size_t>(i) * blocks, logits.row(i), logits.width);
      return;
    }
    pool.run(logits.rows, [&](int i, int thread) {
      out[i] = choosers_[thread].largest(kernels, logits.row(i), logits.width);
    });
  });
}

void Sampling::draw(const Logits& logits, Ints rows, std::span<const Filters> filters, int32_t* out) {
  check(logits, rows);
  check(rows, filters);
  reserve(logits.width);
  model_.exclusively([&](const Kernels& kernels, Pool& pool) {
    pool.run(static_cast<int>(rows.size()), [&](int i, int thread) {
      out[i] = choosers_[thread].draw(kernels, logits.row(rows[i]), logits.width, filters[i]);
    });
  });
}

void Sampling::summarize(const Logits& logits, Ints rows, int count, double* top_and_log_sum, int32_t* indices) {
  check(logits, rows);
  if (count < 0 || count > logits.width)
    throw std::invalid_argument("logits: " + std::to_string(count) + " of " + std::to_string(logits.width) +
                                " values were asked for");
  reserve(logits.width);
  model_.exclusively([&](const Kernels& kernels, Pool& pool) {
    pool.run(static_cast<int>(rows.size()), [&](int i, int thread) {
      choosers_[thread].summarize(kernels, logits.row(rows[i]), logits.width, count, top_and_log_sum + 2 * i,
                                  indices + static_cast<size_t>(i) * count);
    });
  });
}

void Sampling::largest_among(const Logits& logits, Ints rows, Ints bits, int32_t* out) {
  check(logits, rows, bits);
  reserve(logits.width);
  const int width = logits.width;
  model_.exclusively([&](const Kernels& kernels, Pool& pool) {
    const int32_t* maxima = model_.maxima_of(logits.data, logits.rows, width);
    pool.run(static_cast<int>(rows.size()), [&](int i, int thread) {
      const uint32_t* allowed = words(bits) + static_cast<size_t>(i) * words_of(width);
      const float* row = logits.row(rows[i]);
      out[i] = maxima != nullptr
                   ? Chooser::largest_among(maxima + static_cast<size_t>(rows[i]) * Chooser::blocks(width), row, width, allowed)
                   : choosers_[thread].largest_among(kernels, row, width, allowed);
    });
  });
}

void Sampling::draw_among(const Logits& logits, Ints rows, Ints bits, std::span<const Filters> filters, int32_t* out) {
  check(logits, rows, bits);
  check(rows, filters);
  reserve(logits.width);
  model_.exclusively([&](const Kernels& kernels, Pool& pool) {
    pool.run(static_cast<int>(rows.size()), [&](int i, int thread) {
      const uint32_t* allowed = words(bits) + static_cast<size_t>(i) * words_of(logits.width);
      out[i] = choosers_[thread].draw_among(kernels, logits.row(rows[i]), logits.width, allowed, filters[i]);
    });
  });
}

}  // namespace tenfold
