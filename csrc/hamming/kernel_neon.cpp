// The kernel for 64-bit ARM, where every CPU has NEON: 8 codes at a time.

#include "kernel.h"
#include "screened.h"
#include "view_kernel.h"

#if defined(BITGAZE_AARCH64)

#include <arm_neon.h>

namespace bitgaze {
namespace {

constexpr std::size_t kStep = 8;  // codes: one 16-bit lane for each distance

struct Collector {
  unsigned limit;
  std::uint64_t* found;
  std::size_t count = 0;

  // The distances of the codes id to id + 7.
  bool any(uint16x8_t distances) const noexcept { return vminvq_u16(distances) < limit; }

  void add(uint16x8_t distances, std::uint64_t id) noexcept {
    if (!any(distances)) [[likely]]
      return;
    std::uint16_t every[kStep];
    vst1q_u16(every, distances);
    for (std::size_t j = 0; j < kStep; ++j) {
      found[count] = std::uint64_t{every[j]} << kIdBits | (id + j);
      count += every[j] < limit;
    }
  }
};

// Adds up, for each of 8 codes, the set bits of its bytes; a vector holds 2 codes.
uint16x8_t add_codes(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d) noexcept {
  const uint16x8_t low = vpaddq_u16(vpaddlq_u8(a), vpaddlq_u8(b));
  const uint16x8_t high = vpaddq_u16(vpaddlq_u8(c), vpaddlq_u8(d));
  return vpaddq_u16(low, high);
}

uint8x16_t differing(uint8x16_t query, const void* codes) noexcept {
  return vcntq_u8(veorq_u8(query, vld1q_u8(static_cast<const std::uint8_t*>(codes))));
}

// kWords: the number of words, or 0 to use the argument. Returns the number of codes compared, as
// do the functions below.
template <std::size_t kWords>
std::size_t compare_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                                 std::size_t stride, std::size_t count, std::size_t words,
                                 std::uint64_t first, Collector& out) noexcept {
  if constexpr (kWords > 0) words = kWords;
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    uint8x16_t counts[4];
    const uint8x16_t first_word = vreinterpretq_u8_u64(vdupq_n_u64(query[0]));
    for (std::size_t v = 0; v < 4; ++v) counts[v] = differing(first_word, word_columns + i + 2 * v);
    for (std::size_t j = 1; j < words; ++j) {
      const uint8x16_t query_word = vreinterpretq_u8_u64(vdupq_n_u64(query[j]));
      for (std::size_t v = 0; v < 4; ++v) {
        // A byte holds the sum of up to 16 words: 128 bits.
        counts[v] =
            vaddq_u8(counts[v], differing(query_word, word_columns + j * stride + i + 2 * v));
      }
    }
    out.add(add_codes(counts[0], counts[1], counts[2], counts[3]), first + i);
  }
  return i;
}

std::size_t rows_8(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                   std::uint64_t first, Collector& out) noexcept {
  const uint8x8_t half = vld1_u8(query);
  const uint8x16_t query_twice = vcombine_u8(half, half);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const std::uint8_t* step = codes + 8 * i;
    out.add(add_codes(differing(query_twice, step), differing(query_twice, step + 16),
                      differing(query_twice, step + 32), differing(query_twice, step + 48)),
            first + i);
  }
  return i;
}

// Codes of 16 to 128 bytes. The last load overlaps the one before it instead of reading past a
// code, and the mask clears the bytes that were counted already.
uint16x8_t count_one(const std::uint8_t* query, const std::uint8_t* code, std::size_t code_bytes,
                     uint8x16_t last_mask) noexcept {
  const std::size_t last = code_bytes - 16;
  uint8x16_t counts = vandq_u8(veorq_u8(vld1q_u8(query + last), vld1q_u8(code + last)), last_mask);
  counts = vcntq_u8(counts);
  // A byte holds the sum of up to 8 loads: 64 bits.
  for (std::size_t i = 0; i < last; i += 16) {
    counts = vaddq_u8(counts, differing(vld1q_u8(query + i), code + i));
  }
  return vpaddlq_u8(counts);
}

std::size_t rows_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                     std::size_t code_bytes, std::uint64_t first, Collector& out) noexcept {
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
    out.add(vpaddq_u16(low, high), first + i);
  }
  return i;
}

struct Vectors {
  using Distances = uint16x8_t;

  static uint16x8_t differing(std::uint64_t word, const std::uint64_t* codes) noexcept {
    const uint8x16_t query = vreinterpretq_u8_u64(vdupq_n_u64(word));
    return add_codes(bitgaze::differing(query, codes), bitgaze::differing(query, codes + 2),
                     bitgaze::differing(query, codes + 4), bitgaze::differing(query, codes + 6));
  }
  static uint16x8_t add(uint16x8_t a, uint16x8_t b) noexcept { return vaddq_u16(a, b); }
};

struct ViewVectors {
  using Lanes = uint16x8_t;
  static constexpr std::size_t kLanes = 8;

  static uint16x8_t all(std::uint16_t number) noexcept { return vdupq_n_u16(number); }
  static uint16x8_t min(uint16x8_t a, uint16x8_t b) noexcept { return vminq_u16(a, b); }
  static uint16x8_t add(uint16x8_t a, uint16x8_t b) noexcept { return vaddq_u16(a, b); }
  static uint16x8_t add_saturating(uint16x8_t a, uint16x8_t b) noexcept { return vqaddq_u16(a, b); }
  static uint16x8_t times(uint16x8_t a, std::uint16_t number) noexcept {
    return vmulq_n_u16(a, number);
  }
  static void store(std::uint16_t* numbers, uint16x8_t a) noexcept { vst1q_u16(numbers, a); }
  static bool any_within(uint16x8_t a, std::uint16_t most) noexcept {
    return vminvq_u16(a) <= most;
  }

  template <std::size_t kWords>
  static uint16x8_t distances(const std::uint64_t* query, const std::uint16_t* codes,
                              std::size_t words) noexcept {
    if constexpr (kWords > 0) words = kWords;
    uint16x8_t sums = all(0);
    // A byte holds the sum of up to 31 of its kind.
    constexpr std::size_t kMost = 16;
    for (std::size_t w = 0; w < words; w += kMost) {
      uint8x16_t bytes = vdupq_n_u8(0);
      for (std::size_t i = w; i < words && i < w + kMost; ++i) {
        const uint8x16_t word = vreinterpretq_u8_u64(vdupq_n_u64(query[i]));
        bytes = vaddq_u8(bytes, differing(word, codes + i * kGroupItems));
      }
      sums = vpadalq_u8(sums, bytes);  // adds up the two bytes of each lane
    }
    return sums;
  }
};

std::size_t find_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                              std::size_t stride, std::size_t count, std::size_t words,
                              unsigned limit, std::uint64_t first, std::uint64_t* found) noexcept {
  Collector out{limit, found};
  std::size_t done;
  switch (words) {
    case 1:
      done = compare_word_columns<1>(query, word_columns, stride, count, words, first, out);
      break;
    case 2:
      done = compare_word_columns<2>(query, word_columns, stride, count, words, first, out);
      break;
    case 4:
      done = compare_word_columns<4>(query, word_columns, stride, count, words, first, out);
      break;
    default:
      done = compare_word_columns<0>(query, word_columns, stride, count, words, first, out);
  }
  return out.count + kernel_portable.find_word_columns(query, word_columns + done, stride,
                                                       count - done, words, limit, first + done,
                                                       found + out.count);
}

std::size_t find_rows(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                      std::size_t code_bytes, unsigned limit, std::uint64_t first,
                      std::uint64_t* found) noexcept {
  Collector out{limit, found};
  std::size_t done = 0;
  if (code_bytes == 8) {
    done = rows_8(query, codes, count, first, out);
  } else if (code_bytes >= 16) {
    done = rows_any(query, codes, count, code_bytes, first, out);
  }
  return out.count + kernel_portable.find_rows(query, codes + done * code_bytes, count - done,
                                               code_bytes, limit, first + done, found + out.count);
}

}  // namespace

extern const Kernel kernel_neon = {"neon",
                                   {},
                                   find_rows,
                                   find_word_columns,
                                   find_screened<Vectors, Collector, find_word_columns>,
                                   find_in_views<ViewVectors>};

}  // namespace bitgaze

#else

namespace bitgaze {
extern const Kernel kernel_neon = {"neon"};
}  // namespace bitgaze

#endif
