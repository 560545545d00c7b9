// The public C++ interface: checks arguments, and searches the mapped codes where they lie.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <thread>
#include <utility>

#include "bitgaze/bitgaze.hpp"
#include "flat_file.h"
#include "hamming/dispatch.h"
#include "hamming/search.h"
#include "hamming/view_search.h"

namespace bitgaze {
namespace {

constexpr std::uint16_t kBoxSteps = 65535;
// The threads of the pool stay, so start no more than could ever help.
constexpr unsigned kMostThreads = 64;

[[noreturn]] void invalid(const std::string& what) { throw std::invalid_argument(what); }

unsigned threads_of(const SearchOptions& options) {
  const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
  return options.threads == 0 ? cores : std::min(options.threads, std::max(cores, kMostThreads));
}

unsigned distance_of(const std::uint8_t* a, const std::uint8_t* b, std::size_t code_bytes) {
  unsigned distance = 0;
  for (std::size_t i = 0; i < code_bytes; ++i) {
    distance += static_cast<unsigned>(std::popcount(static_cast<unsigned>(a[i] ^ b[i])));
  }
  return distance;
}

}  // namespace

struct FlatGallery::Impl {
  explicit Impl(const std::filesystem::path& path) : file(path) {
    const std::uint8_t* const data = file.section("codes").data();
    codes = {data, file.items(), code_bytes(), lies_by_word(code_bytes())};
    view_codes = {reinterpret_cast<const std::uint16_t*>(data), file.items(), file.views(),
                  code_bytes()};
  }

  std::size_t code_bytes() const { return file.bits() / 8; }

  void check_slot(std::size_t slot) const {
    if (slot >= file.items()) {
      throw std::out_of_range("no slot " + std::to_string(slot) + ": the file holds " +
                              std::to_string(file.items()) + " items");
    }
  }

  void copy_codes(std::size_t slot, std::uint8_t* out) const {
    if (file.views() > 1) {
      const std::uint16_t* column = view_codes.group(slot) + slot % kGroupItems;
      for (std::size_t view = 0; view < file.views(); ++view) {
        for (std::size_t at = 0; at < code_bytes(); at += 2, column += kGroupItems) {
          std::memcpy(out + at, column, std::min<std::size_t>(2, code_bytes() - at));
        }
        out += code_bytes();
      }
    } else {
      std::uint64_t words[kMaxWords];
      codes.copy_words(slot, words);
      std::memcpy(out, words, code_bytes());
    }
  }

  // Throws std::invalid_argument if queries of `bytes` bytes in all cannot be compared with items.
  void check_queries(std::size_t bytes, std::size_t query_views) const {
    if (query_views < 1 || query_views > kMaxViews || bytes % (query_views * code_bytes()) != 0) {
      invalid("a query has " + std::to_string(query_views) + " views in " + std::to_string(bytes) +
              " bytes, expected 1 to " + std::to_string(kMaxViews) + " of " +
              std::to_string(code_bytes()) + " bytes each");
    }
    if (file.views() == 1 && query_views != 1) {
      invalid("a query has " + std::to_string(query_views) +
              " views, but the items of this file have one code each");
    }
  }

  FlatFile file;
  // The layout that the file has is the one that `views` chooses.
  Codes codes{};
  ViewCodes view_codes{};
};

FlatGallery::FlatGallery(const std::filesystem::path& path) : impl_(std::make_unique<Impl>(path)) {}
FlatGallery::~FlatGallery() = default;
FlatGallery::FlatGallery(FlatGallery&&) noexcept = default;
FlatGallery& FlatGallery::operator=(FlatGallery&&) noexcept = default;

std::size_t FlatGallery::size() const noexcept { return impl_->file.items(); }
std::size_t FlatGallery::bits() const noexcept { return impl_->file.bits(); }
std::size_t FlatGallery::views() const noexcept { return impl_->file.views(); }

std::string FlatGallery::model() const {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : impl_->file.model()) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text.find_first_not_of('0') == std::string::npos ? "" : text;
}

std::string_view FlatGallery::info() const {
  const std::span<const std::uint8_t> bytes = impl_->file.checked("info");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string_view FlatGallery::key(std::size_t slot) const {
  impl_->check_slot(slot);
  return impl_->file.record(slot).key;
}

std::string_view FlatGallery::metadata(std::size_t slot) const {
  impl_->check_slot(slot);
  return impl_->file.record(slot).metadata;
}

std::optional<std::size_t> FlatGallery::find(std::string_view key) const {
  return impl_->file.find(key);
}

std::vector<std::uint8_t> FlatGallery::codes(std::size_t slot) const {
  impl_->check_slot(slot);
  std::vector<std::uint8_t> codes(views() * impl_->code_bytes());
  impl_->copy_codes(slot, codes.data());
  return codes;
}

std::optional<Box> FlatGallery::box(std::size_t slot, std::size_t view) const {
  impl_->check_slot(slot);
  if (view >= views()) {
    throw std::out_of_range("no view " + std::to_string(view) + ": items have " +
                            std::to_string(views()));
  }
  if (view == 0) return std::nullopt;
  const auto box = impl_->file.box(slot, view);
  if (box[0] == 0 && box[1] == 0 && box[2] == kBoxSteps && box[3] == kBoxSteps) {
    return std::nullopt;
  }
  const auto share = [](std::uint16_t steps) {
    return static_cast<float>(static_cast<double>(steps) / kBoxSteps);
  };
  return Box{share(box[0]), share(box[1]), share(box[2]), share(box[3])};
}

std::vector<std::uint8_t> FlatGallery::code_of(std::span<const float> hash) const {
  const std::size_t bits = this->bits();
  if (hash.size() != bits) {
    invalid("hash has " + std::to_string(hash.size()) + " numbers, expected " +
            std::to_string(bits));
  }
  std::vector<double> values(hash.begin(), hash.end());
  if (impl_->file.is_adapted()) {
    const auto* const offset = reinterpret_cast<const float*>(impl_->file.checked("adapt").data());
    const float* const rotation = offset + bits;
    std::vector<double> rotated(bits);
    for (std::size_t i = 0; i < bits; ++i) {
      const double value = values[i] - static_cast<double>(offset[i]);
      for (std::size_t j = 0; j < bits; ++j) {
        rotated[j] += value * static_cast<double>(rotation[i * bits + j]);
      }
    }
    values = std::move(rotated);
  }
  std::vector<std::uint8_t> code(bits / 8);
  for (std::size_t i = 0; i < bits; ++i) {
    // As a float, the precision in which the gallery takes signs.
    if (static_cast<float>(values[i]) > 0) {
      code[i / 8] = static_cast<std::uint8_t>(code[i / 8] | 0x80U >> i % 8);
    }
  }
  return code;
}

std::vector<Hit> FlatGallery::search(std::span<const std::uint8_t> query,
                                     const SearchOptions& options) const {
  const std::size_t code_bytes = impl_->code_bytes();
  if (query.empty() || query.size() % code_bytes != 0) {
    invalid("a query has " + std::to_string(query.size()) + " bytes, expected codes of " +
            std::to_string(code_bytes) + " bytes");
  }
  return std::move(search_many(query, query.size() / code_bytes, options)[0]);
}

std::vector<std::vector<Hit>> FlatGallery::search_many(std::span<const std::uint8_t> queries,
                                                       std::size_t query_views,
                                                       const SearchOptions& options) const {
  impl_->check_queries(queries.size(), query_views);
  if (options.k < 1) invalid("k must be at least 1, got 0");
  if (!(options.radius >= 0)) invalid("radius must be at least 0");
  if (options.exclude) impl_->check_slot(*options.exclude);
  const std::size_t code_bytes = impl_->code_bytes();
  const std::size_t count = queries.size() / (query_views * code_bytes);
  const unsigned unit = views() > 1 ? view_unit(views(), query_views) : 1;
  const double farthest = static_cast<double>(unit) * static_cast<double>(bits());
  const std::vector<std::int64_t> exclude(options.exclude ? count : 0,
                                          static_cast<std::int64_t>(options.exclude.value_or(0)));

  SearchParams params{};
  params.k = options.k;
  params.radius = static_cast<unsigned>(std::floor(std::min(options.radius * unit, farthest)));
  params.threads = threads_of(options);
  // An empty filter allows nothing; a null one would allow everything.
  const std::uint8_t nothing = 0;
  if (options.filter) {
    const bool is_empty = options.filter->empty();
    params.filter.bits = is_empty ? &nothing : options.filter->data();
    params.filter.count = is_empty ? 8 : 8 * options.filter->size();
  }
  if (options.exclude) params.filter.exclude = exclude.data();

  const Kernel& kernel = default_kernel();
  const std::vector<Found> found =
      views() > 1
          ? search_views(kernel, impl_->view_codes, {queries.data(), count, query_views}, params)
          : bitgaze::search(kernel, impl_->codes, {queries.data(), count}, params, {});
  std::vector<std::vector<Hit>> hits(count);
  for (std::size_t q = 0; q < count; ++q) {
    hits[q].reserve(found[q].size());
    for (const std::uint64_t number : found[q]) {
      hits[q].push_back({static_cast<std::size_t>(number & kIdMask),
                         static_cast<double>(number >> kIdBits) / unit});
    }
  }
  return hits;
}

Match FlatGallery::match(std::span<const std::uint8_t> query, std::size_t slot) const {
  const std::size_t code_bytes = impl_->code_bytes();
  impl_->check_queries(query.size(), query.size() / code_bytes);
  const std::vector<std::uint8_t> item = codes(slot);
  Match match{0, 0};
  unsigned best = std::numeric_limits<unsigned>::max();
  for (std::size_t a = 0; a * code_bytes < query.size(); ++a) {
    for (std::size_t b = 0; b < views(); ++b) {
      const unsigned distance =
          distance_of(query.data() + a * code_bytes, item.data() + b * code_bytes, code_bytes);
      if (distance < best) {
        best = distance;
        match = {a, b};
      }
    }
  }
  return match;
}

std::vector<std::string> FlatGallery::verify() const { return impl_->file.problems(); }

std::string_view simd() { return default_kernel().name; }

}  // namespace bitgaze
