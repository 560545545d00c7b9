#include "view_search.h"

#include <algorithm>
#include <numeric>

#include "divide.h"
#include "view_scan.h"

namespace bitgaze {

unsigned view_unit(std::size_t item_views, std::size_t query_views) {
  return static_cast<unsigned>(2 * std::lcm(item_views, query_views));
}

std::vector<Found> search_views(const Kernel& kernel, const ViewCodes& codes,
                                const ViewQueries& queries, const SearchParams& params) {
  std::vector<Found> found(queries.count);
  const std::size_t k = std::min(params.k, codes.count);
  if (k == 0) return found;
  const std::size_t query_bytes = queries.views * codes.code_bytes;
  const std::size_t words = queries.views * codes.views * words_of(codes.code_bytes);
  scan_all<ViewScan>(
      {codes.count, 0, words, queries.count,
       // A sink holds candidates and a histogram of distances. Without a k, only the radius limits
       // what is kept, and all of it is a result.
       std::max<std::size_t>(k < codes.count ? k : 1, params.radius + 1)},
      params.threads,
      [&](std::size_t first, std::size_t size) {
        Filter filter = params.filter;
        if (filter.exclude != nullptr) filter.exclude += first;
        return ViewScan(kernel, codes, queries.rows + first * query_bytes, size, queries.views,
                        filter);
      },
      [&] { return Nearest(k, params.radius + 1); },
      [&](std::size_t query, Nearest& nearest) {
        found[query] = merged(std::move(found[query]), nearest.sorted(), k);
      });
  return found;
}

}  // namespace bitgaze
