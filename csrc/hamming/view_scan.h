// Exact search that compares every item of several codes. Kernels handle instruction sets,
// view_search.cpp threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "popcount.h"
#include "scan.h"
#include "view_tables.h"
#include "views.h"

namespace bitgaze {

static_assert(kFilterStep % kGroupItems == 0);

// What a query reads of each view first. A lower bound of the distance from half or a quarter of
// the words, or from tables, rules out most of what is far away; what pays depends on codes and
// query, so each way is tried for a run now and then.
class ViewScreening {
 public:
  // Screens by up to `units` words of each view, or indexes of tables, at least `step` of them;
  // all of them cost `cost`, in reading everything.
  ViewScreening(std::size_t units, std::size_t step, double cost)
      : units_(units),
        step_(step),
        unit_cost_(cost / static_cast<double>(std::max<std::size_t>(units, 1))) {}

  std::size_t next() const { return tried_ < kWays ? units_of(tried_) : best_; }

  // How many groups of a run passed.
  void report(std::size_t passed_groups, std::size_t groups) {
    if (tried_ < kWays) {
      const double passed = static_cast<double>(passed_groups) / static_cast<double>(groups);
      const double cost = static_cast<double>(next()) * unit_cost_ + passed;
      if (cost < best_cost_) {
        best_cost_ = cost;
        best_ = next();
      }
      // Who reads less lets no fewer pass.
      if (++tried_ == kWays || passed >= best_cost_) {
        tried_ = kWays;
        left_ = kSettledRuns;
      }
    } else if (--left_ == 0) {
      tried_ = 0;
      best_ = 0;
      best_cost_ = 1;
    }
  }

 private:
  static constexpr unsigned kWays = 3;  // all, half, a quarter
  // Runs until screening is tried again, because the limit has fallen.
  static constexpr unsigned kSettledRuns = 64;

  std::size_t units_of(unsigned way) const { return (units_ >> way) / step_ * step_; }

  std::size_t units_;
  std::size_t step_;
  double unit_cost_;
  unsigned tried_ = 0;
  std::size_t best_ = 0;  // 0: none
  double best_cost_ = 1;
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
        indexes_(table_indexes(kernel, codes, query_count, query_views)),
        max_run_(std::clamp<std::size_t>((indexes_ > 0 ? kTableRunBytes : kRunBytes) /
                                             (2 * codes.views * codes.words()) / kFilterStep *
                                             kFilterStep,
                                         kFilterStep, kBlockCodes)),
        query_words_(query_count * query_views * codes.words()),
        screening_(query_count, indexes_ > 0 ? ViewScreening(indexes_, kTableSum, kTableCost)
                                             : ViewScreening(codes.words() / 2, 1, 0.5)),
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
    if (indexes_ > 0) make_tables();
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
  // With tables, in the first level: a vector then costs one load and two operations.
  static constexpr std::size_t kTableRunBytes = 16384;
  // The first runs are short: what they find lowers the limit for the rest.
  static constexpr std::size_t kFirstRun = 64;
  static constexpr std::size_t kMinScreenedRun = 256;
  // Tables, and items laid out for them, pay for themselves from so many queries and items on. (Of
  // a single view of the query they would hold half as much.)
  static constexpr std::size_t kMinTableQueries = 8;
  static constexpr std::size_t kMinTableItems = 32768;
  // Distances by table wrap at 256.
  static constexpr std::size_t kMaxTableBytes = 32;
  static constexpr double kTableCost = 0.75;  // in counting all bits, measured

  // How many indexes of each view to look up: those of all bits but a few, for a multiple of
  // kTableSum; 0 if tables do not pay.
  static std::size_t table_indexes(const Kernel& kernel, const ViewCodes& codes,
                                   std::size_t query_count, std::size_t query_views) {
    if (kernel.index_bits == 0 || query_count < kMinTableQueries || query_views < 2 ||
        codes.count < kMinTableItems || codes.code_bytes > kMaxTableBytes) {
      return 0;
    }
    const std::size_t together = kTableSum * kernel.index_bits;
    return (8 * codes.code_bytes + together - 5) / together * kTableSum;
  }

  void make_tables() {
    const std::size_t size = std::size_t{1} << kernel_.index_bits;
    const std::size_t pairs = (queries_.front().views + 1) / 2;
    tables_.resize((queries_.size() * pairs * indexes_ * size + 63) / 64);
    std::uint8_t* table = tables_.front().bytes;
    std::vector<std::uint8_t> differing(size);
    for (std::size_t i = 0; i < size; ++i) {
      differing[i] = static_cast<std::uint8_t>(std::min(popcount(i), kMaxTableBits));
    }
    for (const ViewQuery& query : queries_) {
      for (std::size_t a = 0; a < query.views; a += 2) {
        // The last of an odd number is its own neighbour.
        const std::size_t b = std::min(a + 1, query.views - 1);
        for (std::size_t index = 0; index < indexes_; ++index) {
          const std::size_t index_a = index_of(query, a, index);
          const std::size_t index_b = index_of(query, b, index);
          for (std::size_t i = 0; i < size; ++i) {
            *table++ =
                static_cast<std::uint8_t>(differing[i ^ index_a] | differing[i ^ index_b] << 4);
          }
        }
      }
    }
  }

  std::size_t index_of(const ViewQuery& query, std::size_t view, std::size_t index) const {
    const IndexPlace place(kernel_.index_bits, index);
    const std::uint64_t* const words = query.words + view * query.words_per_view;
    const auto word = [&](std::size_t w) { return w < query.words_per_view ? words[w] : 0; };
    return indexes_of(place, kernel_.index_bits, word(place.word), word(place.word + 1)) & 0xff;
  }

  // Vectors that cross cache lines take twice as long to load.
  struct alignas(64) CacheLine {
    std::uint8_t bytes[64];
  };
  static_assert(sizeof(CacheLine) == 2 * kGroupItems);  // a column of indexes

  template <typename Sink>
  void compare(const std::uint16_t* groups, std::size_t first, std::size_t count,
               std::vector<Sink>& sinks) {
    const std::size_t group_count = (count + kGroupItems - 1) / kGroupItems;
    const bool settled = count >= kMinScreenedRun;
    if (settled && indexes_ > 0) {
      laid_out_.resize((group_count + 1) / 2 * codes_.views * indexes_);
      kernel_.lay_out_indexes(groups, group_count, codes_.views, codes_.words(), indexes_,
                              laid_out_.front().bytes);
      near_.resize(group_count + 1);
    }
    for (std::size_t q = 0; q < queries_.size(); ++q) {
      if (sinks[q].limit() == 0) continue;
      const std::size_t screen = settled ? screening_[q].next() : 0;
      std::size_t passed = group_count;
      if (indexes_ == 0 || screen == 0) {
        passed = find(q, groups, first, count, screen, sinks[q]);
      } else {
        const std::size_t size = 64 * tables_.size() / queries_.size();
        passed = kernel_.near_groups(queries_[q], {tables_.front().bytes + q * size, indexes_},
                                     laid_out_.front().bytes, group_count, sinks[q].limit(), screen,
                                     near_.data());
        for (std::size_t n = 0; n < passed; ++n) {
          const std::size_t item = near_[n] * kGroupItems;
          find(q, groups + near_[n] * codes_.group_words(), first + item,
               std::min(kGroupItems, count - item), 0, sinks[q]);
        }
      }
      if (settled) screening_[q].report(passed, group_count);
    }
  }

  // Hands what is below the limit to the sink. Returns the number of groups read whole.
  template <typename Sink>
  std::size_t find(std::size_t q, const std::uint16_t* groups, std::size_t first, std::size_t count,
                   std::size_t screen, Sink& sink) {
    std::size_t passed;
    std::size_t found = kernel_.find_views(queries_[q], groups, count, sink.limit(), screen, first,
                                           found_.data(), &passed);
    if (found > 0 && (filter_.bits != nullptr || filter_.exclude != nullptr)) {
      const auto end = found_.begin() + static_cast<std::ptrdiff_t>(found);
      const auto kept = std::remove_if(found_.begin(), end, [&](std::uint64_t number) {
        return !filter_.allows(q, number & kIdMask);
      });
      found = static_cast<std::size_t>(kept - found_.begin());
    }
    if (found > 0) sink.add(found_.data(), found);
    return passed;
  }

  const Kernel& kernel_;
  ViewCodes codes_;
  Filter filter_;
  std::size_t indexes_;  // of each view, in tables; 0 without tables
  std::size_t max_run_;
  std::size_t run_ = kFirstRun;
  std::vector<std::uint64_t> query_words_;
  std::vector<ViewQuery> queries_;
  std::vector<CacheLine> tables_;    // of each query
  std::vector<CacheLine> laid_out_;  // the indexes of a run
  std::vector<std::uint16_t> near_;  // groups of a run
  std::vector<ViewScreening> screening_;
  std::vector<std::uint16_t> last_group_;  // its items; empty if it is full
  Found found_;
};

}  // namespace bitgaze
