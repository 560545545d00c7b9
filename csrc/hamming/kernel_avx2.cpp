// The kernel for AVX2: 16 codes at a time, bits counted by table lookup (W. Mula's method).

#include "kernel.h"

#if defined(BITGAZE_X86_64)

#include <immintrin.h>

namespace bitgaze {
namespace {

constexpr std::size_t kStep = 16;  // codes: 4 vectors of 4 distances, packed into one

__m256i load(const std::uint8_t* bytes) noexcept {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// How many bits are set in each 64-bit lane.
__m256i popcount(__m256i bits) noexcept {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(bits, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
  const __m256i bytes =
      _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
  return _mm256_sad_epu8(bytes, _mm256_setzero_si256());
}

// a0+a1, a2+a3, b0+b1, b2+b3
__m256i add_pairs(__m256i a, __m256i b) noexcept {
  const __m256i sums = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  return _mm256_permute4x64_epi64(sums, _MM_SHUFFLE(3, 1, 2, 0));
}

// Four vectors of four distances, in 64 bits each, as 16 distances in order.
void store(__m256i a, __m256i b, __m256i c, __m256i d, std::uint16_t* distances) noexcept {
  const __m256i packed = _mm256_packus_epi32(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(distances),
                      _mm256_permutevar8x32_epi32(packed, order));
}

// The distances of 4 codes that fill kVectors vectors without a gap; query repeats in its vector.
template <std::size_t kVectors>
__m256i four(__m256i query, const std::uint8_t* codes) noexcept {
  if constexpr (kVectors == 1) {
    return popcount(_mm256_xor_si256(query, load(codes)));
  } else {
    // In order of address, as the hardware prefetcher likes it: GCC evaluates arguments backwards.
    const __m256i low = four<kVectors / 2>(query, codes);
    const __m256i high = four<kVectors / 2>(query, codes + 16 * kVectors);
    return add_pairs(low, high);
  }
}

// Returns how many codes were done; so does distances_any.
template <std::size_t kVectors>
std::size_t distances_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                            std::uint16_t* distances) noexcept {
  constexpr std::size_t kFourBytes = 32 * kVectors;
  std::uint8_t repeated[32];
  for (std::size_t i = 0; i < 32; ++i) repeated[i] = query[i % (8 * kVectors)];
  const __m256i query_vector = load(repeated);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const std::uint8_t* step = codes + i * 8 * kVectors;
    const __m256i a = four<kVectors>(query_vector, step);
    const __m256i b = four<kVectors>(query_vector, step + kFourBytes);
    const __m256i c = four<kVectors>(query_vector, step + 2 * kFourBytes);
    const __m256i d = four<kVectors>(query_vector, step + 3 * kFourBytes);
    store(a, b, c, d, distances + i);
  }
  return i;
}

// A code's own end, rather than bytes past it: the last load overlaps the one before, and the mask
// clears what was counted already.
struct CodeShape {
  std::size_t bytes;  // 17 to 128
  __m256i last_mask;

  explicit CodeShape(std::size_t code_bytes) noexcept : bytes(code_bytes) {
    std::uint8_t mask[32];
    for (std::size_t i = 0; i < 32; ++i) {
      const bool counted = bytes < 32 ? i >= 16 && i < 48 - bytes : i < (32 - bytes % 32) % 32;
      mask[i] = counted ? 0 : 255;
    }
    last_mask = load(mask);
  }

  __m256i load_last(const std::uint8_t* code) const noexcept {
    if (bytes >= 32) return load(code + bytes - 32);
    return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(code + bytes - 16),
                               reinterpret_cast<const __m128i*>(code));
  }
};

// The distance of one code, in 4 lanes that have yet to be added.
__m256i one(const CodeShape& shape, const std::uint8_t* query, const std::uint8_t* code) noexcept {
  const __m256i last = _mm256_xor_si256(shape.load_last(query), shape.load_last(code));
  __m256i sums = popcount(_mm256_and_si256(last, shape.last_mask));
  for (std::size_t i = 0; i + 32 < shape.bytes; i += 32) {
    const __m256i bits = _mm256_xor_si256(load(query + i), load(code + i));
    sums = _mm256_add_epi64(sums, popcount(bits));
  }
  return sums;
}

__m256i four(const CodeShape& shape, const std::uint8_t* query,
             const std::uint8_t* codes) noexcept {
  const __m256i a = one(shape, query, codes);
  const __m256i b = one(shape, query, codes + shape.bytes);
  const __m256i c = one(shape, query, codes + 2 * shape.bytes);
  const __m256i d = one(shape, query, codes + 3 * shape.bytes);
  return add_pairs(add_pairs(a, b), add_pairs(c, d));
}

std::size_t distances_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                          std::size_t code_bytes, std::uint16_t* distances) noexcept {
  const CodeShape shape(code_bytes);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const std::uint8_t* step = codes + i * code_bytes;
    const __m256i a = four(shape, query, step);
    const __m256i b = four(shape, query, step + 4 * code_bytes);
    const __m256i c = four(shape, query, step + 8 * code_bytes);
    const __m256i d = four(shape, query, step + 12 * code_bytes);
    store(a, b, c, d, distances + i);
  }
  return i;
}

}  // namespace

void distances_avx2(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                    std::size_t code_bytes, std::uint16_t* distances) noexcept {
  std::size_t done = 0;
  if (code_bytes == 8) {
    done = distances_words<1>(query, codes, count, distances);
  } else if (code_bytes == 16) {
    done = distances_words<2>(query, codes, count, distances);
  } else if (code_bytes == 32) {
    done = distances_words<4>(query, codes, count, distances);
  } else if (code_bytes > 16) {
    done = distances_any(query, codes, count, code_bytes, distances);
  }
  distances_portable(query, codes + done * code_bytes, count - done, code_bytes, distances + done);
}

}  // namespace bitgaze

#endif
