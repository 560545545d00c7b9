// The kernel for any CPU, and the tail of every other kernel.

#include <cstring>

#include "kernel.h"

namespace bitgaze {
namespace {

std::uint64_t load_word(const std::uint8_t* bytes) noexcept {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// 0 to 7 bytes in one word. Which byte lands where does not matter to a count of differing bits.
std::uint64_t load_rest(const std::uint8_t* bytes, std::size_t size) noexcept {
  std::uint64_t word = 0;
  if (size & 4) {
    std::uint32_t part;
    std::memcpy(&part, bytes, sizeof(part));
    word = part;
    bytes += sizeof(part);
  }
  if (size & 2) {
    std::uint16_t part;
    std::memcpy(&part, bytes, sizeof(part));
    word = word << 16 | part;
    bytes += sizeof(part);
  }
  if (size & 1) word = word << 8 | *bytes;
  return word;
}

// In arithmetic, because x86-64 guarantees no POPCNT: std::popcount would be a call per word there,
// while compilers turn this into SSE2.
std::uint16_t popcount(std::uint64_t word) noexcept {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<std::uint16_t>(word * 0x0101010101010101 >> 56);
}

std::uint16_t distance(const std::uint8_t* a, const std::uint8_t* b, std::size_t size) noexcept {
  unsigned sum = 0;
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) sum += popcount(load_word(a + i) ^ load_word(b + i));
  sum += popcount(load_rest(a + i, size - i) ^ load_rest(b + i, size - i));
  return static_cast<std::uint16_t>(sum);
}

template <std::size_t kWords>
void distances_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                     std::uint16_t* distances) noexcept {
  std::uint64_t query_words[kWords];
  std::memcpy(query_words, query, sizeof(query_words));
  for (std::size_t i = 0; i < count; ++i) {
    unsigned sum = 0;
    for (std::size_t j = 0; j < kWords; ++j) {
      sum += popcount(query_words[j] ^ load_word(codes + 8 * (i * kWords + j)));
    }
    distances[i] = static_cast<std::uint16_t>(sum);
  }
}

}  // namespace

void distances_portable(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                        std::size_t code_bytes, std::uint16_t* distances) noexcept {
  switch (code_bytes) {
    case 8:
      return distances_words<1>(query, codes, count, distances);
    case 16:
      return distances_words<2>(query, codes, count, distances);
    case 32:
      return distances_words<4>(query, codes, count, distances);
    default:
      for (std::size_t i = 0; i < count; ++i) {
        distances[i] = distance(query, codes + i * code_bytes, code_bytes);
      }
  }
}

}  // namespace bitgaze
