// The kernel for WebAssembly with fixed-width SIMD, which every browser has: 8 codes at a time.

#include "kernel.h"
#include "screened.h"
#include "view_kernel.h"

#if defined(__wasm_simd128__)

#include <wasm_simd128.h>

namespace bitgaze {
namespace {

constexpr std::size_t kStep = 8;  // codes: one 16-bit lane for each distance

struct Collector {
  unsigned limit;
  std::uint64_t* found;
  std::size_t count = 0;

  // The distances of the codes id to id + 7.
  bool any(v128_t distances) const noexcept {
    return wasm_v128_any_true(
        wasm_u16x8_lt(distances, wasm_u16x8_splat(static_cast<std::uint16_t>(limit))));
  }

  void add(v128_t distances, std::uint64_t id) noexcept {
    if (!any(distances)) [[likely]]
      return;
    std::uint16_t every[kStep];
    wasm_v128_store(every, distances);
    for (std::size_t j = 0; j < kStep; ++j) {
      found[count] = std::uint64_t{every[j]} << kIdBits | (id + j);
      count += every[j] < limit;
    }
  }
};

// Adds neighbours of 16 bits, which stay below 2^15: lanes of two vectors become those of one.
v128_t add_pairs(v128_t a, v128_t b) noexcept {
  const v128_t one = wasm_i16x8_splat(1);
  return wasm_i16x8_narrow_i32x4(wasm_i32x4_dot_i16x8(a, one), wasm_i32x4_dot_i16x8(b, one));
}

// Adds up, for each of 8 codes, the set bits of its bytes; a vector holds 2 codes.
v128_t add_codes(v128_t a, v128_t b, v128_t c, v128_t d) noexcept {
  const v128_t low =
      add_pairs(wasm_u16x8_extadd_pairwise_u8x16(a), wasm_u16x8_extadd_pairwise_u8x16(b));
  const v128_t high =
      add_pairs(wasm_u16x8_extadd_pairwise_u8x16(c), wasm_u16x8_extadd_pairwise_u8x16(d));
  return add_pairs(low, high);
}

v128_t differing(v128_t query, const void* codes) noexcept {
  return wasm_i8x16_popcnt(wasm_v128_xor(query, wasm_v128_load(codes)));
}

v128_t twice(std::uint64_t word) noexcept {
  return wasm_i64x2_splat(static_cast<std::int64_t>(word));
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
    v128_t counts[4];
    const v128_t first_word = twice(query[0]);
    for (std::size_t v = 0; v < 4; ++v) counts[v] = differing(first_word, word_columns + i + 2 * v);
    for (std::size_t j = 1; j < words; ++j) {
      const v128_t query_word = twice(query[j]);
      for (std::size_t v = 0; v < 4; ++v) {
        // A byte holds the sum of up to 16 words: 128 bits.
        counts[v] =
            wasm_i8x16_add(counts[v], differing(query_word, word_columns + j * stride + i + 2 * v));
      }
    }
    out.add(add_codes(counts[0], counts[1], counts[2], counts[3]), first + i);
  }
  return i;
}

std::size_t rows_8(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                   std::uint64_t first, Collector& out) noexcept {
  const v128_t query_twice = wasm_v128_load64_splat(query);
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
v128_t count_one(const std::uint8_t* query, const std::uint8_t* code, std::size_t code_bytes,
                 v128_t last_mask) noexcept {
  const std::size_t last = code_bytes - 16;
  v128_t counts = wasm_v128_and(
      wasm_v128_xor(wasm_v128_load(query + last), wasm_v128_load(code + last)), last_mask);
  counts = wasm_i8x16_popcnt(counts);
  // A byte holds the sum of up to 8 loads: 64 bits.
  for (std::size_t i = 0; i < last; i += 16) {
    counts = wasm_i8x16_add(counts, differing(wasm_v128_load(query + i), code + i));
  }
  return wasm_u16x8_extadd_pairwise_u8x16(counts);
}

std::size_t rows_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                     std::size_t code_bytes, std::uint64_t first, Collector& out) noexcept {
  std::uint8_t mask[16];
  for (std::size_t i = 0; i < 16; ++i) mask[i] = i < (16 - code_bytes % 16) % 16 ? 0 : 255;
  const v128_t last_mask = wasm_v128_load(mask);

  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    v128_t sums[kStep];
    for (std::size_t j = 0; j < kStep; ++j) {
      sums[j] = count_one(query, codes + (i + j) * code_bytes, code_bytes, last_mask);
    }
    const v128_t low = add_pairs(add_pairs(sums[0], sums[1]), add_pairs(sums[2], sums[3]));
    const v128_t high = add_pairs(add_pairs(sums[4], sums[5]), add_pairs(sums[6], sums[7]));
    out.add(add_pairs(low, high), first + i);
  }
  return i;
}

struct Vectors {
  using Distances = v128_t;

  static v128_t differing(std::uint64_t word, const std::uint64_t* codes) noexcept {
    const v128_t query = twice(word);
    return add_codes(bitgaze::differing(query, codes), bitgaze::differing(query, codes + 2),
                     bitgaze::differing(query, codes + 4), bitgaze::differing(query, codes + 6));
  }
  static v128_t add(v128_t a, v128_t b) noexcept { return wasm_i16x8_add(a, b); }
};

struct ViewVectors {
  using Lanes = v128_t;
  static constexpr std::size_t kLanes = 8;

  static v128_t all(std::uint16_t number) noexcept { return wasm_u16x8_splat(number); }
  static v128_t min(v128_t a, v128_t b) noexcept { return wasm_u16x8_min(a, b); }
  static v128_t add(v128_t a, v128_t b) noexcept { return wasm_i16x8_add(a, b); }
  static v128_t add_saturating(v128_t a, v128_t b) noexcept { return wasm_u16x8_add_sat(a, b); }
  static v128_t times(v128_t a, std::uint16_t number) noexcept {
    return wasm_i16x8_mul(a, wasm_u16x8_splat(number));
  }
  static void store(std::uint16_t* numbers, v128_t a) noexcept { wasm_v128_store(numbers, a); }
  static bool any_within(v128_t a, std::uint16_t most) noexcept {
    return wasm_v128_any_true(wasm_u16x8_le(a, wasm_u16x8_splat(most)));
  }

  template <std::size_t kWords>
  static v128_t distances(const std::uint64_t* query, const std::uint16_t* codes,
                          std::size_t words) noexcept {
    if constexpr (kWords > 0) words = kWords;
    v128_t sums = all(0);
    // A byte holds the sum of up to 31 of its kind.
    constexpr std::size_t kMost = 16;
    for (std::size_t w = 0; w < words; w += kMost) {
      v128_t bytes = wasm_i8x16_splat(0);
      for (std::size_t i = w; i < words && i < w + kMost; ++i) {
        bytes = wasm_i8x16_add(bytes, differing(twice(query[i]), codes + i * kGroupItems));
      }
      sums = wasm_i16x8_add(sums, wasm_u16x8_extadd_pairwise_u8x16(bytes));
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

extern const Kernel kernel_wasm = {"wasm",
                                   {},
                                   find_rows,
                                   find_word_columns,
                                   find_screened<Vectors, Collector, find_word_columns>,
                                   find_in_views<ViewVectors>};

}  // namespace bitgaze

#else

namespace bitgaze {
extern const Kernel kernel_wasm = {"wasm"};
}  // namespace bitgaze

#endif
