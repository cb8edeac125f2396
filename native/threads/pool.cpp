#include "threads/pool.hpp"

#include <unistd.h>

#include <algorithm>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace tenfold {
namespace {

constexpr int kSpins = 4000;  // pauses before a worker parks: some tens of microseconds, the gap between two ops

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

// Where the CPU has gone from this process's affinity meanwhile, the thread stays as it is.
void pin(std::thread& thread, int cpu) {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (cpu < 0 || cpu >= CPU_SETSIZE) return;
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(thread.native_handle(), sizeof(set), &set);
#else
  static_cast<void>(thread), static_cast<void>(cpu);
#endif
}

}  // namespace

#if defined(__x86_64__)
FlushSubnormals::FlushSubnormals() : before_(_mm_getcsr()) {
  _mm_setcsr(static_cast<uint32_t>(before_) | 0x8040u);
}
FlushSubnormals::~FlushSubnormals() { _mm_setcsr(static_cast<uint32_t>(before_)); }
#elif defined(__aarch64__)
FlushSubnormals::FlushSubnormals() {
  __asm__ volatile("mrs %0, fpcr" : "=r"(before_));
  __asm__ volatile("msr fpcr, %0" : : "r"(before_ | (1ull << 24)));
}
FlushSubnormals::~FlushSubnormals() { __asm__ volatile("msr fpcr, %0" : : "r"(before_)); }
#else
FlushSubnormals::FlushSubnormals() : before_(0) {}
FlushSubnormals::~FlushSubnormals() {}
#endif

Pool::Pool(int threads, const std::vector<int>& cpus)
    : shares_(std::make_unique<Share[]>(std::max(threads, 1))), process_(getpid()) {
  try {
    for (int i = 1; i < threads; ++i) {
      workers_.emplace_back([this, i] { loop(i); });
      if (static_cast<size_t>(i) < cpus.size()) pin(workers_.back(), cpus[i]);
    }
  } catch (...) {
    stop();
    throw;
  }
}

Pool::~Pool() { stop(); }

void Pool::stop() {
  if (getpid() != process_) {  // a forked child has the objects but not the threads
    for (auto& worker : workers_) worker.detach();
    return;
  }
  stopping_.store(true);
  wake_.fetch_add(1);
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
  workers_.clear();
}

void Pool::work(int thread) {
  for (int k = 0; k < threads(); ++k) {
    Share& share = shares_[(thread + k) % threads()];
    if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
    for (int i = share.next.fetch_add(1, std::memory_order_relaxed); i < share.end;
         i = share.next.fetch_add(1, std::memory_order_relaxed))
      call_(context_, i, thread);
  }
}

void Pool::dispatch(int items, Call call, const void* context) {
  call_ = call;
  context_ = context;
  for (int64_t t = 0; t < threads(); ++t) {
    shares_[t].next.store(static_cast<int>(t * items / threads()), std::memory_order_relaxed);
    shares_[t].end = static_cast<int>((t + 1) * items / threads());
  }
  const uint64_t number = (gate_.load(std::memory_order_relaxed) >> 16) + 1;
  gate_.store(number << 16 | 1, std::memory_order_release);
  wake_.fetch_add(1, std::memory_order_seq_cst);
  wake_.notify_all();
  work(0);
  // Close, then wait for those inside: a worker the system has not run yet finds the gate closed.
  gate_.fetch_and(~uint64_t{1}, std::memory_order_acq_rel);
  for (int spins = 0; (gate_.load(std::memory_order_acquire) >> 1 & 0x7fff) != 0; ++spins) {
    if (spins < 2000) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void Pool::loop(int thread) {
  const FlushSubnormals flush;
  uint32_t seen = 0;
  for (;;) {
    int spins = 0;
    while (wake_.load(std::memory_order_acquire) == seen) {
      if (++spins < kSpins) {
        relax();
      } else {
        wake_.wait(seen, std::memory_order_acquire);
      }
    }
    seen = wake_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_acquire)) return;
    uint64_t gate = gate_.load(std::memory_order_acquire);
    while (gate & 1)
      if (gate_.compare_exchange_weak(gate, gate + 2, std::memory_order_acq_rel)) {
        work(thread);
        gate_.fetch_sub(2, std::memory_order_acq_rel);
        break;
      }
  }
}

}  // namespace tenfold
