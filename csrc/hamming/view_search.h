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
  std::size_t views;  // of each query, 1 to kMaxViews
};

// The distance between a query of Q views and an item of V views, in both directions (symmetric
// Chamfer distance): L / Q times the sum over the query's views of the distance to the nearest of
// the item's views, plus L / V times the sum over the item's views of the distance to the nearest
// of the query's. L: the least common multiple of Q and V, which makes it a whole number. It is
// view_unit = 2 L times a mean number of bits, and so at most that times the length of a code.
unsigned view_unit(std::size_t item_views, std::size_t query_views);

// Up to k items for each query, by distance and then id. The result is the same for every kernel
// and number of threads. params.radius: up to the greatest distance.
std::vector<Found> search_views(const Kernel& kernel, const ViewCodes& codes,
                                const ViewQueries& queries, const SearchParams& params);

}  // namespace bitgaze
