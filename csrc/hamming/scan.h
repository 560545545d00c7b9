// Exact search by comparing every code. Knows nothing of instruction sets and threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "codes.h"
#include "dispatch.h"
#include "nearest.h"

namespace bitgaze {

// Which codes may be found.
struct Filter {
  const std::uint8_t* bits = nullptr;  // code i is allowed by bit i % 8 of byte i / 8; or all are
  std::size_t count = 0;               // codes from here on are not allowed
  const std::int64_t* exclude = nullptr;  // one id for each query, which it must not find; or none

  bool allows(std::size_t id) const {
    return bits == nullptr || (id < count && (bits[id / 8] >> id % 8 & 1) != 0);
  }
  bool allows(std::size_t query, std::uint64_t id) const {
    return allows(id) && (exclude == nullptr || exclude[query] != static_cast<std::int64_t>(id));
  }
};

// A scan looks at a filter in steps of so many codes, and leaves out those of which none is
// allowed.
inline constexpr std::size_t kFilterStep = 64;

bool any_allowed(const Filter& filter, std::size_t step);

// How many codes a scan compares.
std::size_t scanned_codes(const Codes& codes, const Filter& filter);

// A group of queries, compared with ranges of codes in ascending order. Sink: Nearest or Count.
template <typename Sink>
class Scan {
 public:
  // queries: query_count rows; filter.exclude is that of the first of them.
  Scan(const Kernel& kernel, const Codes& codes, const std::uint8_t* queries,
       std::size_t query_count, const Filter& filter);

  // Codes first to last - 1; first is a multiple of kFilterStep. One sink for each query.
  void run(std::size_t first, std::size_t last, std::vector<Sink>& sinks);

 private:
  void compare_allowed(std::size_t first, std::size_t last, std::vector<Sink>& sinks);
  void compare(std::size_t first, std::size_t last, std::vector<Sink>& sinks);
  void order_words(unsigned limit, std::size_t first, std::size_t count);
  std::size_t find(std::size_t query, unsigned limit, std::size_t first, std::size_t count);

  const Kernel& kernel_;
  Codes codes_;
  const std::uint8_t* queries_;
  std::size_t query_count_;
  Filter filter_;
  std::size_t words_;
  std::size_t max_run_;
  std::size_t run_;
  bool copy_by_word_;                        // lay rows out by word, run by run
  std::vector<std::uint64_t> query_words_;   // words_ for each query
  std::vector<std::uint64_t> word_columns_;  // a run of rows, by word
  std::vector<std::uint64_t> found_;
  unsigned unscreened_runs_ = 0;  // so many to come
  unsigned ordered_runs_ = 0;     // so many to come before words are put in order again
  std::array<std::uint8_t, kMaxWords> order_;
};

extern template class Scan<Nearest>;
extern template class Scan<Count>;

}  // namespace bitgaze
