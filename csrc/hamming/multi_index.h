// Multi-index hashing: exact search that looks only where near codes can be.
//
// M. Norouzi, A. Punjani, D. J. Fleet, "Fast search in Hamming space with multi-index hashing",
// CVPR 2012. A code is cut into m substrings and stored in m tables, one for each substring. If two
// codes differ in at most r = m a + b bits, 0 <= b < m, then one of the first b + 1 substrings
// differs in at most a bits, or one of the others in at most a - 1. So radius after radius is
// completed by looking at the buckets of one more table at one more distance.
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

// Fixed once made. A bucket holds one word of each code beside its id, so that it is read in a
// stream by the kernels that scan: with codes of 64 bits that word is the code, with longer ones it
// rules most of them out.
class MultiIndex {
 public:
  // At most 2^32 - 1 codes.
  MultiIndex(const Codes& codes, unsigned threads);

  std::size_t count() const { return count_; }  // codes 0 to count - 1 are in the tables
  std::size_t code_bytes() const { return code_bytes_; }
  std::size_t bytes() const;

  // What a search through the tables has to know of the codes of today.
  struct State {
    Codes codes;
    std::size_t covered;                    // below, the tables hold; at most count()
    std::span<const std::int64_t> changed;  // except for these, ascending
  };

  // The k nearest within radius among the codes below state.covered, by distance and then id.
  // cost_limit: what it may cost, in words read in a stream. Returns false, and found is worthless,
  // when that is not enough.
  bool search(const Kernel& kernel, const State& state, const std::uint8_t* query, std::size_t k,
              unsigned radius, const Filter& filter, double cost_limit, Found& found) const;

 private:
  struct Table {
    unsigned begin;                           // first bit of the substring
    unsigned bits;                            // its length, at most 24
    std::size_t word;                         // which word of a code stands in the buckets
    std::unique_ptr<std::uint32_t[]> bucket;  // where it begins: 2^bits + 1 numbers
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
