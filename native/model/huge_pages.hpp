// Fewer, larger pages for memory that every step reads through.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tenfold {

// Asks for huge pages over pieces that were mapped one by one, each too small for any, where they lie side by side.
// Their contents stay. Best effort: a system that cannot leaves them as they are.
void join_pages(std::vector<std::span<uint8_t>> pieces);

}  // namespace tenfold
