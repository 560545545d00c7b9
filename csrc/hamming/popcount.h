// Counting bits on a CPU of which nothing is known.
#pragma once

#include <cstdint>

namespace bitgaze {

// In arithmetic, because x86-64 guarantees no POPCNT: std::popcount would be a call per word there,
// while compilers turn this into SSE2. Static, because kernel files share nothing.
static inline unsigned popcount(std::uint64_t word) noexcept {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<unsigned>(word * 0x0101010101010101 >> 56);
}

}  // namespace bitgaze
