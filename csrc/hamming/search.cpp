#include "search.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "pool.h"

namespace bitgaze {
namespace {

constexpr std::size_t kMaxGroupQueries = 256;
constexpr std::size_t kMaxGroupCandidates = std::size_t{1} << 20;
// What a thread takes from the shared counter at a time.
constexpr std::size_t kChunkCodes = 8 * kBlockCodes;
// Comparing this many words takes about as long as waking a thread.
constexpr std::size_t kMinWorkerWords = std::size_t{1} << 18;
// A lookup in tables stops when it costs this share of a scan: little is lost when it fails, and
// where it helps, it saves far more.
constexpr double kMaxTableShare = 0.125;
constexpr std::size_t kBatchQueries = 8;
constexpr double kBatchShare = 0.4;

unsigned useful_threads(const Codes& codes, const Queries& queries, unsigned threads) {
  const std::size_t words = codes.count * words_of(codes.code_bytes) * queries.count;
  return static_cast<unsigned>(std::clamp<std::size_t>(words / kMinWorkerWords, 1, threads));
}

std::size_t group_size(const Codes& codes, const Queries& queries, std::size_t k,
                       unsigned groups_at_once) {
  const std::size_t fair = (queries.count + groups_at_once - 1) / groups_at_once;
  // Without a k, only the radius limits what is kept, and all of it is a result.
  const std::size_t kept = k < codes.count ? k : 1;
  const std::size_t fitting = std::max<std::size_t>(kMaxGroupCandidates / kept, 1);
  return std::max<std::size_t>(std::min({fair, fitting, kMaxGroupQueries}), 1);
}

// Scans the codes from first_code on, a multiple of 64, for all queries, group by group. start()
// makes a sink; end(query, sink) gets each sink under a lock when it has seen its codes. Where
// threads share the codes, a query has one sink in each thread.
template <typename Sink, typename Start, typename End>
void scan_all(const Kernel& kernel, const Codes& codes, const Queries& queries,
              const SearchParams& params, std::size_t first_code, const Start& start,
              const End& end) {
  const unsigned threads = useful_threads(codes, queries, params.threads);
  const std::size_t chunks = (codes.count - first_code + kChunkCodes - 1) / kChunkCodes;
  // Threads share many codes, so that each code is read once for any number of threads; with few
  // codes, each thread takes other queries.
  const bool split_codes = threads > 1 && chunks >= 2 * threads;
  const std::size_t group = group_size(codes, queries, params.k, split_codes ? 1 : threads);

  const auto scan_group = [&](std::size_t first, std::atomic<std::size_t>& next_chunk,
                              std::mutex& ending) {
    const std::size_t size = std::min(group, queries.count - first);
    std::vector<Sink> sinks;
    sinks.reserve(size);
    for (std::size_t q = 0; q < size; ++q) sinks.push_back(start());
    Filter filter = params.filter;
    if (filter.exclude != nullptr) filter.exclude += first;
    Scan<Sink> scan(kernel, codes, queries.rows + first * codes.code_bytes, size, filter);
    for (std::size_t chunk = next_chunk++; chunk < chunks; chunk = next_chunk++) {
      const std::size_t begin = first_code + chunk * kChunkCodes;
      scan.run(begin, std::min(begin + kChunkCodes, codes.count), sinks);
    }
    const std::lock_guard lock(ending);
    for (std::size_t q = 0; q < size; ++q) end(first + q, sinks[q]);
  };

  if (split_codes) {
    for (std::size_t first = 0; first < queries.count; first += group) {
      std::atomic<std::size_t> next_chunk = 0;
      std::mutex ending;
      run_parallel(threads, [&] { scan_group(first, next_chunk, ending); });
    }
  } else {
    std::atomic<std::size_t> next_group = 0;
    run_parallel(threads, [&] {
      for (std::size_t first = group * next_group++; first < queries.count;
           first = group * next_group++) {
        std::atomic<std::size_t> next_chunk = 0;
        std::mutex ending;
        scan_group(first, next_chunk, ending);
      }
    });
  }
}

std::vector<Found> scan_nearest(const Kernel& kernel, const Codes& codes, const Queries& queries,
                                const SearchParams& params, std::size_t first_code) {
  std::vector<Found> found(queries.count);
  const std::size_t k = std::min(params.k, codes.count);
  if (k == 0) return found;
  scan_all<Nearest>(
      kernel, codes, queries, params, first_code, [&] { return Nearest(k, params.radius + 1); },
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
  SearchParams all = params;
  all.k = 1;
  scan_all<Count>(
      kernel, codes, queries, all, 0, [&] { return Count(params.radius + 1); },
      [&](std::size_t query, const Count& sink) {
        counts[query] += static_cast<std::int64_t>(sink.total());
      });
}

}  // namespace bitgaze
