// Codes laid out by word, for kernels that compare many queries with the same codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bitgaze {

inline std::size_t words_of(std::size_t code_bytes) { return (code_bytes + 7) / 8; }

// Word j of code i becomes planes[j * stride + i]; the last word is filled up with zeros.
inline void to_planes(const std::uint8_t* codes, std::size_t count, std::size_t code_bytes,
                      std::uint64_t* planes, std::size_t stride) {
  const std::size_t whole = code_bytes / 8;
  for (std::size_t j = 0; j < whole; ++j) {
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(planes + j * stride + i, codes + i * code_bytes + 8 * j, 8);
    }
  }
  if (code_bytes % 8 == 0) return;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, codes + i * code_bytes + 8 * whole, code_bytes % 8);
    planes[whole * stride + i] = word;
  }
}

}  // namespace bitgaze
