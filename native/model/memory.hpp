// Zeroed memory straight from the system: aligned, and with huge pages where it is large. AddressSanitizer sees no
// bounds in it by itself: its builds are told them, and have a page more to notice what goes past the end.
#pragma once

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace tenfold {

class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    void* p = mmap(nullptr, bytes + kGuard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    mappings_.fetch_add(1, std::memory_order_relaxed);
#if defined(MADV_HUGEPAGE)
    if (bytes >= (size_t{4} << 20)) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    spread(p, bytes);
    data_ = static_cast<uint8_t*>(p);
    bound(bytes);
  }
  // A part of `whole`, which lives as long as any of its parts.
  Memory(std::shared_ptr<Memory> whole, size_t offset, size_t bytes)
      : data_(whole->data_ + offset), bytes_(bytes), whole_(std::move(whole)) {
    allow(data_, bytes);
  }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        whole_(std::move(other.whole_)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(whole_, other.whole_);
    return *this;
  }
  ~Memory() {
    if (data_ == nullptr || whole_ != nullptr) return;
    bound(bytes_ + kGuard);
    munmap(data_, bytes_ + kGuard);
  }

  // Memory mapped from now on is spread over these memory nodes, page by page; none: the system decides.
  static void interleave(const std::vector<int>& nodes) {
    uint64_t mask = 0;
    for (const int node : nodes)
      if (node >= 0 && node < 64) mask |= uint64_t{1} << node;
    nodes_.store(mask, std::memory_order_relaxed);
  }
  // How often the process has asked the system for memory in this way.
  static int64_t mappings() { return mappings_.load(std::memory_order_relaxed); }

  // What lies beyond the first `bytes` may not be touched. Not for parts: others follow them.
  void bound([[maybe_unused]] size_t bytes) {
    assert(whole_ == nullptr);
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(data_, bytes);
    __asan_poison_memory_region(data_ + bytes, bytes_ + kGuard - bytes);
#endif
  }
  uint8_t* data() const { return data_; }
  size_t size() const { return bytes_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  static void allow([[maybe_unused]] uint8_t* p, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(p, bytes);
#endif
  }
  // Before anything is written to it: pages are placed when they are first touched. A system that cannot places them
  // as it likes.
  static void spread(void* p, size_t bytes) {
#if defined(SYS_mbind)
    const uint64_t mask = nodes_.load(std::memory_order_relaxed);
    constexpr int kInterleave = 3;  // MPOL_INTERLEAVE of linux/mempolicy.h
    if (mask != 0) syscall(SYS_mbind, p, bytes, kInterleave, &mask, 65UL, 0UL);
#else
    static_cast<void>(p), static_cast<void>(bytes);
#endif
  }

  inline static std::atomic<int64_t> mappings_{0};
  inline static std::atomic<uint64_t> nodes_{0};
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t kGuard = 4096;
#else
  static constexpr size_t kGuard = 0;
#endif
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  std::shared_ptr<Memory> whole_;
};

// Gives memory for many matrices out of a few large mappings, so that small ones too lie on huge pages, from the first
// write on. What is given back stays taken until the last part of its mapping is.
class Arena {
 public:
  Memory take(size_t bytes) {
    constexpr size_t kWhole = size_t{32} << 20, kGap = 64;
    if (bytes > kWhole / 8) return Memory(bytes);
    if (whole_ == nullptr || at_ + bytes > kWhole) {
      whole_ = std::make_shared<Memory>(kWhole);
      whole_->bound(0);
      at_ = 0;
    }
    const size_t from = at_;
    at_ += (bytes + kGap - 1) / kGap * kGap + kGap;
    return Memory(whole_, from, bytes);
  }

 private:
  std::shared_ptr<Memory> whole_;
  size_t at_ = 0;
};

// An array that only grows; growing loses the contents.
template <typename T>
class Array {
 public:
  T* reserve(size_t count) {
    if (count * sizeof(T) > memory_.size()) {
      memory_ = Memory();  // give the old back first
      memory_ = Memory(count * sizeof(T) + count * sizeof(T) / 8);
    }
    memory_.bound(count * sizeof(T));
    return data();
  }
  T* data() const { return memory_.template as<T>(); }
  size_t bytes() const { return memory_.size(); }

 private:
  Memory memory_;
};

}  // namespace tenfold
