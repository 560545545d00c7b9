#include "scan.h"

#include <algorithm>
#include <vector>

namespace bitgaze {
namespace {

// A block stays in the second-level cache (256 KiB at 128 bytes a code) while a group of queries
// passes over it.
constexpr std::size_t kBlockCodes = 2048;
constexpr std::size_t kMaxGroupQueries = 256;
constexpr std::size_t kMaxGroupCandidates = std::size_t{1} << 20;

struct Candidate {
  std::int64_t id;
  std::uint16_t distance;
};

// The k nearest of a stream of distances that arrives in order of id.
//
// limit_ is the distance of the k-th nearest so far. A later code at that very distance loses the
// tie, so only codes below the limit are kept. A histogram of what was kept tells when the limit
// falls; candidates above it are thrown out when the room is used up, so the cost of a code that is
// kept is constant whatever k is.
class NearestK {
 public:
  NearestK(std::size_t k, std::size_t room, std::size_t bits)
      : k_(k), limit_(bits + 1), histogram_(bits + 2) {
    candidates_.reserve(room);
  }

  void add(const std::uint16_t* distances, std::size_t count, std::size_t first_id) {
    // Few codes are below the limit once it has fallen: a test of many at once, which compilers
    // vectorise, skips the others.
    constexpr std::size_t kStride = 64;
    std::size_t i = 0;
    for (; i + kStride <= count; i += kStride) {
      std::uint16_t nearest = distances[i];
      for (std::size_t j = 1; j < kStride; ++j) nearest = std::min(nearest, distances[i + j]);
      if (nearest < limit_) add_each(distances + i, kStride, first_id + i);
    }
    add_each(distances + i, count - i, first_id + i);
  }

  // k results, by distance and then id: a counting sort of what is left.
  void finish(std::int32_t* distances, std::int64_t* ids) {
    discard();
    std::size_t begin = 0;
    for (std::size_t& entry : histogram_) {
      const std::size_t size = entry;
      entry = begin;
      begin += size;
    }
    for (const Candidate& candidate : candidates_) {
      const std::size_t position = histogram_[candidate.distance]++;
      distances[position] = candidate.distance;
      ids[position] = candidate.id;
    }
  }

 private:
  void add_each(const std::uint16_t* distances, std::size_t count, std::size_t first_id) {
    for (std::size_t i = 0; i < count; ++i) {
      if (distances[i] >= limit_) continue;
      if (candidates_.size() == candidates_.capacity()) discard();
      candidates_.push_back({static_cast<std::int64_t>(first_id + i), distances[i]});
      ++histogram_[distances[i]];
      ++below_;
      while (below_ >= k_) below_ -= histogram_[--limit_];
    }
  }

  // Leaves what is below the limit, and the first that are on it, k in all.
  void discard() {
    std::size_t on_limit = k_ - below_;
    const auto useless = [&](const Candidate& candidate) {
      if (candidate.distance < limit_) return false;
      if (candidate.distance == limit_ && on_limit > 0) {
        --on_limit;
        return false;
      }
      --histogram_[candidate.distance];
      return true;
    };
    std::erase_if(candidates_, useless);
  }

  std::size_t k_;
  std::size_t limit_;
  std::size_t below_ = 0;               // candidates below the limit, always fewer than k
  std::vector<std::size_t> histogram_;  // candidates at each distance
  std::vector<Candidate> candidates_;   // in order of id
};

}  // namespace

void search(const Kernel& kernel, const CodeView& codes, const CodeView& queries, std::size_t k,
            std::int32_t* distances, std::int64_t* ids) {
  const std::size_t room = std::min(codes.count, k + std::max<std::size_t>(k, 64));
  const std::size_t group =
      std::clamp<std::size_t>(kMaxGroupCandidates / (room + 1), 1, kMaxGroupQueries);
  std::vector<std::uint16_t> block(std::min(codes.count, kBlockCodes));

  for (std::size_t begin = 0; begin < queries.count; begin += group) {
    const std::size_t end = std::min(begin + group, queries.count);
    std::vector<NearestK> nearest;
    nearest.reserve(end - begin);
    for (std::size_t q = begin; q < end; ++q) nearest.emplace_back(k, room, 8 * codes.code_bytes);

    for (std::size_t first = 0; first < codes.count; first += kBlockCodes) {
      const std::size_t count = std::min(kBlockCodes, codes.count - first);
      for (std::size_t q = begin; q < end; ++q) {
        kernel.distances(queries.data + q * queries.code_bytes,
                         codes.data + first * codes.code_bytes, count, codes.code_bytes,
                         block.data());
        nearest[q - begin].add(block.data(), count, first);
      }
    }
    for (std::size_t q = begin; q < end; ++q) {
      nearest[q - begin].finish(distances + q * k, ids + q * k);
    }
  }
}

}  // namespace bitgaze
