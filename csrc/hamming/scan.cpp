#include "scan.h"

#include <algorithm>
#include <vector>

#include "nearest.h"
#include "planes.h"

namespace bitgaze {
namespace {

// A block stays in the first-level cache while a group of queries passes over it.
constexpr std::size_t kBlockBytes = 16384;
// The first blocks are small: what they find lowers the limit for the others.
constexpr std::size_t kFirstBlockCodes = 64;
constexpr std::size_t kMaxGroupQueries = 256;
constexpr std::size_t kMaxGroupCandidates = std::size_t{1} << 20;
// From how many queries on it pays to lay out a block by word. Measured with AVX-512 and AVX2: from
// 12 on where codes have few words, hardly at all with AVX-512 from 8 words on, where the block
// holds few codes.
std::size_t min_planes_queries(std::size_t words) { return words < 8 ? 12 : 64; }

// One group of queries over all codes.
class Scan {
 public:
  Scan(const Kernel& kernel, const CodeView& codes)
      : kernel_(kernel),
        codes_(codes),
        words_(words_of(codes.code_bytes)),
        block_codes_(std::max<std::size_t>(kBlockBytes / (8 * words_) / 64 * 64, 64)),
        found_(block_codes_ + kFoundSlack) {}

  void run(const std::uint8_t* queries, std::size_t count, std::vector<NearestK>& nearest) {
    const bool by_word = codes_.code_bytes != 8 && count >= min_planes_queries(words_);
    if (by_word) {
      planes_.resize(block_codes_ * words_);
      query_words_.resize(count * words_);
      for (std::size_t q = 0; q < count; ++q) {
        to_planes(queries + q * codes_.code_bytes, 1, codes_.code_bytes,
                  query_words_.data() + q * words_, 1);
      }
    }
    std::size_t size = kFirstBlockCodes;
    for (std::size_t first = 0; first < codes_.count; first += size) {
      if (first > 0) size = std::min(2 * size, block_codes_);
      const std::size_t block = std::min(size, codes_.count - first);
      const std::uint8_t* rows = codes_.data + first * codes_.code_bytes;
      if (by_word) to_planes(rows, block, codes_.code_bytes, planes_.data(), block_codes_);
      for (std::size_t q = 0; q < count; ++q) {
        const unsigned limit = nearest[q].limit();
        const std::size_t found =
            by_word ? kernel_.find_planes(query_words_.data() + q * words_, planes_.data(),
                                          block_codes_, block, words_, limit, first, found_.data())
                    : kernel_.find_rows(queries + q * codes_.code_bytes, rows, block,
                                        codes_.code_bytes, limit, first, found_.data());
        if (found > 0) nearest[q].add(found_.data(), found);
      }
    }
  }

 private:
  const Kernel& kernel_;
  CodeView codes_;
  std::size_t words_;
  std::size_t block_codes_;
  std::vector<std::uint64_t> found_;
  std::vector<std::uint64_t> planes_;
  std::vector<std::uint64_t> query_words_;
};

}  // namespace

void search(const Kernel& kernel, const CodeView& codes, const CodeView& queries, std::size_t k,
            std::int32_t* distances, std::int64_t* ids) {
  const std::size_t group =
      std::clamp<std::size_t>(kMaxGroupCandidates / NearestK::room(k), 1, kMaxGroupQueries);
  const auto limit = static_cast<unsigned>(8 * codes.code_bytes + 1);
  Scan scan(kernel, codes);
  for (std::size_t begin = 0; begin < queries.count; begin += group) {
    const std::size_t end = std::min(begin + group, queries.count);
    std::vector<NearestK> nearest;
    nearest.reserve(end - begin);
    for (std::size_t q = begin; q < end; ++q) nearest.emplace_back(k, limit);
    scan.run(queries.data + begin * queries.code_bytes, end - begin, nearest);
    for (std::size_t q = begin; q < end; ++q) {
      nearest[q - begin].finish(distances + q * k, ids + q * k);
    }
  }
}

}  // namespace bitgaze
