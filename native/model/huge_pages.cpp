#include "model/huge_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace tenfold {
namespace {

constexpr uintptr_t kHuge = uintptr_t{2} << 20;

void ask(uintptr_t begin, uintptr_t end) {
#if defined(MADV_HUGEPAGE)
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, Linux 6.1: now, and not when the kernel gets to it
  begin = (begin + kHuge - 1) / kHuge * kHuge;
  end = end / kHuge * kHuge;
  if (begin >= end) return;
  void* p = reinterpret_cast<void*>(begin);
  if (madvise(p, end - begin, MADV_HUGEPAGE) == 0) madvise(p, end - begin, kCollapse);
#else
  static_cast<void>(begin), static_cast<void>(end);
#endif
}

}  // namespace

void join_pages(std::vector<std::span<uint8_t>> pieces) {
  std::erase_if(pieces, [](const auto& piece) { return piece.empty(); });
  std::sort(pieces.begin(), pieces.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  uintptr_t begin = 0, end = 0;
  for (const auto& piece : pieces) {
    const auto from = reinterpret_cast<uintptr_t>(piece.data());
    const uintptr_t to = (from + piece.size() + page - 1) / page * page;
    if (from != end) {
      ask(begin, end);
      begin = from;
    }
    end = to;
  }
  ask(begin, end);
}

}  // namespace tenfold
