// Exact search among items that have several codes each, their views.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "search.h"
#include "views.h"

namespace bitgaze {

struct ViewQueries {
  const std::uint8_t* rows;  // (count, views, code_bytes)
  std::size_t count;
  std::size_t views;  // 1 to kMaxViews
  ViewRule rule;
};

// The greatest distance that a rule can give, which is below 2^(64 - kIdBits).
//
// kBothWays: L / V' times the sum over the V' views of the query of the distance to the nearest of
// the item's V views, plus L / V times the sum over the item's views of the distance to the nearest
// of the query's, L the least common multiple of V and V': 2 L times the mean of both means.
// kWholeAndNearest: the distance of the first views plus the least of all.
unsigned max_view_distance(const ViewCodes& codes, std::size_t query_views, ViewRule rule);

// Up to k items for each query, by distance and then id. The result is the same for every kernel
// and number of threads. params.radius: up to max_view_distance.
std::vector<Found> search_views(const Kernel& kernel, const ViewCodes& codes,
                                const ViewQueries& queries, const SearchParams& params);

}  // namespace bitgaze
