// Multi-index hashing: exact search that looks only where near codes can be.
//
// M. Norouzi, A. Punjani, D. J. Fleet, "Fast search in Hamming space with multi-index hashing",
// CVPR 2012. A code is cut into m substrings and stored in m tables, one for each substring. If two
// codes differ in at most r = m a + b bits, 0 <= b < m, then one of the first b + 1 substrings
// differs in at most a bits, or one of the others in at most a - 1. So each next radius requires
// only the buckets of one more table at one more distance.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "codes.h"
#include "dispatch.h"
#include "nearest.h"
#include "scan.h"

namespace bitgaze {

// Immutable. A bucket holds one word of each code alongside its id, so that the kernels that scan
// read it as a stream: with codes of 64 bits that word is the code, with longer ones it rules out
// most of them.
class MultiIndex {
 public:
  // Up to 2^32 - 1 codes.
  MultiIndex(const Codes& codes, unsigned threads);

  std::size_t count() const { return count_; }  // codes 0 to count - 1 are in the tables
  std::size_t code_bytes() const { return code_bytes_; }
  std::size_t bytes() const;

  // The codes as they are now, and which of them the tables still hold.
  struct State {
    Codes codes;
    std::size_t covered;                    // the tables hold the codes below; up to count()
    std::span<const std::int64_t> changed;  // except for these, ascending
  };

  // The k nearest within radius among the codes below state.covered, by distance and then id.
  // cost_limit: the maximum cost, in words read in a stream. A search that would cost more returns
  // false and leaves found unspecified.
  bool search(const Kernel& kernel, const State& state, const std::uint8_t* query, std::size_t k,
              unsigned radius, const Filter& filter, double cost_limit, Found& found) const;

 private:
  struct Table {
    unsigned begin;                           // first bit of the substring
    unsigned bits;                            // its length, at most 24
    std::size_t word;                         // which word of a code the buckets hold
    std::unique_ptr<std::uint32_t[]> bucket;  // where each begins: 2^bits + 1 numbers
    std::unique_ptr<std::uint64_t[]> words;   // by bucket
    std::unique_ptr<std::uint32_t[]> ids;     // by bucket, ascending in each
  };
  class Search;

  void fill(Table& table, const Codes& codes) const;

  std::size_t count_;
  std::size_t code_bytes_;
  std::vector<Table> tables_;
};

}  // namespace bitgaze
