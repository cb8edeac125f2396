// A pool of persistent threads for parallel loops.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace tenfold {

// Flushes subnormals on this thread while in scope, as all of the pool's workers do, so that no item depends
// on the thread that ran it. Restores the caller's mode.
class FlushSubnormals {
 public:
  FlushSubnormals();
  ~FlushSubnormals();
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  uint64_t before_;
};

class Pool {
 public:
  // `threads` includes the caller of run(). Worker i is pinned to cpus[i], where there are as many and the system lets
  // it; the caller never is. Throws std::system_error where a thread cannot be started.
  explicit Pool(int threads, const std::vector<int>& cpus = {});
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls f(item, thread) for every item below `items`, in any order; returns when all are done. f must not
  // throw. One caller at a time. Items run on the caller alone where the workers have no CPU to wake on.
  template <typename F>
  void run(int items, const F& f) {
    if (items <= 0) return;
    if (items == 1 || workers_.empty()) {
      for (int i = 0; i < items; ++i) f(i, 0);
      return;
    }
    dispatch(items, [](const void* context, int item, int thread) {
      (*static_cast<const F*>(context))(item, thread);
    }, &f);
  }

 private:
  using Call = void (*)(const void*, int, int);

  void dispatch(int items, Call call, const void* context);
  void work(int thread);
  void loop(int thread);
  void stop();

  // Bit 0: a loop is open to join; bits 1 … 15: workers in it; from bit 16: its number.
  alignas(64) std::atomic<uint64_t> gate_{0};
  alignas(64) std::atomic<uint32_t> wake_{0};  // changes with each loop; parked workers wait on it
  // A thread's own run of neighbouring items, so that what it fetches ahead is what it needs next; whoever has
  // finished its own takes from the others'.
  struct alignas(64) Share {
    std::atomic<int> next{0};
    int end = 0;
  };
  alignas(64) std::atomic<bool> stopping_{false};
  std::unique_ptr<Share[]> shares_;
  Call call_ = nullptr;
  const void* context_ = nullptr;
  int64_t process_;
  std::vector<std::thread> workers_;
};

}  // namespace tenfold
