// The kernel for AVX-512 with VPOPCNTDQ, BITALG and VBMI (Ice Lake, Zen 4 and later): a 64-bit lane
// per distance, or a 16-bit lane with several views.

#include "kernel.h"
#include "screened.h"
#include "view_kernel.h"
#include "view_tables.h"

#if defined(BITGAZE_X86_64)

#include <immintrin.h>

namespace bitgaze {
namespace {

// -mavx512f implies POPCNT, AVX and AVX2.
constexpr CpuBits kRequired = {.leaf1_ecx = kPopcnt | kAvx,
                               .leaf7_ebx = kAvx2 | kAvx512F | kAvx512Bw,
                               .leaf7_ecx = kVpopcntdq | kBitalg | kVbmi,
                               .xcr0 = kZmmState};

constexpr std::size_t kLanes = 8;
constexpr std::size_t kStep = 32;  // codes that share one comparison and one branch

struct Collector {
  __m512i limit;
  std::uint64_t* found;
  std::size_t count = 0;

  Collector(unsigned below, std::uint64_t* room) noexcept
      : limit(_mm512_set1_epi64(below)), found(room) {}

  // The upper half of each lane is 0 on both sides, so 32-bit minimum and comparison suffice: one
  // operation on Intel, where VPMINUQ takes two.
  bool any(__m512i distances) const noexcept {
    return _mm512_cmplt_epu32_mask(distances, limit) != 0;
  }

  // The distances of the codes id to id + 7.
  void add(__m512i distances, std::uint64_t id) noexcept {
    const __m512i lanes = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i ids = _mm512_add_epi64(_mm512_set1_epi64(static_cast<long long>(id)), lanes);
    // With a full mask, because GCC 12 warns of an uninitialised value in the unmasked form.
    const __m512i high = _mm512_maskz_slli_epi64(0xff, distances, kIdBits);
    const __mmask8 below = _mm512_cmplt_epu64_mask(distances, limit);
    // Compressed in a register: a compressing store takes over 100 cycles on Zen 4.
    _mm512_storeu_si512(found + count,
                        _mm512_maskz_compress_epi64(below, _mm512_or_si512(high, ids)));
    count += static_cast<std::size_t>(_mm_popcnt_u32(below));
  }

  void add_step(const __m512i* distances, std::uint64_t id) noexcept {
    for (std::size_t j = 0; j < kStep / kLanes; ++j) add(distances[j], id + j * kLanes);
  }
};

__m512i nearest(const __m512i* distances) noexcept {
  // With a full mask because of GCC 12, as above.
  const auto min = [](__m512i a, __m512i b) { return _mm512_maskz_min_epu32(0xffff, a, b); };
  return min(min(distances[0], distances[1]), min(distances[2], distances[3]));
}

__m512i differing(__m512i query, const void* codes) noexcept {
  return _mm512_popcnt_epi64(_mm512_xor_si512(query, _mm512_loadu_si512(codes)));
}

// kWords: the number of words, or 0 to use the argument. Returns the number of codes compared, as
// do the functions below.
template <std::size_t kWords>
std::size_t compare_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                                 std::size_t stride, std::size_t count, std::size_t words,
                                 std::uint64_t first, Collector& out) noexcept {
  if constexpr (kWords > 0) words = kWords;
  __m512i query_words[kWords > 0 ? kWords : 16];
  for (std::size_t j = 0; j < words; ++j) {
    query_words[j] = _mm512_set1_epi64(static_cast<long long>(query[j]));
  }
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    __m512i sums[kStep / kLanes];
    for (std::size_t v = 0; v < kStep / kLanes; ++v) {
      sums[v] = differing(query_words[0], word_columns + i + v * kLanes);
    }
    for (std::size_t j = 1; j < words; ++j) {
      for (std::size_t v = 0; v < kStep / kLanes; ++v) {
        const std::uint64_t* codes = word_columns + j * stride + i + v * kLanes;
        sums[v] = _mm512_add_epi64(sums[v], differing(query_words[j], codes));
      }
    }
    if (out.any(nearest(sums))) [[unlikely]]
      out.add_step(sums, first + i);
  }
  return i;
}

// a0+a1, a2+a3, a4+a5, a6+a7, b0+b1, b2+b3, b4+b5, b6+b7
__m512i add_pairs(__m512i a, __m512i b) noexcept {
  const __m512i even = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
  const __m512i odd = _mm512_setr_epi64(1, 3, 5, 7, 9, 11, 13, 15);
  return _mm512_add_epi64(_mm512_permutex2var_epi64(a, even, b),
                          _mm512_permutex2var_epi64(a, odd, b));
}

// The distances of 8 codes that fill kVectors vectors without gaps; query repeats in its vector.
template <std::size_t kVectors>
__m512i eight(__m512i query, const std::uint8_t* codes) noexcept {
  if constexpr (kVectors == 1) {
    return differing(query, codes);
  } else {
    // In order of address, for the hardware prefetcher: GCC evaluates arguments from last to first.
    const __m512i low = eight<kVectors / 2>(query, codes);
    const __m512i high = eight<kVectors / 2>(query, codes + 32 * kVectors);
    return add_pairs(low, high);
  }
}

template <std::size_t kVectors>
std::size_t rows_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                       std::uint64_t first, Collector& out) noexcept {
  std::uint8_t repeated[64];
  for (std::size_t i = 0; i < 64; ++i) repeated[i] = query[i % (8 * kVectors)];
  const __m512i query_vector = _mm512_loadu_si512(repeated);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    __m512i sums[kStep / kLanes];
    for (std::size_t v = 0; v < kStep / kLanes; ++v) {
      sums[v] = eight<kVectors>(query_vector, codes + (i + v * kLanes) * 8 * kVectors);
    }
    if (out.any(nearest(sums))) [[unlikely]]
      out.add_step(sums, first + i);
  }
  return i;
}

// Codes of one or two vectors. A load reads no bytes outside its mask, and so none past a code.
template <bool kTwoVectors>
std::size_t rows_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                     std::size_t code_bytes, std::uint64_t first, Collector& out) noexcept {
  const std::size_t last_bytes = kTwoVectors ? code_bytes - 64 : code_bytes;
  const __mmask64 last_mask = ~std::uint64_t{0} >> (64 - last_bytes);
  const std::size_t last_offset = code_bytes - last_bytes;
  const __m512i query_last = _mm512_maskz_loadu_epi8(last_mask, query + last_offset);
  const __m512i query_first = kTwoVectors ? _mm512_loadu_si512(query) : query_last;

  std::size_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    __m512i sums[kLanes];
    for (std::size_t j = 0; j < kLanes; ++j) {
      const std::uint8_t* code = codes + (i + j) * code_bytes;
      const __m512i last = _mm512_maskz_loadu_epi8(last_mask, code + last_offset);
      sums[j] = _mm512_popcnt_epi64(_mm512_xor_si512(query_last, last));
      if constexpr (kTwoVectors) sums[j] = _mm512_add_epi64(sums[j], differing(query_first, code));
    }
    const __m512i low = add_pairs(add_pairs(sums[0], sums[1]), add_pairs(sums[2], sums[3]));
    const __m512i high = add_pairs(add_pairs(sums[4], sums[5]), add_pairs(sums[6], sums[7]));
    const __m512i distances = add_pairs(low, high);
    if (out.any(distances)) [[unlikely]]
      out.add(distances, first + i);
  }
  return i;
}

struct Vectors {
  using Distances = __m512i;

  static __m512i differing(std::uint64_t word, const std::uint64_t* codes) noexcept {
    return bitgaze::differing(_mm512_set1_epi64(static_cast<long long>(word)), codes);
  }
  static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi64(a, b); }
};

struct ViewVectors {
  using Lanes = __m512i;
  static constexpr std::size_t kLanes = 32;

  static __m512i all(std::uint16_t number) noexcept {
    return _mm512_set1_epi16(static_cast<short>(number));
  }
  static __m512i min(__m512i a, __m512i b) noexcept { return _mm512_min_epu16(a, b); }
  static __m512i add(__m512i a, __m512i b) noexcept { return _mm512_add_epi16(a, b); }
  static __m512i add_saturating(__m512i a, __m512i b) noexcept { return _mm512_adds_epu16(a, b); }
  static __m512i times(__m512i a, std::uint16_t number) noexcept {
    return _mm512_mullo_epi16(a, all(number));
  }
  static void store(std::uint16_t* numbers, __m512i a) noexcept { _mm512_storeu_si512(numbers, a); }
  static bool any_within(__m512i a, std::uint16_t most) noexcept {
    return _mm512_cmple_epu16_mask(a, all(most)) != 0;
  }

  static __m512i differing_in(std::uint64_t word, const std::uint16_t* codes) noexcept {
    const __m512i query = _mm512_set1_epi64(static_cast<long long>(word));
    return _mm512_popcnt_epi16(_mm512_xor_si512(query, _mm512_loadu_si512(codes)));
  }

  // Of bytes. VPERMB reads the lowest six bits of an index.
  static constexpr std::size_t kIndexBits = 6;
  static __m512i look_up(const std::uint8_t* table, const std::uint8_t* indexes) noexcept {
    // With a full mask because of GCC 12, as above.
    return _mm512_maskz_permutexvar_epi8(~__mmask64{0}, _mm512_loadu_si512(indexes),
                                         _mm512_loadu_si512(table));
  }
  static __m512i add_bytes(__m512i a, __m512i b) noexcept { return _mm512_add_epi8(a, b); }
  static __m512i subtract_bytes(__m512i a, __m512i b) noexcept { return _mm512_sub_epi8(a, b); }
  static __m512i min_bytes(__m512i a, __m512i b) noexcept { return _mm512_min_epu8(a, b); }
  static __m512i subtract(__m512i a, __m512i b) noexcept { return _mm512_sub_epi16(a, b); }
  static __m512i both(__m512i a, __m512i b) noexcept { return _mm512_and_si512(a, b); }
  template <unsigned kBits>
  static __m512i shift_left(__m512i a) noexcept {
    return _mm512_slli_epi16(a, kBits);
  }
  template <unsigned kBits>
  static __m512i shift_right(__m512i a) noexcept {
    return _mm512_srli_epi16(a, kBits);
  }

  template <std::size_t kWords>
  static __m512i distances(const std::uint64_t* query, const std::uint16_t* codes,
                           std::size_t words) noexcept {
    if constexpr (kWords > 0) words = kWords;
    __m512i sums = differing_in(query[0], codes);
    for (std::size_t w = 1; w < words; ++w) {
      sums = add(sums, differing_in(query[w], codes + w * kGroupItems));
    }
    return sums;
  }
};

std::size_t find_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                              std::size_t stride, std::size_t count, std::size_t words,
                              unsigned limit, std::uint64_t first, std::uint64_t* found) noexcept {
  Collector out(limit, found);
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
    case 8:
      done = compare_word_columns<8>(query, word_columns, stride, count, words, first, out);
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
  Collector out(limit, found);
  std::size_t done;
  switch (code_bytes) {
    case 8:
      done = rows_words<1>(query, codes, count, first, out);
      break;
    case 16:
      done = rows_words<2>(query, codes, count, first, out);
      break;
    case 32:
      done = rows_words<4>(query, codes, count, first, out);
      break;
    case 64:
      done = rows_words<8>(query, codes, count, first, out);
      break;
    default:
      done = code_bytes < 64 ? rows_any<false>(query, codes, count, code_bytes, first, out)
                             : rows_any<true>(query, codes, count, code_bytes, first, out);
  }
  return out.count + kernel_portable.find_rows(query, codes + done * code_bytes, count - done,
                                               code_bytes, limit, first + done, found + out.count);
}

}  // namespace

extern const Kernel kernel_avx512 = {"avx512",
                                     kRequired,
                                     find_rows,
                                     find_word_columns,
                                     find_screened<Vectors, Collector, find_word_columns>,
                                     find_in_views<ViewVectors>,
                                     ViewVectors::kIndexBits,
                                     lay_out_indexes<ViewVectors::kIndexBits>,
                                     near_groups<ViewVectors>};

}  // namespace bitgaze

#else

namespace bitgaze {
extern const Kernel kernel_avx512 = {"avx512"};
}  // namespace bitgaze

#endif
