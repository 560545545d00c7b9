// The kernel for 64-bit ARM, where every CPU has NEON: 8 codes at a time.

#include "kernel.h"

#if defined(BITGAZE_AARCH64)

#include <arm_neon.h>

namespace bitgaze {
namespace {

constexpr std::size_t kStep = 8;  // codes: one 16-bit lane for each distance

// Two codes of 8 bytes, their bits counted in each byte.
uint8x16_t count_two(uint8x16_t query, const std::uint8_t* codes) noexcept {
  return vcntq_u8(veorq_u8(query, vld1q_u8(codes)));
}

// Returns how many codes were done; so does distances_any.
std::size_t distances_8(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                        std::uint16_t* distances) noexcept {
  const uint8x8_t half = vld1_u8(query);
  const uint8x16_t query_twice = vcombine_u8(half, half);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const std::uint8_t* step = codes + 8 * i;
    const uint8x16_t low =
        vpaddq_u8(count_two(query_twice, step), count_two(query_twice, step + 16));
    const uint8x16_t high =
        vpaddq_u8(count_two(query_twice, step + 32), count_two(query_twice, step + 48));
    vst1q_u16(distances + i, vpaddlq_u8(vpaddq_u8(low, high)));
  }
  return i;
}

// Codes of 16 to 128 bytes. The last load overlaps the one before rather than reach past a code,
// and the mask clears what was counted already.
uint16x8_t count_one(const std::uint8_t* query, const std::uint8_t* code, std::size_t code_bytes,
                     uint8x16_t last_mask) noexcept {
  const std::size_t last = code_bytes - 16;
  uint8x16_t counts =
      vcntq_u8(vandq_u8(veorq_u8(vld1q_u8(query + last), vld1q_u8(code + last)), last_mask));
  // A byte holds at most 8 loads of 8 bits.
  for (std::size_t i = 0; i < last; i += 16) {
    counts = vaddq_u8(counts, vcntq_u8(veorq_u8(vld1q_u8(query + i), vld1q_u8(code + i))));
  }
  return vpaddlq_u8(counts);
}

std::size_t distances_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                          std::size_t code_bytes, std::uint16_t* distances) noexcept {
  std::uint8_t mask[16];
  for (std::size_t i = 0; i < 16; ++i) mask[i] = i < (16 - code_bytes % 16) % 16 ? 0 : 255;
  const uint8x16_t last_mask = vld1q_u8(mask);

  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    uint16x8_t sums[kStep];
    for (std::size_t j = 0; j < kStep; ++j) {
      sums[j] = count_one(query, codes + (i + j) * code_bytes, code_bytes, last_mask);
    }
    const uint16x8_t low = vpaddq_u16(vpaddq_u16(sums[0], sums[1]), vpaddq_u16(sums[2], sums[3]));
    const uint16x8_t high = vpaddq_u16(vpaddq_u16(sums[4], sums[5]), vpaddq_u16(sums[6], sums[7]));
    vst1q_u16(distances + i, vpaddq_u16(low, high));
  }
  return i;
}

}  // namespace

void distances_neon(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                    std::size_t code_bytes, std::uint16_t* distances) noexcept {
  std::size_t done = 0;
  if (code_bytes == 8) {
    done = distances_8(query, codes, count, distances);
  } else if (code_bytes >= 16) {
    done = distances_any(query, codes, count, code_bytes, distances);
  }
  distances_portable(query, codes + done * code_bytes, count - done, code_bytes, distances + done);
}

}  // namespace bitgaze

#endif
