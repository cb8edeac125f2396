// Threads for measuring, each held to a CPU of its own, so that where the system wakes them does not matter.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace tenfold {

class Crew {
 public:
  // The CPUs that the calling thread may use are shared out in turn.
  explicit Crew(int threads) : threads_(threads) {
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
      for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &allowed)) cpus_.push_back(cpu);
#endif
  }

  int threads() const { return threads_; }

  // Calls f(thread) on every thread, once all are there; the seconds from then until the last was done. f must not throw.
  template <typename F>
  double each(const F& f) const {
    std::atomic<int> arrived{0};
    std::chrono::steady_clock::time_point began;
    const auto work = [&](int thread) {
      settle(thread);
      if (arrived.fetch_add(1) == threads_ - 1) {
        began = std::chrono::steady_clock::now();
        arrived.fetch_add(1);
      }
      while (arrived.load() <= threads_) std::this_thread::yield();
      f(thread);
    };
    {
      std::vector<std::jthread> crew;
      crew.reserve(threads_);
      for (int i = 0; i < threads_; ++i) crew.emplace_back(work, i);
    }
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  }

  // Calls f(item) for every item below `items`, on whichever thread comes first; seconds as above.
  template <typename F>
  double run(int items, const F& f) const {
    std::atomic<int> next{0};
    return each([&](int) {
      for (int i = next.fetch_add(1); i < items; i = next.fetch_add(1)) f(i);
    });
  }

 private:
  void settle(int thread) const {
#if defined(__linux__)
    if (cpus_.empty()) return;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpus_[thread % cpus_.size()], &one);
    sched_setaffinity(0, sizeof one, &one);
#endif
  }

  int threads_;
  std::vector<int> cpus_;
};

}  // namespace tenfold
