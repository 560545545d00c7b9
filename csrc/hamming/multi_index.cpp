#include "multi_index.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "pool.h"
#include "popcount.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bitgaze {
namespace {

static_assert(std::endian::native == std::endian::little, "substrings are cut out of words");

// About as many buckets as there are codes: fewer tables then suffice. 2^24 numbers are 64 MiB.
constexpr unsigned kMaxSubstringBits = 24;
// Estimates, in words read in a stream (0.3 ns each): a cache miss takes about 100 ns, less where
// several overlap. They only decide when a scan is cheaper, never what is found.
constexpr double kProbeCost = 60;   // of a bucket: two misses, overlapping with many others
constexpr double kVerifyCost = 60;  // of comparing a whole code
// Buckets that are looked up together, so that their cache misses overlap.
constexpr std::size_t kProbes = 32;
constexpr std::size_t kRun = 1024;

std::uint64_t substring(const std::uint64_t* words, unsigned begin, unsigned bits) {
  std::uint64_t value = words[begin / 64] >> begin % 64;
  if (begin % 64 + bits > 64) value |= words[begin / 64 + 1] << (64 - begin % 64);
  return value & ((std::uint64_t{1} << bits) - 1);
}

using Words = std::array<std::uint64_t, kMaxWords>;

// Replaces a code by the bits that differ between it and a query; returns their number.
unsigned subtract(const std::uint64_t* query, std::size_t words, Words& code) {
  unsigned sum = 0;
  for (std::size_t j = 0; j < words; ++j) {
    code[j] ^= query[j];
    sum += popcount(code[j]);
  }
  return sum;
}

// For fresh memory that is read at random: with pages of 4 KiB every access would miss the TLB.
void prefer_large_pages([[maybe_unused]] void* memory, [[maybe_unused]] std::size_t size) {
#if defined(__linux__)
  constexpr std::uintptr_t kPage = 4096;
  const std::uintptr_t begin =
      (reinterpret_cast<std::uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(memory) + size) / kPage * kPage;
  // Only a hint: where it fails, only speed is lost.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#endif
}

// Sorts in ascending order: by digits, least significant first, where there are enough numbers for
// that to be faster. Sorting takes most of the time of a radius search with 335,000 results.
void sort_found(Found& found) {
  constexpr unsigned kDigitBits = 11;
  constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
  if (found.size() < kDigits) {
    std::sort(found.begin(), found.end());
    return;
  }
  std::uint64_t varying = 0;
  for (const std::uint64_t number : found) varying |= number ^ found[0];
  Found sorted(found.size());
  for (unsigned shift = 0; shift < 64; shift += kDigitBits) {
    if ((varying >> shift & (kDigits - 1)) == 0) continue;
    std::array<std::size_t, kDigits + 1> begin{};
    for (const std::uint64_t number : found) ++begin[(number >> shift & (kDigits - 1)) + 1];
    for (std::size_t digit = 0; digit < kDigits; ++digit) begin[digit + 1] += begin[digit];
    for (const std::uint64_t number : found) {
      sorted[begin[number >> shift & (kDigits - 1)]++] = number;
    }
    found.swap(sorted);
  }
}

// The k nearest of codes that arrive in any order, each once.
class NearestInAnyOrder {
 public:
  NearestInAnyOrder(std::size_t k, unsigned radius)
      : k_(k), bound_(radius), room_(k + std::max<std::size_t>(k, 1024)), histogram_(radius + 1) {}

  unsigned bound() const { return bound_; }  // codes beyond are not kept

  void add(std::uint64_t found) {
    const auto found_distance = static_cast<unsigned>(found >> kIdBits);
    if (found_distance > bound_ || found >= threshold_) return;
    if (candidates_.size() == room_) discard();
    candidates_.push_back(found);
    ++histogram_[found_distance];
    ++within_;
    while (within_ - histogram_[bound_] >= k_) within_ -= histogram_[bound_--];
  }

  // Whether at least k codes lie within a radius.
  bool full_within(unsigned radius) const { return within_ >= k_ && bound_ <= radius; }

  Found sorted() {
    if (candidates_.size() > k_) discard();
    sort_found(candidates_);
    return std::move(candidates_);
  }

 private:
  void discard() {
    const auto last = candidates_.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
    std::nth_element(candidates_.begin(), last, candidates_.end());
    threshold_ = *last;
    candidates_.resize(k_);
  }

  std::size_t k_;
  unsigned bound_;
  std::size_t room_;
  std::size_t within_ = 0;                       // codes added, up to the bound
  std::uint64_t threshold_ = ~std::uint64_t{0};  // at least k are below or at this
  std::vector<std::size_t> histogram_;
  Found candidates_;
};

}  // namespace

MultiIndex::MultiIndex(const Codes& codes, unsigned threads)
    : count_(codes.count), code_bytes_(codes.code_bytes) {
  const auto bits = static_cast<unsigned>(8 * codes.code_bytes);
  const auto log2 = static_cast<unsigned>(std::bit_width(std::max<std::size_t>(codes.count, 1)));
  const unsigned longest = std::clamp(log2 - 1, 8U, kMaxSubstringBits);
  const unsigned tables = (bits + longest - 1) / longest;
  const std::size_t words = words_of(codes.code_bytes);
  unsigned begin = 0;
  for (unsigned t = 0; t < tables; ++t) {
    const unsigned length = (bits - begin) / (tables - t);
    tables_.push_back({begin, length, (begin / 64 + 1) % words, nullptr, nullptr, nullptr});
    begin += length;
  }
  std::atomic<std::size_t> next = 0;
  run_parallel(std::min(threads, tables), [&] {
    for (std::size_t t = next++; t < tables_.size(); t = next++) fill(tables_[t], codes);
  });
}

// A counting sort by substring.
void MultiIndex::fill(Table& table, const Codes& codes) const {
  const std::size_t buckets = std::size_t{1} << table.bits;
  table.bucket = std::make_unique_for_overwrite<std::uint32_t[]>(buckets + 1);
  table.words = std::make_unique_for_overwrite<std::uint64_t[]>(count_);
  table.ids = std::make_unique_for_overwrite<std::uint32_t[]>(count_);
  prefer_large_pages(table.bucket.get(), (buckets + 1) * sizeof(table.bucket[0]));
  prefer_large_pages(table.words.get(), count_ * sizeof(table.words[0]));
  prefer_large_pages(table.ids.get(), count_ * sizeof(table.ids[0]));
  std::fill_n(table.bucket.get(), buckets + 1, 0);
  Words words;
  for (std::size_t i = 0; i < count_; ++i) {
    codes.copy_words(i, words.data());
    ++table.bucket[substring(words.data(), table.begin, table.bits) + 1];
  }
  for (std::size_t b = 0; b < buckets; ++b) table.bucket[b + 1] += table.bucket[b];
  // Filling moves the beginning of each bucket to its end, which is where the next one begins.
  for (std::size_t i = 0; i < count_; ++i) {
    codes.copy_words(i, words.data());
    const std::size_t place = table.bucket[substring(words.data(), table.begin, table.bits)]++;
    table.words[place] = words[table.word];
    table.ids[place] = static_cast<std::uint32_t>(i);
  }
  for (std::size_t b = buckets; b > 0; --b) table.bucket[b] = table.bucket[b - 1];
  table.bucket[0] = 0;
}

std::size_t MultiIndex::bytes() const {
  std::size_t bytes = 0;
  for (const Table& table : tables_) {
    bytes += ((std::size_t{1} << table.bits) + 1) * sizeof(table.bucket[0]);
    bytes += count_ * (sizeof(table.words[0]) + sizeof(table.ids[0]));
  }
  return bytes;
}

// The search for one query.
class MultiIndex::Search {
 public:
  Search(const MultiIndex& index, const Kernel& kernel, const State& state,
         const std::uint8_t* query, std::size_t k, unsigned radius, const Filter& filter)
      : index_(index),
        kernel_(kernel),
        state_(state),
        filter_(filter),
        words_(words_of(index.code_bytes_)),
        nearest_(k, radius) {
    Codes{query, 1, index.code_bytes_, false}.copy_words(0, query_.data());
    for (const std::int64_t id : state.changed) {
      const auto i = static_cast<std::size_t>(id);
      if (i >= state.covered || !filter.allows(0, i)) continue;
      Words code;
      state.codes.copy_words(i, code.data());
      nearest_.add(std::uint64_t{subtract(query_.data(), words_, code)} << kIdBits | i);
    }
  }

  bool run(unsigned radius, double cost_limit) {
    const auto tables = static_cast<unsigned>(index_.tables_.size());
    for (unsigned r = 0; r <= radius; ++r) {
      const unsigned shell = r / tables;
      if (!probe(r % tables, shell, cost_limit)) return false;
      if (nearest_.full_within(r)) break;
    }
    return true;
  }

  Found sorted() { return nearest_.sorted(); }

 private:
  // Reads the buckets of one table whose substring differs from the query's in exactly shell bits.
  bool probe(std::size_t table_number, unsigned shell, double cost_limit) {
    const Table& table = index_.tables_[table_number];
    if (shell > table.bits) return true;
    const std::uint64_t own = substring(query_.data(), table.begin, table.bits);
    const std::uint64_t end = std::uint64_t{1} << table.bits;
    std::array<std::uint64_t, kProbes> buckets;
    std::size_t count = 0;
    std::uint64_t mask = (std::uint64_t{1} << shell) - 1;
    for (;;) {
      buckets[count++] = own ^ mask;
      mask = next_mask(mask);
      const bool last = mask >= end;
      if (last || count == kProbes) {
        look_into(table, table_number, shell, std::span(buckets).first(count));
        if (cost_ > cost_limit) return false;
        count = 0;
      }
      if (last) return true;
    }
  }

  // The next larger number with the same number of set bits (R. W. Gosper, HAKMEM item 175); 0 has
  // none.
  static std::uint64_t next_mask(std::uint64_t mask) {
    if (mask == 0) return ~std::uint64_t{0};
    const std::uint64_t lowest = mask & (~mask + 1);
    const std::uint64_t ripple = mask + lowest;
    return ripple | ((mask ^ ripple) >> 2) / lowest;
  }

  void look_into(const Table& table, std::size_t table_number, unsigned shell,
                 std::span<const std::uint64_t> buckets) {
    for (const std::uint64_t bucket : buckets) prefetch(&table.bucket[bucket]);
    for (const std::uint64_t bucket : buckets) prefetch(&table.words[table.bucket[bucket]]);
    for (const std::uint64_t bucket : buckets) {
      const std::size_t end = table.bucket[bucket + 1];
      cost_ += kProbeCost + static_cast<double>(end - table.bucket[bucket]);
      for (std::size_t first = table.bucket[bucket]; first < end; first += kRun) {
        const std::size_t count = kernel_.find_rows(
            reinterpret_cast<const std::uint8_t*>(&query_[table.word]),
            reinterpret_cast<const std::uint8_t*>(&table.words[first]), std::min(kRun, end - first),
            8, nearest_.bound() + 1, first, found_.data());
        for (std::size_t i = 0; i < count; ++i) prefetch(&table.ids[found_[i] & kIdMask]);
        for (std::size_t i = 0; i < count; ++i) {
          add(table, table_number, shell, found_[i]);
        }
      }
    }
  }

  // found: the distance between words, and the place of the code in the table. Checks that need no
  // id come first: with codes of one word, only the table where a code counts looks up its id.
  void add(const Table& table, std::size_t table_number, unsigned shell, std::uint64_t found) {
    const std::size_t place = found & kIdMask;
    std::uint64_t distance = found >> kIdBits;
    Words differing;
    if (words_ == 1) {
      differing[0] = table.words[place] ^ query_[0];
      if (seen_before(differing, table_number, shell)) return;
    }
    const std::size_t id = table.ids[place];
    if (id >= state_.covered || !filter_.allows(0, id)) return;
    if (std::ranges::binary_search(state_.changed, static_cast<std::int64_t>(id))) return;
    if (words_ > 1) {
      cost_ += kVerifyCost;
      state_.codes.copy_words(id, differing.data());
      distance = subtract(query_.data(), words_, differing);
      if (distance > nearest_.bound() || seen_before(differing, table_number, shell)) return;
    }
    nearest_.add(distance << kIdBits | id);
  }

  // Every table holds every code; a code counts where the search meets it first.
  bool seen_before(const Words& differing, std::size_t table_number, unsigned shell) const {
    for (std::size_t t = 0; t < index_.tables_.size(); ++t) {
      const Table& table = index_.tables_[t];
      const std::uint64_t part = substring(differing.data(), table.begin, table.bits);
      if (part != 0 && shell == 0) continue;
      const unsigned table_shell = popcount(part);
      if (table_shell < shell || (table_shell == shell && t < table_number)) return true;
    }
    return false;
  }

  static void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__) || defined(__clang__)
    __builtin_prefetch(address);
#endif
  }

  const MultiIndex& index_;
  const Kernel& kernel_;
  const State& state_;
  const Filter& filter_;
  std::size_t words_;
  Words query_{};
  NearestInAnyOrder nearest_;
  double cost_ = 0;
  std::array<std::uint64_t, kRun + kFoundSlack> found_;
};

bool MultiIndex::search(const Kernel& kernel, const State& state, const std::uint8_t* query,
                        std::size_t k, unsigned radius, const Filter& filter, double cost_limit,
                        Found& found) const {
  Search search(*this, kernel, state, query, k, radius, filter);
  if (!search.run(radius, cost_limit)) return false;
  found = search.sorted();
  return true;
}

}  // namespace bitgaze
