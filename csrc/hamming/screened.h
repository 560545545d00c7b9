// Screening: compares one word of every code first. A kernel file includes this and supplies its
// vectors; the result is that file's own code, of internal linkage like the rest of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.h"

namespace bitgaze {
namespace {

// Codes that share a cache line in a word column: the line is read for all of them or for none.
constexpr std::size_t kGroup = 8;

// Screening pays while it leaves less than one group in this many: a cache line fetched on its own
// takes as long as about six in a stream.
constexpr std::size_t kMaxNear = 2;

inline void prefetch([[maybe_unused]] const void* address) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address, 0, 2);  // into the second-level cache, which holds a whole block
#endif
}

// Vectors has a type Distances, of kGroup codes, and the functions differing(word, codes) ->
// Distances and add(Distances, Distances); Collector has any(Distances) and add(Distances, id).
// Returns the number of codes compared: all whole groups, or none where screening does not pay.
template <typename Vectors, typename Collector>
std::size_t screened_groups(const std::uint64_t* query, const std::uint64_t* word_columns,
                            std::size_t stride, std::size_t count, std::size_t words,
                            const std::uint8_t* order, std::uint64_t first,
                            Collector& out) noexcept {
  std::uint16_t near[kMaxScreenedCodes / kGroup + 1];  // groups left, and their distances
  typename Vectors::Distances distances[kMaxScreenedCodes / kGroup + 1];
  std::size_t near_count = 0;
  const std::size_t groups = count / kGroup;
  // A whole block: prefetch the same column of the next one, which lies behind this block's other
  // columns, where no hardware prefetcher looks. (10 M codes, first words only: 2.2 ms, not 3.3.)
  const std::uint64_t* const first_column = word_columns + order[0] * stride;
  const std::uint64_t* const next = count == stride ? first_column + stride * words : first_column;
  // Lists grow without a branch, because no CPU could predict it.
  for (std::size_t g = 0; g < groups; ++g) {
    prefetch(next + g * kGroup);
    near[near_count] = static_cast<std::uint16_t>(g);
    distances[near_count] = Vectors::differing(query[order[0]], first_column + g * kGroup);
    near_count += out.any(distances[near_count]);
  }
  if (kMaxNear * near_count > groups) return 0;

  for (std::size_t j = 1; j < words && near_count > 0; ++j) {
    const std::uint64_t* const column = word_columns + order[j] * stride;
    for (std::size_t n = 0; n < near_count; ++n) prefetch(column + near[n] * kGroup);
    std::size_t kept = 0;
    for (std::size_t n = 0; n < near_count; ++n) {
      near[kept] = near[n];
      distances[kept] = Vectors::add(
          distances[n], Vectors::differing(query[order[j]], column + near[n] * kGroup));
      kept += out.any(distances[kept]);
    }
    near_count = kept;
  }
  for (std::size_t n = 0; n < near_count; ++n) out.add(distances[n], first + near[n] * kGroup);
  return groups * kGroup;
}

// A kernel's find_screened. kFindRest: the kernel's find_word_columns, which compares what
// screening leaves; a Collector starts as {limit, found}, and counts what it has found.
template <typename Vectors, typename Collector, FindWordColumnsFn kFindRest>
std::size_t find_screened(const std::uint64_t* query, const std::uint64_t* word_columns,
                          std::size_t stride, std::size_t count, std::size_t words,
                          const std::uint8_t* order, unsigned limit, std::uint64_t first,
                          std::uint64_t* found, bool* screened) noexcept {
  Collector out{limit, found};
  const std::size_t done =
      screened_groups<Vectors>(query, word_columns, stride, count, words, order, first, out);
  *screened = done > 0;
  return out.count + kFindRest(query, word_columns + done, stride, count - done, words, limit,
                               first + done, found + out.count);
}

}  // namespace
}  // namespace bitgaze
