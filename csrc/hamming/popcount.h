// Counts set bits on any CPU.
#pragma once

#include <cstdint>

namespace bitgaze {

// Arithmetic, because x86-64 does not guarantee POPCNT: std::popcount would be a call per word
// there, while compilers vectorise this with SSE2. Static, because kernel files share no functions.
static inline std::uint64_t count_bytes(std::uint64_t word) noexcept {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  return (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
}

static inline unsigned popcount(std::uint64_t word) noexcept {
  return static_cast<unsigned>(count_bytes(word) * 0x0101010101010101 >> 56);
}

}  // namespace bitgaze
