// The kernel for AVX-512 with VPOPCNTDQ (Ice Lake, Zen 4 and later): 8 codes at a time.

#include "kernel.h"

#if defined(BITGAZE_X86_64)

#include <immintrin.h>

namespace bitgaze {
namespace {

constexpr std::size_t kStep = 8;  // codes: one 64-bit lane for each distance

// a0+a1, a2+a3, a4+a5, a6+a7, b0+b1, b2+b3, b4+b5, b6+b7
__m512i add_pairs(__m512i a, __m512i b) noexcept {
  const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_add_epi64(_mm512_permutex2var_epi64(a, even, b),
                          _mm512_permutex2var_epi64(a, odd, b));
}

// The distances of 8 codes that fill kVectors vectors without a gap; query repeats in its vector.
template <std::size_t kVectors>
__m512i step(__m512i query, const std::uint8_t* codes) noexcept {
  if constexpr (kVectors == 1) {
    return _mm512_popcnt_epi64(_mm512_xor_si512(query, _mm512_loadu_si512(codes)));
  } else {
    // In order of address, as the hardware prefetcher likes it: GCC evaluates arguments backwards.
    const __m512i low = step<kVectors / 2>(query, codes);
    const __m512i high = step<kVectors / 2>(query, codes + 32 * kVectors);
    return add_pairs(low, high);
  }
}

void store(__m512i sums, std::uint16_t* distances) noexcept {
  // With a full mask, because GCC 12 takes the unmasked form for the use of an uninitialised value.
  const __m128i narrow = _mm512_maskz_cvtepi64_epi16(0xff, sums);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(distances), narrow);
}

// Returns how many codes were done; so do the others.
template <std::size_t kVectors>
std::size_t distances_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                            std::uint16_t* distances) noexcept {
  std::uint8_t repeated[64];
  for (std::size_t i = 0; i < 64; ++i) repeated[i] = query[i % (8 * kVectors)];
  const __m512i query_vector = _mm512_loadu_si512(repeated);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    store(step<kVectors>(query_vector, codes + i * 8 * kVectors), distances + i);
  }
  return i;
}

// A code in one or two vectors. Bytes outside a mask are not read, so nothing past a code is.
template <bool kTwoVectors>
std::size_t distances_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                          std::size_t code_bytes, std::uint16_t* distances) noexcept {
  const std::size_t last_bytes = kTwoVectors ? code_bytes - 64 : code_bytes;
  const __mmask64 last_mask = ~std::uint64_t{0} >> (64 - last_bytes);
  const std::size_t last_offset = code_bytes - last_bytes;
  const __m512i query_last = _mm512_maskz_loadu_epi8(last_mask, query + last_offset);
  const __m512i query_first = kTwoVectors ? _mm512_loadu_si512(query) : query_last;

  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    __m512i sums[kStep];
    for (std::size_t j = 0; j < kStep; ++j) {
      const std::uint8_t* code = codes + (i + j) * code_bytes;
      const __m512i last = _mm512_maskz_loadu_epi8(last_mask, code + last_offset);
      sums[j] = _mm512_popcnt_epi64(_mm512_xor_si512(query_last, last));
      if constexpr (kTwoVectors) {
        const __m512i first = _mm512_xor_si512(query_first, _mm512_loadu_si512(code));
        sums[j] = _mm512_add_epi64(sums[j], _mm512_popcnt_epi64(first));
      }
    }
    const __m512i low = add_pairs(add_pairs(sums[0], sums[1]), add_pairs(sums[2], sums[3]));
    const __m512i high = add_pairs(add_pairs(sums[4], sums[5]), add_pairs(sums[6], sums[7]));
    store(add_pairs(low, high), distances + i);
  }
  return i;
}

}  // namespace

void distances_avx512(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                      std::size_t code_bytes, std::uint16_t* distances) noexcept {
  std::size_t done;
  switch (code_bytes) {
    case 8:
      done = distances_words<1>(query, codes, count, distances);
      break;
    case 16:
      done = distances_words<2>(query, codes, count, distances);
      break;
    case 32:
      done = distances_words<4>(query, codes, count, distances);
      break;
    case 64:
      done = distances_words<8>(query, codes, count, distances);
      break;
    default:
      done = code_bytes < 64 ? distances_any<false>(query, codes, count, code_bytes, distances)
                             : distances_any<true>(query, codes, count, code_bytes, distances);
  }
  distances_portable(query, codes + done * code_bytes, count - done, code_bytes, distances + done);
}

}  // namespace bitgaze

#endif
