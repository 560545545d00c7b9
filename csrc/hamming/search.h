// The searches that callers ask for: which threads do what, and how it comes together.
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
  std::size_t k;    // at most so many for each query, at least 1
  unsigned radius;  // and none farther than this; up to the number of bits
  Filter filter;
  unsigned threads;  // at most so many, at least 1
};

// Tables that a search may use, if it likes or if it must.
struct Tables {
  const MultiIndex* index = nullptr;      // or there are none
  std::size_t covered = 0;                // codes below are in the tables, a multiple of 64,
  std::span<const std::int64_t> changed;  // except for these, ascending
  bool forced = false;
};

// For each query at most k, by distance and then id. The same answer for every kernel, number of
// threads and layout, with tables and without.
std::vector<Found> search(const Kernel& kernel, const Codes& codes, const Queries& queries,
                          const SearchParams& params, const Tables& tables);

// How many codes lie within the radius of each query; params.k does not count. counts:
// queries.count numbers.
void count(const Kernel& kernel, const Codes& codes, const Queries& queries,
           const SearchParams& params, std::int64_t* counts);

}  // namespace bitgaze
