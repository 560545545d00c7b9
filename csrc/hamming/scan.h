// Exact search that compares every code. Kernels handle instruction sets, search.cpp threads.
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
  const std::uint8_t* bits = nullptr;     // bit i % 8 of byte i / 8 allows code i; null allows all
  std::size_t count = 0;                  // codes from here on are not allowed
  const std::int64_t* exclude = nullptr;  // for each query, an id that it must not find; or null

  bool allows(std::size_t id) const {
    return bits == nullptr || (id < count && (bits[id / 8] >> id % 8 & 1) != 0);
  }
  bool allows(std::size_t query, std::uint64_t id) const {
    return allows(static_cast<std::size_t>(id)) &&
           (exclude == nullptr || exclude[query] != static_cast<std::int64_t>(id));
  }
};

// A scan reads a filter in steps of this many codes, and skips steps that allow none.
inline constexpr std::size_t kFilterStep = 64;

bool any_allowed(const Filter& filter, std::size_t step);

// The number of codes that a scan compares.
std::size_t scanned_codes(const Codes& codes, const Filter& filter);

// Compares a group of queries with ranges of codes in ascending order. Sink: Nearest or Count.
template <typename Sink>
class Scan {
 public:
  // queries: query_count rows. filter.exclude: starts with the first of them.
  Scan(const Kernel& kernel, const Codes& codes, const std::uint8_t* queries,
       std::size_t query_count, const Filter& filter);

  // Compares the codes first to last - 1; first is a multiple of kFilterStep. One sink per query.
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
  bool copy_by_word_;                        // copy rows to word columns, run by run
  std::vector<std::uint64_t> query_words_;   // words_ for each query
  std::vector<std::uint64_t> word_columns_;  // a run of rows, by word
  std::vector<std::uint64_t> found_;
  unsigned unscreened_runs_ = 0;  // runs left without screening
  unsigned ordered_runs_ = 0;     // runs left until words are ordered again
  std::array<std::uint8_t, kMaxWords> order_;
};

extern template class Scan<Nearest>;
extern template class Scan<Count>;

}  // namespace bitgaze
