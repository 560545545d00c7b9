#include "search.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "divide.h"
#include "pool.h"

namespace bitgaze {
namespace {

// A lookup in tables stops when it costs this share of a scan: little is lost when it fails, and
// where it helps, it saves far more.
constexpr double kMaxTableShare = 0.125;
constexpr std::size_t kBatchQueries = 8;
constexpr double kBatchShare = 0.4;

Work work_of(const Codes& codes, const Queries& queries, std::size_t first_code, std::size_t k) {
  // Without a k, only the radius limits what is kept, and all of it is a result.
  return {codes.count, first_code, words_of(codes.code_bytes), queries.count,
          k < codes.count ? k : 1};
}

// Makes the scan of the queries first to first + count - 1.
template <typename Sink>
auto scan_of(const Kernel& kernel, const Codes& codes, const Queries& queries,
             const Filter& all_filter) {
  return [&kernel, codes, queries, all_filter](std::size_t first, std::size_t count) {
    Filter filter = all_filter;
    if (filter.exclude != nullptr) filter.exclude += first;
    return Scan<Sink>(kernel, codes, queries.rows + first * codes.code_bytes, count, filter);
  };
}

std::vector<Found> scan_nearest(const Kernel& kernel, const Codes& codes, const Queries& queries,
                                const SearchParams& params, std::size_t first_code) {
  std::vector<Found> found(queries.count);
  const std::size_t k = std::min(params.k, codes.count);
  if (k == 0) return found;
  scan_all<Scan<Nearest>>(
      work_of(codes, queries, first_code, k), params.threads,
      scan_of<Nearest>(kernel, codes, queries, params.filter),
      [&] { return Nearest(k, params.radius + 1); },
      [&](std::size_t query, Nearest& nearest) {
        found[query] = merged(std::move(found[query]), nearest.sorted(), k);
      });
  return found;
}

// The same for some of the queries; merges what it finds into their results.
void scan_some(const Kernel& kernel, const Codes& codes, const Queries& queries,
               const SearchParams& params, std::size_t first_code,
               const std::vector<std::size_t>& some, std::vector<Found>& results) {
  if (some.empty() || first_code >= codes.count) return;
  std::vector<std::uint8_t> rows;
  std::vector<std::int64_t> exclude;
  for (const std::size_t q : some) {
    const std::uint8_t* row = queries.rows + q * codes.code_bytes;
    rows.insert(rows.end(), row, row + codes.code_bytes);
    if (params.filter.exclude != nullptr) exclude.push_back(params.filter.exclude[q]);
  }
  SearchParams scan = params;
  if (scan.filter.exclude != nullptr) scan.filter.exclude = exclude.data();
  std::vector<Found> found =
      scan_nearest(kernel, codes, {rows.data(), some.size()}, scan, first_code);
  for (std::size_t i = 0; i < some.size(); ++i) {
    results[some[i]] = merged(std::move(results[some[i]]), std::move(found[i]), params.k);
  }
}

// The maximum cost of looking up one query in the tables, in words read in a stream: beyond it, a
// scan is cheaper.
double cost_limit(const Codes& codes, const Queries& queries, const Filter& filter,
                  const Tables& tables) {
  if (tables.forced) return std::numeric_limits<double>::infinity();
  // A scan reads a word once for all queries of a batch, and is then bound by instructions.
  const double words =
      static_cast<double>(scanned_codes(codes, filter) * words_of(codes.code_bytes));
  return words * kMaxTableShare * (queries.count < kBatchQueries ? 1.0 : kBatchShare);
}

// Searches the codes that the tables hold. done: 0 for queries that turned out too costly.
std::vector<Found> look_up(const Kernel& kernel, const Codes& codes, const Queries& queries,
                           const SearchParams& params, const Tables& tables,
                           std::vector<std::uint8_t>& done) {
  std::vector<Found> found(queries.count);
  const std::size_t k = std::min(params.k, codes.count);
  const double limit = cost_limit(codes, queries, params.filter, tables);
  const MultiIndex::State state{codes, tables.covered, tables.changed};
  const auto look_up_one = [&](std::size_t q) {
    Filter filter = params.filter;
    if (filter.exclude != nullptr) filter.exclude += q;
    done[q] = tables.index->search(kernel, state, queries.rows + q * codes.code_bytes, k,
                                   params.radius, filter, limit, found[q]);
  };
  // The first query shows whether the others are worth trying.
  look_up_one(0);
  if (done[0] == 0) return found;
  std::atomic<std::size_t> next = 1;
  run_parallel(static_cast<unsigned>(std::min<std::size_t>(params.threads, queries.count)), [&] {
    for (std::size_t q = next++; q < queries.count; q = next++) look_up_one(q);
  });
  return found;
}

}  // namespace

std::vector<Found> search(const Kernel& kernel, const Codes& codes, const Queries& queries,
                          const SearchParams& params, const Tables& tables) {
  if (tables.index == nullptr || queries.count == 0 || codes.count == 0) {
    return scan_nearest(kernel, codes, queries, params, 0);
  }
  std::vector<std::uint8_t> done(queries.count);
  std::vector<Found> found = look_up(kernel, codes, queries, params, tables, done);
  std::vector<std::size_t> looked_up;
  std::vector<std::size_t> too_costly;
  for (std::size_t q = 0; q < queries.count; ++q) (done[q] ? looked_up : too_costly).push_back(q);
  scan_some(kernel, codes, queries, params, tables.covered, looked_up, found);
  scan_some(kernel, codes, queries, params, 0, too_costly, found);
  return found;
}

void count(const Kernel& kernel, const Codes& codes, const Queries& queries,
           const SearchParams& params, std::int64_t* counts) {
  std::fill_n(counts, queries.count, 0);
  scan_all<Scan<Count>>(
      work_of(codes, queries, 0, 1), params.threads,
      scan_of<Count>(kernel, codes, queries, params.filter),
      [&] { return Count(params.radius + 1); },
      [&](std::size_t query, const Count& sink) {
        counts[query] += static_cast<std::int64_t>(sink.total());
      });
}

}  // namespace bitgaze
