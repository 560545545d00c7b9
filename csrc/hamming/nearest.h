// The k nearest of a stream of found codes that arrives in order of id.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernel.h"

namespace bitgaze {

// limit() is the distance of the k-th nearest so far. A later code at that very distance loses the
// tie, so only codes below the limit are kept. A histogram of what was kept tells when the limit
// falls; candidates above it are thrown out when the room is used up, so the cost of a code that is
// kept is constant whatever k is.
class NearestK {
 public:
  // limit: nothing at or beyond it is wanted from the beginning.
  NearestK(std::size_t k, unsigned limit) : k_(k), limit_(limit), histogram_(limit + 1) {
    candidates_.reserve(room(k));
  }

  static std::size_t room(std::size_t k) { return k + std::max<std::size_t>(k, 64); }

  unsigned limit() const { return limit_; }

  void add(const std::uint64_t* found, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t distance = found[i] >> kIdBits;
      if (distance >= limit_) continue;  // the limit fell since the kernel began
      if (candidates_.size() == candidates_.capacity()) discard();
      candidates_.push_back(found[i]);
      ++histogram_[distance];
      ++below_;
      while (below_ >= k_) below_ -= histogram_[--limit_];
    }
  }

  // Up to k results, by distance and then id: a counting sort of what is left. Returns how many.
  std::size_t finish(std::int32_t* distances, std::int64_t* ids) {
    discard();
    std::size_t begin = 0;
    for (std::size_t& entry : histogram_) {
      const std::size_t size = entry;
      entry = begin;
      begin += size;
    }
    for (const std::uint64_t candidate : candidates_) {
      const std::size_t distance = candidate >> kIdBits;
      const std::size_t position = histogram_[distance]++;
      distances[position] = static_cast<std::int32_t>(distance);
      ids[position] = static_cast<std::int64_t>(candidate & ((std::uint64_t{1} << kIdBits) - 1));
    }
    return candidates_.size();
  }

 private:
  // Leaves what is below the limit, and the first that are on it, k in all.
  void discard() {
    std::size_t on_limit = k_ - below_;
    std::erase_if(candidates_, [&](std::uint64_t candidate) {
      const std::size_t distance = candidate >> kIdBits;
      if (distance < limit_) return false;
      if (distance == limit_ && on_limit > 0) {
        --on_limit;
        return false;
      }
      --histogram_[distance];
      return true;
    });
  }

  std::size_t k_;
  unsigned limit_;
  std::size_t below_ = 0;                  // candidates below the limit, always fewer than k
  std::vector<std::size_t> histogram_;     // candidates at each distance
  std::vector<std::uint64_t> candidates_;  // in order of id
};

}  // namespace bitgaze
