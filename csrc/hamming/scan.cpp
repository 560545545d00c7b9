#include "scan.h"

#include <algorithm>

namespace bitgaze {
namespace {

// A run of codes stays in the first-level cache while a group of queries passes over it.
constexpr std::size_t kRunBytes = 16384;
// The first runs are short: what they find lowers the limit for the rest.
constexpr std::size_t kFirstRun = 64;
// Where most codes must be read whole, screening costs up to a tenth, so a scan skips it for this
// many runs and then tries again.
constexpr unsigned kUnscreenedRuns = 31;
// Words are ordered again then, and after this many runs, because the limit has fallen. Costs as
// much as a run.
constexpr unsigned kOrderedRuns = 64;
// Short runs come first, while the limit is still high, and screen nothing out.
constexpr std::size_t kMinScreenedRun = 256;

// The number of queries from which copying a run of rows to word columns pays. Measured with
// AVX-512 and AVX2: 12 where codes have few words; hardly any with AVX-512 from 8 words on, where a
// run holds few codes.
std::size_t min_by_word_queries(std::size_t words) { return words < 8 ? 12 : 64; }

static_assert(kMaxScreenedCodes == kBlockCodes);

// The longest run. For one query it is a whole block, read once and in streams.
std::size_t max_run(const Codes& codes, std::size_t query_count) {
  if (codes.by_word && query_count == 1) return kBlockCodes;
  const std::size_t fitting = kRunBytes / (8 * words_of(codes.code_bytes));
  return std::max(fitting / kFilterStep * kFilterStep, kFilterStep);
}

}  // namespace

bool any_allowed(const Filter& filter, std::size_t step) {
  const std::size_t bytes = (filter.count + 7) / 8;
  if (step / 8 >= bytes) return false;
  std::uint64_t bits = 0;
  std::memcpy(&bits, filter.bits + step / 8, std::min<std::size_t>(8, bytes - step / 8));
  return bits != 0;
}

std::size_t scanned_codes(const Codes& codes, const Filter& filter) {
  if (filter.bits == nullptr) return codes.count;
  std::size_t steps = 0;
  for (std::size_t step = 0; step < codes.count; step += kFilterStep) {
    steps += any_allowed(filter, step);
  }
  return steps * kFilterStep;
}

template <typename Sink>
Scan<Sink>::Scan(const Kernel& kernel, const Codes& codes, const std::uint8_t* queries,
                 std::size_t query_count, const Filter& filter)
    : kernel_(kernel),
      codes_(codes),
      queries_(queries),
      query_count_(query_count),
      filter_(filter),
      words_(words_of(codes.code_bytes)),
      max_run_(max_run(codes, query_count)),
      run_(std::min(kFirstRun, max_run_)),
      copy_by_word_(!codes.by_word && words_ > 1 && query_count >= min_by_word_queries(words_)),
      query_words_(query_count * words_),
      word_columns_(copy_by_word_ ? max_run_ * words_ : 0),
      found_(max_run_ + kFoundSlack) {
  for (std::size_t q = 0; q < query_count; ++q) {
    to_word_columns(queries + q * codes.code_bytes, 1, codes.code_bytes,
                    query_words_.data() + q * words_, 1);
  }
}

template <typename Sink>
void Scan<Sink>::run(std::size_t first, std::size_t last, std::vector<Sink>& sinks) {
  while (first < last) {
    const std::size_t end = std::min({first + run_, last, (first / kBlockCodes + 1) * kBlockCodes});
    if (filter_.bits == nullptr) {
      compare(first, end, sinks);
    } else {
      compare_allowed(first, end, sinks);
    }
    run_ = std::min(2 * run_, max_run_);
    first = end;
  }
}

// Compares only the steps that allow a code.
template <typename Sink>
void Scan<Sink>::compare_allowed(std::size_t first, std::size_t last, std::vector<Sink>& sinks) {
  while (first < last) {
    while (first < last && !any_allowed(filter_, first)) first += kFilterStep;
    std::size_t end = first;
    while (end < last && any_allowed(filter_, end)) end += kFilterStep;
    if (first < last) compare(first, std::min(end, last), sinks);
    first = end;
  }
}

template <typename Sink>
void Scan<Sink>::compare(std::size_t first, std::size_t last, std::vector<Sink>& sinks) {
  if (copy_by_word_) {
    to_word_columns(codes_.row(first), last - first, codes_.code_bytes, word_columns_.data(),
                    max_run_);
  }
  for (std::size_t q = 0; q < query_count_; ++q) {
    std::size_t count = find(q, sinks[q].limit(), first, last - first);
    if (count > 0 && (filter_.bits != nullptr || filter_.exclude != nullptr)) {
      std::uint64_t* const end = found_.data() + count;
      std::uint64_t* const kept = std::remove_if(found_.data(), end, [&](std::uint64_t found) {
        return !filter_.allows(q, found & kIdMask);
      });
      count = static_cast<std::size_t>(kept - found_.data());
    }
    if (count > 0) sinks[q].add(found_.data(), count);
  }
}

// Puts first the words that leave the fewest codes below the limit.
template <typename Sink>
void Scan<Sink>::order_words(unsigned limit, std::size_t first, std::size_t count) {
  std::array<std::size_t, kMaxWords> near;
  for (std::size_t j = 0; j < words_; ++j) {
    order_[j] = static_cast<std::uint8_t>(j);
    near[j] =
        kernel_.find_word_columns(&query_words_[j], codes_.first_word(first) + j * kBlockCodes,
                                  kBlockCodes, count, 1, limit, first, found_.data());
  }
  std::stable_sort(order_.begin(), order_.begin() + static_cast<std::ptrdiff_t>(words_),
                   [&](std::uint8_t a, std::uint8_t b) { return near[a] < near[b]; });
}

template <typename Sink>
std::size_t Scan<Sink>::find(std::size_t query, unsigned limit, std::size_t first,
                             std::size_t count) {
  const std::uint64_t* query_words = query_words_.data() + query * words_;
  if (copy_by_word_) {
    return kernel_.find_word_columns(query_words, word_columns_.data(), max_run_, count, words_,
                                     limit, first, found_.data());
  }
  if (!codes_.by_word) {
    return kernel_.find_rows(queries_ + query * codes_.code_bytes, codes_.row(first), count,
                             codes_.code_bytes, limit, first, found_.data());
  }
  // A batch is bound by instructions, not by reading, and screening adds instructions.
  const bool screen = query_count_ == 1 && words_ > 1 && count >= kMinScreenedRun;
  if (!screen || unscreened_runs_ > 0) {
    if (screen) --unscreened_runs_;
    return kernel_.find_word_columns(query_words, codes_.first_word(first), kBlockCodes, count,
                                     words_, limit, first, found_.data());
  }
  if (ordered_runs_ == 0) {
    order_words(limit, first, count);
    ordered_runs_ = kOrderedRuns;
  }
  --ordered_runs_;
  bool screened = true;
  const std::size_t found =
      kernel_.find_screened(query_words, codes_.first_word(first), kBlockCodes, count, words_,
                            order_.data(), limit, first, found_.data(), &screened);
  if (!screened) {
    unscreened_runs_ = kUnscreenedRuns;
    ordered_runs_ = 0;
  }
  return found;
}

template class Scan<Nearest>;
template class Scan<Count>;

}  // namespace bitgaze
