// Finding with one word first. A kernel file includes this and brings its vectors: what comes
// out is that file's own code, of internal linkage like the rest of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.h"

namespace bitgaze {
namespace {

// Codes whose words of one kind fill a cache line: whether that line is read is decided together.
constexpr std::size_t kGroup = 8;

// Screening pays as long as it leaves less than one group in this many: a cache line that is
// fetched by itself takes as long as about six of a stream.
constexpr std::size_t kMaxNear = 2;

inline void prefetch([[maybe_unused]] const void* address) noexcept {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(address, 0, 2);  // into the second-level cache, which holds a whole block
#endif
}

// Vectors: a type Distances, of kGroup codes; differing(word, codes) -> Distances, and
// add(Distances, Distances). Collector: any(Distances), add(Distances, id).
// Returns how many codes were done: all whole groups, or none where screening does not pay.
template <typename Vectors, typename Collector>
std::size_t screened_groups(const std::uint64_t* query, const std::uint64_t* word_columns,
                            std::size_t stride, std::size_t count, std::size_t words,
                            const std::uint8_t* order, std::uint64_t first,
                            Collector& out) noexcept {
  std::uint16_t near[kMaxScreenedCodes / kGroup + 1];  // groups still in, and their distances
  typename Vectors::Distances distances[kMaxScreenedCodes / kGroup + 1];
  std::size_t near_count = 0;
  const std::size_t groups = count / kGroup;
  // A whole block of many: its successor's words of this kind come after all the others, where no
  // hardware prefetcher looks for them. (10 M codes, first words only: 3.3 ms without, 2.2 with.)
  const std::uint64_t* const first_column = word_columns + order[0] * stride;
  const std::uint64_t* const next = count == stride ? first_column + stride * words : first_column;
  // Lists grow without a branch, which nobody could predict.
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

}  // namespace
}  // namespace bitgaze
