// The searches that callers use: divides work among threads and merges their results.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "codes.h"
#include "dispatch.h"
#include "multi_index.h"
#include "nearest.h"
#include "scan.h"

namespace bitgaze {

struct Queries {
  const std::uint8_t* rows;  // count * code_bytes bytes
  std::size_t count;
};

struct SearchParams {
  std::size_t k;    // maximum number of results for each query, at least 1
  unsigned radius;  // maximum distance, up to the number of bits
  Filter filter;
  unsigned threads;  // maximum number of threads, at least 1
};

// Optional multi-index tables; forced requires their use.
struct Tables {
  const MultiIndex* index = nullptr;
  std::size_t covered = 0;                // the tables hold the codes below, a multiple of 64,
  std::span<const std::int64_t> changed;  // except for these, ascending
  bool forced = false;
};

// Up to k codes for each query, by distance and then id. The result is the same for every kernel,
// number of threads and layout, with tables and without.
std::vector<Found> search(const Kernel& kernel, const Codes& codes, const Queries& queries,
                          const SearchParams& params, const Tables& tables);

// Counts the codes within the radius of each query; ignores params.k. counts: queries.count
// numbers.
void count(const Kernel& kernel, const Codes& codes, const Queries& queries,
           const SearchParams& params, std::int64_t* counts);

}  // namespace bitgaze
