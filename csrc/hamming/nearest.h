// What a scan keeps of the codes that it finds. They arrive in ascending order of id.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "kernel.h"

namespace bitgaze {

using Found = std::vector<std::uint64_t>;  // distance << kIdBits | id

inline constexpr std::uint64_t kIdMask = (std::uint64_t{1} << kIdBits) - 1;

// The k nearest. limit() is the distance of the k-th nearest so far. A later code at the same
// distance loses the tie, so only codes below the limit are kept. A histogram of the candidates
// shows when the limit falls; those above it are discarded when there are twice as many as needed,
// so keeping a code takes constant time for any k.
class Nearest {
 public:
  // limit: the first one; codes at or beyond it are never kept.
  Nearest(std::size_t k, unsigned limit)
      : k_(k), limit_(limit), room_(k + std::max<std::size_t>(k, 64)), histogram_(limit + 1) {}

  unsigned limit() const { return limit_; }

  void add(const std::uint64_t* found, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t distance = found[i] >> kIdBits;
      if (distance >= limit_) continue;  // the limit has fallen since the kernel began
      if (candidates_.size() == room_) discard();
      candidates_.push_back(found[i]);
      ++histogram_[distance];
      ++below_;
      while (below_ >= k_) below_ -= histogram_[--limit_];
    }
  }

  // Up to k, by distance and then id: a counting sort of the candidates. Call it once, at the end.
  Found sorted() {
    discard();
    std::size_t begin = 0;
    for (std::size_t& entry : histogram_) {
      const std::size_t size = entry;
      entry = begin;
      begin += size;
    }
    Found sorted(candidates_.size());
    for (const std::uint64_t candidate : candidates_) {
      sorted[histogram_[candidate >> kIdBits]++] = candidate;
    }
    return sorted;
  }

 private:
  // Keeps the candidates below the limit and the first ones on it, k in all.
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
  std::size_t room_;
  std::size_t below_ = 0;               // candidates below the limit, always fewer than k
  std::vector<std::size_t> histogram_;  // candidates at each distance
  Found candidates_;                    // in order of id
};

// The number of codes below the limit.
class Count {
 public:
  explicit Count(unsigned limit) : limit_(limit) {}

  unsigned limit() const { return limit_; }
  void add(const std::uint64_t*, std::size_t count) { total_ += count; }
  std::size_t total() const { return total_; }

 private:
  unsigned limit_;
  std::size_t total_ = 0;
};

// The first k of two sorted lists.
inline Found merged(Found a, Found b, std::size_t k) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  Found all;
  all.reserve(a.size() + b.size());
  std::merge(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(all));
  if (all.size() > k) all.resize(k);
  return all;
}

}  // namespace bitgaze
