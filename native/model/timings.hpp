// Wall time of a model's ops, added up while recording is on; off, an op pays one branch.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace tenfold {

enum class Op : uint8_t { upload, embed, qkv, attend, attn_out, mlp, logits };
constexpr std::array<const char*, 7> kOpNames = {"upload", "embed", "qkv", "attend", "attn_out", "mlp", "logits"};

class Timings {
 public:
  struct Entry {
    int64_t calls = 0, nanoseconds = 0;
  };

  // Turning it on begins at zero; turning it off keeps what was recorded.
  void record(bool on) {
    on_ = on;
    if (on) entries_ = {};
  }
  const Entry& of(size_t op) const { return entries_[op]; }

  // One call of an op, from construction to destruction.
  class Scope {
   public:
    Scope(Timings& timings, Op op) {
      if (!timings.on_) return;
      entry_ = &timings.entries_[static_cast<size_t>(op)];
      began_ = std::chrono::steady_clock::now();
    }
    ~Scope() {
      if (entry_ == nullptr) return;
      const auto spent = std::chrono::steady_clock::now() - began_;
      entry_->nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(spent).count();
      ++entry_->calls;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Entry* entry_ = nullptr;
    std::chrono::steady_clock::time_point began_;
  };

 private:
  bool on_ = false;
  std::array<Entry, kOpNames.size()> entries_{};
};

}  // namespace tenfold
