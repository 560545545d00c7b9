// Divides a scan among threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <mutex>
#include <vector>

#include "codes.h"
#include "pool.h"

namespace bitgaze {

inline constexpr std::size_t kMaxGroupQueries = 256;
inline constexpr std::size_t kMaxGroupCandidates = std::size_t{1} << 20;
// What a thread takes from the shared counter at a time.
inline constexpr std::size_t kChunkCodes = 8 * kBlockCodes;
// Comparing this many words takes about as long as waking a thread.
inline constexpr std::size_t kMinWorkerWords = std::size_t{1} << 18;

struct Work {
  std::size_t count;  // codes, or items of several codes
  std::size_t first;  // the first to scan, a multiple of 64
  std::size_t words;  // 64-bit words to compare for each of them and each query
  std::size_t query_count;
  std::size_t kept;  // what a sink holds, in numbers
};

// Scans for all queries, group by group. make_scan(first, size): makes the Scan of a group of
// queries. start() makes a sink; end(query, sink) gets each sink under a lock when it has seen its
// codes. Where threads share the codes, a query has one sink in each thread.
template <typename Scan, typename MakeScan, typename Start, typename End>
void scan_all(const Work& work, unsigned max_threads, const MakeScan& make_scan, const Start& start,
              const End& end) {
  const auto threads = static_cast<unsigned>(std::clamp<std::size_t>(
      work.count * work.words * work.query_count / kMinWorkerWords, 1, max_threads));
  const std::size_t chunks = (work.count - work.first + kChunkCodes - 1) / kChunkCodes;
  // Threads share many codes, so that each code is read once for any number of threads; with few
  // codes, each thread takes other queries.
  const bool split_codes = threads > 1 && chunks >= 2 * threads;
  const std::size_t groups_at_once = split_codes ? 1 : threads;
  const std::size_t fair = (work.query_count + groups_at_once - 1) / groups_at_once;
  const std::size_t fitting = std::max<std::size_t>(kMaxGroupCandidates / work.kept, 1);
  const std::size_t group = std::max<std::size_t>(std::min({fair, fitting, kMaxGroupQueries}), 1);

  const auto scan_group = [&](std::size_t first, std::atomic<std::size_t>& next_chunk,
                              std::mutex& ending) {
    const std::size_t size = std::min(group, work.query_count - first);
    std::vector<decltype(start())> sinks;
    sinks.reserve(size);
    for (std::size_t q = 0; q < size; ++q) sinks.push_back(start());
    Scan scan = make_scan(first, size);
    for (std::size_t chunk = next_chunk++; chunk < chunks; chunk = next_chunk++) {
      const std::size_t begin = work.first + chunk * kChunkCodes;
      scan.run(begin, std::min(begin + kChunkCodes, work.count), sinks);
    }
    const std::lock_guard lock(ending);
    for (std::size_t q = 0; q < size; ++q) end(first + q, sinks[q]);
  };

  if (split_codes) {
    for (std::size_t first = 0; first < work.query_count; first += group) {
      std::atomic<std::size_t> next_chunk = 0;
      std::mutex ending;
      run_parallel(threads, [&] { scan_group(first, next_chunk, ending); });
    }
  } else {
    std::atomic<std::size_t> next_group = 0;
    run_parallel(threads, [&] {
      for (std::size_t first = group * next_group++; first < work.query_count;
           first = group * next_group++) {
        std::atomic<std::size_t> next_chunk = 0;
        std::mutex ending;
        scan_group(first, next_chunk, ending);
      }
    });
  }
}

}  // namespace bitgaze
