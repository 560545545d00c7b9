// Exact search that compares every item of several codes. Kernels handle instruction sets,
// view_search.cpp threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "scan.h"
#include "views.h"

namespace bitgaze {

static_assert(kFilterStep % kGroupItems == 0);

// How many words of each view a query reads first. A lower bound of the distance from half or a
// quarter of the words rules out most of what is far away; what pays depends on codes and query, so
// each way is tried for a run now and then.
class ViewScreening {
 public:
  explicit ViewScreening(std::size_t words) : words_(words) {}

  std::size_t next() {
    if (words_ < 2) return 0;
    return tried_ < kWays ? words_of(tried_) : words_of(best_);
  }

  // How many groups of a run passed.
  void report(std::size_t passed, std::size_t groups) {
    if (words_ < 2) return;
    if (tried_ < kWays) {
      const double cost = static_cast<double>(words_of(tried_)) / static_cast<double>(words_) +
                          static_cast<double>(passed) / static_cast<double>(groups);
      if (cost < best_cost_) {
        best_cost_ = cost;
        best_ = tried_;
      }
      if (++tried_ == kWays) left_ = kSettledRuns;
    } else if (--left_ == 0) {
      tried_ = 1;
      best_ = 0;
      best_cost_ = 1;
    }
  }

 private:
  static constexpr unsigned kWays = 3;  // none, half, a quarter
  // Runs until screening is tried again, because the limit has fallen.
  static constexpr unsigned kSettledRuns = 64;

  std::size_t words_of(unsigned way) const {
    return way == 0 ? 0 : std::max<std::size_t>(words_ >> way, 1);
  }

  std::size_t words_;
  unsigned tried_ = 1;
  unsigned best_ = 0;
  double best_cost_ = 1;  // in reading all
  unsigned left_ = 0;
};

// Compares a group of queries with ranges of items in ascending order.
class ViewScan {
 public:
  ViewScan(const Kernel& kernel, const ViewCodes& codes, const std::uint8_t* queries,
           std::size_t query_count, std::size_t query_views, const Filter& filter)
      : kernel_(kernel),
        codes_(codes),
        filter_(filter),
        max_run_(std::clamp<std::size_t>(
            kRunBytes / (2 * codes.views * codes.words()) / kFilterStep * kFilterStep, kFilterStep,
            kBlockCodes)),
        query_words_(query_count * query_views * codes.words()),
        screening_(query_count, ViewScreening(codes.words())),
        found_(max_run_) {
    const std::size_t multiple = std::lcm(query_views, codes.views);
    for (std::size_t q = 0; q < query_count; ++q) {
      std::uint64_t* words = query_words_.data() + q * query_views * codes.words();
      queries_.push_back({words,
                          query_views,
                          codes.views,
                          codes.words(),
                          {static_cast<unsigned>(multiple / query_views),
                           static_cast<unsigned>(multiple / codes.views)}});
      for (std::size_t view = 0; view < query_views; ++view, queries += codes.code_bytes) {
        for (std::size_t w = 0; w < codes.words(); ++w) {
          std::uint16_t word = 0;
          std::memcpy(&word, queries + 2 * w, std::min<std::size_t>(2, codes.code_bytes - 2 * w));
          *words++ = word * 0x0001000100010001U;
        }
      }
    }
    // Others may be writing to the rest of the last group.
    if (const std::size_t rest = codes.count % kGroupItems; rest > 0) {
      last_group_.resize(codes.group_words());
      const std::uint16_t* const group = codes.group(codes.count);
      for (std::size_t column = 0; column < last_group_.size(); column += kGroupItems) {
        std::copy_n(group + column, rest,
                    last_group_.begin() + static_cast<std::ptrdiff_t>(column));
      }
    }
  }

  // Compares the items first to last - 1; first is a multiple of kFilterStep.
  template <typename Sink>
  void run(std::size_t first, std::size_t last, std::vector<Sink>& sinks) {
    while (first < last) {
      while (filter_.bits != nullptr && first < last && !any_allowed(filter_, first)) {
        first += kFilterStep;
      }
      const std::size_t most = std::min(first + run_, last);
      std::size_t end = first;
      while (end < most && (filter_.bits == nullptr || any_allowed(filter_, end))) {
        end += kFilterStep;
      }
      end = std::min(end, most);
      if (first < end) {
        // Whole groups, and what the last one holds.
        const std::size_t whole = std::min(end, codes_.count / kGroupItems * kGroupItems);
        if (first < whole) compare(codes_.group(first), first, whole - first, sinks);
        if (whole < end) compare(last_group_.data(), whole, end - whole, sinks);
        run_ = std::min(2 * run_, max_run_);
      }
      first = end;
    }
  }

 private:
  // A run stays in the second-level cache while a group of queries passes over it: a kernel
  // compares a word with several, so the first level would be no faster.
  static constexpr std::size_t kRunBytes = 65536;
  // The first runs are short: what they find lowers the limit for the rest.
  static constexpr std::size_t kFirstRun = 64;
  static constexpr std::size_t kMinScreenedRun = 256;

  template <typename Sink>
  void compare(const std::uint16_t* groups, std::size_t first, std::size_t count,
               std::vector<Sink>& sinks) {
    for (std::size_t q = 0; q < queries_.size(); ++q) {
      const unsigned limit = sinks[q].limit();
      if (limit == 0) continue;
      const bool settled = count >= kMinScreenedRun;
      std::size_t passed;
      std::size_t found =
          kernel_.find_views(queries_[q], groups, count, limit, settled ? screening_[q].next() : 0,
                             first, found_.data(), &passed);
      if (settled) screening_[q].report(passed, (count + kGroupItems - 1) / kGroupItems);
      if (found > 0 && (filter_.bits != nullptr || filter_.exclude != nullptr)) {
        const auto end = found_.begin() + static_cast<std::ptrdiff_t>(found);
        const auto kept = std::remove_if(found_.begin(), end, [&](std::uint64_t number) {
          return !filter_.allows(q, number & kIdMask);
        });
        found = static_cast<std::size_t>(kept - found_.begin());
      }
      if (found > 0) sinks[q].add(found_.data(), found);
    }
  }

  const Kernel& kernel_;
  ViewCodes codes_;
  Filter filter_;
  std::size_t max_run_;
  std::size_t run_ = kFirstRun;
  std::vector<std::uint64_t> query_words_;
  std::vector<ViewQuery> queries_;
  std::vector<ViewScreening> screening_;
  std::vector<std::uint16_t> last_group_;  // its items; empty if it is full
  Found found_;
};

}  // namespace bitgaze
