// The kernel for AVX2: 16 codes at a time, bits counted by table lookup (W. Mula's method).

#include "kernel.h"
#include "screened.h"
#include "view_kernel.h"

#if defined(BITGAZE_X86_64)

#include <immintrin.h>

namespace bitgaze {
namespace {

// -mavx2 implies POPCNT and AVX.
constexpr CpuBits kRequired = {
    .leaf1_ecx = kPopcnt | kAvx, .leaf7_ebx = kAvx2, .leaf7_ecx = 0, .xcr0 = kYmmState};

constexpr std::size_t kLanes = 4;
constexpr std::size_t kStep = 16;  // codes that share one comparison and one branch

struct Collector {
  unsigned limit;
  __m256i limits;
  std::uint64_t* found;
  std::size_t count = 0;

  Collector(unsigned below, std::uint64_t* room) noexcept
      : limit(below), limits(_mm256_set1_epi64x(below)), found(room) {}

  // distances: four vectors of four, of the codes id to id + 15 in order.
  void add(const __m256i* distances, std::uint64_t id) noexcept {
    // 16-bit lanes suffice: of the four in 64 bits, all but the lowest are 0 on both sides.
    const __m256i nearest = _mm256_min_epi16(_mm256_min_epi16(distances[0], distances[1]),
                                             _mm256_min_epi16(distances[2], distances[3]));
    if (any_below(nearest)) [[unlikely]]
      add_each(distances, kStep / kLanes, id);
  }

  bool any_below(__m256i distances) const noexcept {
    return _mm256_movemask_epi8(_mm256_cmpgt_epi16(limits, distances)) != 0;
  }

  void add_each(const __m256i* distances, std::size_t vectors, std::uint64_t id) noexcept {
    std::uint64_t every[kStep];
    for (std::size_t v = 0; v < vectors; ++v) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(every + v * kLanes), distances[v]);
    }
    for (std::size_t j = 0; j < vectors * kLanes; ++j) {
      found[count] = every[j] << kIdBits | (id + j);
      count += every[j] < limit;
    }
  }
};

__m256i load(const void* bytes) noexcept {
  return _mm256_loadu_si256(static_cast<const __m256i*>(bytes));
}

// Counts the set bits of each byte.
__m256i count_bytes(__m256i bits) noexcept {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i nibble = _mm256_set1_epi8(15);
  const __m256i low = _mm256_and_si256(bits, nibble);
  const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
  return _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
}

__m256i add_bytes(__m256i bytes) noexcept { return _mm256_sad_epu8(bytes, _mm256_setzero_si256()); }

__m256i differing(__m256i query, const void* codes) noexcept {
  return count_bytes(_mm256_xor_si256(query, load(codes)));
}

// Several word columns read in parallel at this pace outrun the hardware prefetchers: with
// prefetching 512 codes ahead, one query over 1 M codes of 256 bits takes 0.7 ms instead of 1.1 to
// 1.5. (AVX-512 gets slower.) Past the end of a block, the next one follows.
std::size_t ahead_of(std::size_t i, std::size_t words, std::size_t stride) noexcept {
  return i + 512 < stride ? 512 : 512 + (words - 1) * stride;
}

// kWords: the number of words, or 0 to use the argument. Returns the number of codes compared, as
// do the functions below.
template <std::size_t kWords>
std::size_t compare_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                                 std::size_t stride, std::size_t count, std::size_t words,
                                 std::uint64_t first, Collector& out) noexcept {
  if constexpr (kWords > 0) words = kWords;
  __m256i query_words[kWords > 0 ? kWords : 16];
  for (std::size_t j = 0; j < words; ++j) {
    query_words[j] = _mm256_set1_epi64x(static_cast<long long>(query[j]));
  }
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    const std::size_t ahead = ahead_of(i, words, stride);
    __m256i sums[kStep / kLanes];
    for (std::size_t v = 0; v < kStep / kLanes; ++v) {
      const std::uint64_t* codes = word_columns + i + v * kLanes;
      if (v % 2 == 0) {
        for (std::size_t j = 0; j < words; ++j) prefetch(codes + ahead + j * stride);
      }
      __m256i bytes = differing(query_words[0], codes);
      // A byte holds the sum of up to 16 words: 128 bits.
      for (std::size_t j = 1; j < words; ++j) {
        bytes = _mm256_add_epi8(bytes, differing(query_words[j], codes + j * stride));
      }
      sums[v] = add_bytes(bytes);
    }
    out.add(sums, first + i);
  }
  return i;
}

// a0+a1, a2+a3, b0+b1, b2+b3
__m256i add_pairs(__m256i a, __m256i b) noexcept {
  const __m256i sums = _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
  return _mm256_permute4x64_epi64(sums, _MM_SHUFFLE(3, 1, 2, 0));
}

// The distances of 4 codes that fill kVectors vectors without gaps; query repeats in its vector.
template <std::size_t kVectors>
__m256i four(__m256i query, const std::uint8_t* codes) noexcept {
  if constexpr (kVectors == 1) {
    return add_bytes(differing(query, codes));
  } else {
    // In order of address, for the hardware prefetcher: GCC evaluates arguments from last to first.
    const __m256i low = four<kVectors / 2>(query, codes);
    const __m256i high = four<kVectors / 2>(query, codes + 16 * kVectors);
    return add_pairs(low, high);
  }
}

template <std::size_t kVectors>
std::size_t rows_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                       std::uint64_t first, Collector& out) noexcept {
  std::uint8_t repeated[32];
  for (std::size_t i = 0; i < 32; ++i) repeated[i] = query[i % (8 * kVectors)];
  const __m256i query_vector = load(repeated);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    __m256i sums[kStep / kLanes];
    for (std::size_t v = 0; v < kStep / kLanes; ++v) {
      sums[v] = four<kVectors>(query_vector, codes + (i + v * kLanes) * 8 * kVectors);
    }
    out.add(sums, first + i);
  }
  return i;
}

// Loads no bytes past a code: the last load overlaps the one before it, and the mask clears the
// bytes that were counted already.
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

// The distance of one code, in 4 lanes that still need adding up.
__m256i one(const CodeShape& shape, const std::uint8_t* query, const std::uint8_t* code) noexcept {
  const __m256i last = _mm256_xor_si256(shape.load_last(query), shape.load_last(code));
  __m256i bytes = count_bytes(_mm256_and_si256(last, shape.last_mask));
  for (std::size_t i = 0; i + 32 < shape.bytes; i += 32) {
    bytes = _mm256_add_epi8(bytes, differing(load(query + i), code + i));
  }
  return add_bytes(bytes);
}

std::size_t rows_any(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                     std::size_t code_bytes, std::uint64_t first, Collector& out) noexcept {
  const CodeShape shape(code_bytes);
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    __m256i sums[kStep / kLanes];
    for (std::size_t v = 0; v < kStep / kLanes; ++v) {
      const std::uint8_t* code = codes + (i + v * kLanes) * code_bytes;
      const __m256i a = one(shape, query, code);
      const __m256i b = one(shape, query, code + code_bytes);
      const __m256i c = one(shape, query, code + 2 * code_bytes);
      const __m256i d = one(shape, query, code + 3 * code_bytes);
      sums[v] = add_pairs(add_pairs(a, b), add_pairs(c, d));
    }
    out.add(sums, first + i);
  }
  return i;
}

// The distances of kGroup codes.
struct Group {
  __m256i low;
  __m256i high;
};

struct Vectors {
  using Distances = Group;

  static Group differing(std::uint64_t word, const std::uint64_t* codes) noexcept {
    const __m256i query = _mm256_set1_epi64x(static_cast<long long>(word));
    return {add_bytes(bitgaze::differing(query, codes)),
            add_bytes(bitgaze::differing(query, codes + kLanes))};
  }
  static Group add(Group a, Group b) noexcept {
    return {_mm256_add_epi64(a.low, b.low), _mm256_add_epi64(a.high, b.high)};
  }
};

struct GroupCollector : Collector {
  using Collector::Collector;

  bool any(Group group) const noexcept {
    return any_below(_mm256_min_epi16(group.low, group.high));
  }
  void add(Group group, std::uint64_t id) noexcept {
    const __m256i vectors[] = {group.low, group.high};
    add_each(vectors, 2, id);
  }
};

struct ViewVectors {
  using Lanes = __m256i;
  static constexpr std::size_t kLanes = 16;

  static __m256i all(std::uint16_t number) noexcept {
    return _mm256_set1_epi16(static_cast<short>(number));
  }
  static __m256i min(__m256i a, __m256i b) noexcept { return _mm256_min_epu16(a, b); }
  static __m256i add(__m256i a, __m256i b) noexcept { return _mm256_add_epi16(a, b); }
  static __m256i add_saturating(__m256i a, __m256i b) noexcept { return _mm256_adds_epu16(a, b); }
  static __m256i times(__m256i a, std::uint16_t number) noexcept {
    return _mm256_mullo_epi16(a, all(number));
  }
  static void store(std::uint16_t* numbers, __m256i a) noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), a);
  }
  static bool any_within(__m256i a, std::uint16_t most) noexcept {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi16(min(a, all(most)), a)) != 0;
  }

  template <std::size_t kWords>
  static __m256i distances(const std::uint64_t* query, const std::uint16_t* codes,
                           std::size_t words) noexcept {
    if constexpr (kWords > 0) words = kWords;
    __m256i sums = _mm256_setzero_si256();
    // A byte holds the sum of up to 31 of its kind.
    constexpr std::size_t kMost = 16;
    for (std::size_t w = 0; w < words; w += kMost) {
      __m256i bytes = _mm256_setzero_si256();
      for (std::size_t i = w; i < words && i < w + kMost; ++i) {
        const __m256i word = _mm256_set1_epi64x(static_cast<long long>(query[i]));
        bytes = _mm256_add_epi8(bytes, differing(word, codes + i * kGroupItems));
      }
      // Adds up the two bytes of each lane.
      sums = add(sums, _mm256_maddubs_epi16(bytes, _mm256_set1_epi8(1)));
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
  std::size_t done = 0;
  if (code_bytes == 8) {
    done = rows_words<1>(query, codes, count, first, out);
  } else if (code_bytes == 16) {
    done = rows_words<2>(query, codes, count, first, out);
  } else if (code_bytes == 32) {
    done = rows_words<4>(query, codes, count, first, out);
  } else if (code_bytes > 16) {
    done = rows_any(query, codes, count, code_bytes, first, out);
  }
  return out.count + kernel_portable.find_rows(query, codes + done * code_bytes, count - done,
                                               code_bytes, limit, first + done, found + out.count);
}

}  // namespace

extern const Kernel kernel_avx2 = {"avx2",
                                   kRequired,
                                   find_rows,
                                   find_word_columns,
                                   find_screened<Vectors, GroupCollector, find_word_columns>,
                                   find_in_views<ViewVectors>};

}  // namespace bitgaze

#else

namespace bitgaze {
extern const Kernel kernel_avx2 = {"avx2"};
}  // namespace bitgaze

#endif
