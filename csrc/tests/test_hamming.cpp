// One body of tests, run with every kernel that this machine supports, against a naive reference.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hamming/pool.h"
#include "hamming/search.h"
#include "hamming/view_search.h"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace {

using Bytes = std::vector<std::uint8_t>;
using Sizes = std::initializer_list<std::size_t>;

std::size_t checks = 0;
std::size_t failures = 0;

void check(bool ok, const bitgaze::Kernel& kernel, const std::string& what) {
  ++checks;
  if (ok) return;
  ++failures;
  if (failures <= 20) {
    std::printf("FAILED %s: %s\n", kernel.name, what.c_str());
  }
}

// Bytes that end where readable memory ends, so that reading past them crashes.
class Guarded {
 public:
#if defined(__unix__) || defined(__APPLE__)
  explicit Guarded(const Bytes& bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t usable = (bytes.size() + page - 1) / page * page;
    size_ = usable + page;
    memory_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) std::abort();
    auto* begin = static_cast<std::uint8_t*>(memory_);
    if (mprotect(begin + usable, page, PROT_NONE) != 0) std::abort();
    data_ = begin + usable - bytes.size();
    std::copy(bytes.begin(), bytes.end(), data_);
  }
  ~Guarded() { munmap(memory_, size_); }
#else
  explicit Guarded(Bytes bytes) : copy_(std::move(bytes)), data_(copy_.data()) {}
#endif
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;

  const std::uint8_t* data() const { return data_; }

 private:
#if defined(__unix__) || defined(__APPLE__)
  void* memory_;
  std::size_t size_;
#else
  Bytes copy_;
#endif
  std::uint8_t* data_;
};

Bytes random_bytes(std::size_t size, std::mt19937& random) {
  Bytes bytes(size);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

// Few set bits, so that distances are small and tie often.
Bytes sparse_bytes(std::size_t size, std::mt19937& random) {
  Bytes bytes(size);
  for (std::uint8_t& byte : bytes) byte = random() % 8 == 0 ? 1 : 0;
  return bytes;
}

std::uint16_t reference_distance(const std::uint8_t* a, const std::uint8_t* b, std::size_t size) {
  int sum = 0;
  for (std::size_t i = 0; i < size; i += 8) {
    std::uint64_t word_a = 0;
    std::uint64_t word_b = 0;
    std::memcpy(&word_a, a + i, std::min<std::size_t>(8, size - i));
    std::memcpy(&word_b, b + i, std::min<std::size_t>(8, size - i));
    sum += std::popcount(word_a ^ word_b);
  }
  return static_cast<std::uint16_t>(sum);
}

using Words = std::vector<std::uint64_t>;

// The bytes of words, to guard them.
Bytes bytes_of(const Words& words) {
  Bytes bytes(words.size() * sizeof(words[0]));
  if (!words.empty()) std::memcpy(bytes.data(), words.data(), bytes.size());
  return bytes;
}

Words word_columns_of(const Bytes& codes, std::size_t code_bytes) {
  const std::size_t count = codes.size() / code_bytes;
  Words word_columns(bitgaze::words_of(code_bytes) * count);
  bitgaze::to_word_columns(codes.data(), count, code_bytes, word_columns.data(), count);
  return word_columns;
}

// Every find function, at limits below which none, some and all of the codes lie.
void test_find(const bitgaze::Kernel& kernel, std::size_t code_bytes, const Bytes& query,
               const Bytes& codes, const char* what) {
  const std::size_t count = codes.size() / code_bytes;
  constexpr std::uint64_t kFirst = 1000;
  constexpr std::uint64_t kUntouched = ~std::uint64_t{0};
  const Guarded guarded_query(query);
  const Guarded guarded_codes(codes);
  const Guarded query_words(bytes_of(word_columns_of(query, code_bytes)));
  const Guarded word_columns(bytes_of(word_columns_of(codes, code_bytes)));

  std::vector<unsigned> all(count);
  for (std::size_t i = 0; i < count; ++i) {
    all[i] = reference_distance(query.data(), codes.data() + i * code_bytes, code_bytes);
  }
  std::vector<unsigned> limits = {0, 1, static_cast<unsigned>(8 * code_bytes + 1)};
  if (count > 0) limits.insert(limits.end(), {all[count / 2], all[0] + 1});
  for (const unsigned limit : limits) {
    Words expected;
    for (std::size_t i = 0; i < count; ++i) {
      if (all[i] < limit) {
        expected.push_back(std::uint64_t{all[i]} << bitgaze::kIdBits | (kFirst + i));
      }
    }
    const auto compare = [&](const char* way, const auto& find) {
      Words found(count + bitgaze::kFoundSlack + 1, kUntouched);
      const std::size_t size = find(found.data());
      const bool in_room = found.back() == kUntouched;
      found.resize(std::min(size, found.size()));
      check(in_room && found == expected, kernel,
            std::string(what) + " codes " + way + ", " + std::to_string(code_bytes) + " bytes, " +
                std::to_string(count) + " codes, limit " + std::to_string(limit));
    };
    const auto* query_numbers = reinterpret_cast<const std::uint64_t*>(query_words.data());
    const auto* column_numbers = reinterpret_cast<const std::uint64_t*>(word_columns.data());
    const std::size_t words = bitgaze::words_of(code_bytes);
    compare("in rows", [&](std::uint64_t* found) {
      return kernel.find_rows(guarded_query.data(), guarded_codes.data(), count, code_bytes, limit,
                              kFirst, found);
    });
    compare("by word", [&](std::uint64_t* found) {
      return kernel.find_word_columns(query_numbers, column_numbers, count, count, words, limit,
                                      kFirst, found);
    });
    if (words < 2) continue;
    compare("screened", [&](std::uint64_t* found) {
      bool screened;
      std::uint8_t order[bitgaze::kMaxWords];  // from the middle, wrapping around
      for (std::size_t j = 0; j < words; ++j) {
        order[j] = static_cast<std::uint8_t>((j + words / 2) % words);
      }
      return kernel.find_screened(query_numbers, column_numbers, count, count, words, order, limit,
                                  kFirst, found, &screened);
    });
  }
}

void test_kernel(const bitgaze::Kernel& kernel) {
  std::mt19937 random(1);
  for (std::size_t code_bytes = 1; code_bytes <= 128; ++code_bytes) {
    // Around one and two steps of every kernel: 8, 16 and 32 codes.
    for (const std::size_t count :
         Sizes{0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100}) {
      const Bytes query = random_bytes(code_bytes, random);
      const Bytes codes = random_bytes(count * code_bytes, random);
      test_find(kernel, code_bytes, query, codes, "random");
    }
    const std::size_t size = 35 * code_bytes;
    const Bytes zeros(code_bytes, 0);
    test_find(kernel, code_bytes, zeros, Bytes(size, 0), "zero");
    test_find(kernel, code_bytes, zeros, Bytes(size, 255), "opposite");

    // A set bit at each end of a byte: neither lost nor counted twice where loads overlap.
    for (std::size_t i = 0; i < code_bytes; ++i) {
      Bytes codes(size, 0);
      for (std::size_t j = 0; j < 35; ++j) codes[j * code_bytes + i] = 0x81;
      test_find(kernel, code_bytes, zeros, codes, "two-bit");
    }
    // Every alignment of a first code.
    const Bytes query = random_bytes(code_bytes, random);
    const Bytes codes = random_bytes(64 + 35 * code_bytes, random);
    for (std::size_t offset = 0; offset < 64; ++offset) {
      const auto begin = codes.begin() + static_cast<std::ptrdiff_t>(offset);
      const auto size_of_codes = static_cast<std::ptrdiff_t>(size);
      const Bytes aligned(begin, begin + size_of_codes);
      std::uint64_t expected[35 + bitgaze::kFoundSlack];
      std::uint64_t found[35 + bitgaze::kFoundSlack];
      const auto limit = static_cast<unsigned>(4 * code_bytes);
      const std::size_t expected_count =
          kernel.find_rows(query.data(), aligned.data(), 35, code_bytes, limit, 0, expected);
      const std::size_t found_count =
          kernel.find_rows(query.data(), codes.data() + offset, 35, code_bytes, limit, 0, found);
      check(std::equal(found, found + found_count, expected, expected + expected_count), kernel,
            "alignment " + std::to_string(offset));
    }
  }
}

using Found = bitgaze::Found;

std::vector<Found> reference_search(const Bytes& codes, const Bytes& queries,
                                    std::size_t code_bytes, const bitgaze::SearchParams& params) {
  std::vector<Found> results;
  for (std::size_t q = 0; q < queries.size() / code_bytes; ++q) {
    Found all;
    for (std::size_t i = 0; i < codes.size() / code_bytes; ++i) {
      const std::uint64_t distance = reference_distance(queries.data() + q * code_bytes,
                                                        codes.data() + i * code_bytes, code_bytes);
      if (distance <= params.radius && params.filter.allows(q, i)) {
        all.push_back(distance << bitgaze::kIdBits | i);
      }
    }
    std::sort(all.begin(), all.end());
    if (all.size() > params.k) all.resize(params.k);
    results.push_back(all);
  }
  return results;
}

// Codes in blocks by word.
Words blocks_of(const Bytes& codes, std::size_t code_bytes) {
  const std::size_t count = codes.size() / code_bytes;
  const std::size_t blocks = (count + bitgaze::kBlockCodes - 1) / bitgaze::kBlockCodes;
  Words words(blocks * bitgaze::kBlockCodes * code_bytes / 8);
  bitgaze::write_by_word(codes.data(), count, code_bytes, 0,
                         reinterpret_cast<std::uint8_t*>(words.data()));
  return words;
}

// The k nearest for each k: by scan of both layouts and by tables.
void test_search(const bitgaze::Kernel& kernel, std::size_t code_bytes, const Bytes& codes,
                 const Bytes& queries, Sizes ks, const char* what, unsigned threads = 1) {
  const std::size_t count = codes.size() / code_bytes;
  const bitgaze::Queries query_rows{queries.data(), queries.size() / code_bytes};
  bitgaze::SearchParams params{std::max(ks), static_cast<unsigned>(8 * code_bytes), {}, threads};
  const std::vector<Found> nearest = reference_search(codes, queries, code_bytes, params);
  const bitgaze::Codes rows{codes.data(), count, code_bytes, false};
  const bitgaze::MultiIndex index(rows, threads);
  const bitgaze::Tables tables{&index, count / 64 * 64, {}, true};
  const bool whole_words = code_bytes % 8 == 0;
  const Words blocks = whole_words ? blocks_of(codes, code_bytes) : Words{};
  const bitgaze::Codes by_word{reinterpret_cast<const std::uint8_t*>(blocks.data()), count,
                               code_bytes, true};
  for (const std::size_t k : ks) {
    params.k = k;
    std::vector<Found> expected = nearest;
    for (Found& found : expected) found.resize(std::min(found.size(), k));
    const std::string about = std::string(" search in ") + what + " codes, " +
                              std::to_string(code_bytes) + " bytes, " + std::to_string(count) +
                              " codes, k " + std::to_string(k) + ", threads " +
                              std::to_string(threads);
    check(bitgaze::search(kernel, rows, query_rows, params, {}) == expected, kernel,
          "rows" + about);
    check(bitgaze::search(kernel, rows, query_rows, params, tables) == expected, kernel,
          "table" + about);
    if (!whole_words) continue;
    check(bitgaze::search(kernel, by_word, query_rows, params, {}) == expected, kernel,
          "by-word" + about);
  }
}

void test_scan(const bitgaze::Kernel& kernel) {
  std::mt19937 random(2);
  constexpr std::size_t kMany = 100000;
  for (const std::size_t code_bytes : Sizes{1, 5, 8, 16, 24, 32, 33, 64, 100, 128}) {
    // Around the first blocks (64 codes, 128, ...) and the 2,048 codes of a full one.
    for (const std::size_t count : Sizes{1, 63, 64, 65, 191, 192, 193, 2049, 4500}) {
      const Bytes queries = random_bytes(2 * code_bytes, random);
      const Bytes codes = random_bytes(count * code_bytes, random);
      test_search(kernel, code_bytes, codes, queries, {1, 10, 65, kMany}, "random");
      const Bytes few_bits = sparse_bytes(count * code_bytes, random);
      test_search(kernel, code_bytes, few_bits, queries, {1, 10, 65, kMany}, "sparse");
    }
    const Bytes queries = random_bytes(3 * code_bytes, random);
    const Bytes equal(2100 * code_bytes, 0x55);
    test_search(kernel, code_bytes, equal, queries, {1, 300, kMany}, "equal");
    test_search(kernel, code_bytes, {}, queries, {1, 300, kMany}, "no");
    test_search(kernel, code_bytes, Bytes(code_bytes), {}, {1, 300, kMany}, "one (no query)");
  }
  // Each code is nearer than the last and is kept, so the room for candidates runs out repeatedly.
  Bytes codes;
  for (std::size_t i = 0; i < 4000; ++i) {
    Bytes code(128, 0);
    const std::size_t bits = 1024 - i * 1024 / 4000;
    for (std::size_t b = 0; b < bits; ++b) code[b / 8] |= static_cast<std::uint8_t>(1 << b % 8);
    codes.insert(codes.end(), code.begin(), code.end());
  }
  test_search(kernel, 128, codes, Bytes(128, 0), {1, 2, 100, 1000}, "descending");
  test_search(kernel, 128, codes, Bytes(128, 255), {1, 2, 100, 1000}, "ascending");
  // Enough queries to copy codes to word columns, and more than one group of queries.
  for (const std::size_t code_bytes : Sizes{5, 16, 33, 64, 128}) {
    const Bytes many = random_bytes(13 * code_bytes, random);
    test_search(kernel, code_bytes, random_bytes(3000 * code_bytes, random), many, {7}, "random");
    test_search(kernel, code_bytes, sparse_bytes(3000 * code_bytes, random), many, {7}, "sparse");
  }
  test_search(kernel, 16, random_bytes(16 * 100, random), random_bytes(16 * 600, random), {3},
              "random");
  for (const unsigned threads : {2U, 3U}) {
    const Bytes many = random_bytes(70000 * 24, random);
    test_search(kernel, 24, many, random_bytes(24 * 9, random), {11}, "many random", threads);
  }
  test_search(kernel, 8, random_bytes(8 * 100, random), random_bytes(8 * 600, random), {3},
              "random");
}

// A radius, a filter and excluded ids: with a scan, and with tables after some codes have changed.
void test_conditions(const bitgaze::Kernel& kernel) {
  std::mt19937 random(3);
  for (const std::size_t code_bytes : Sizes{3, 8, 16, 64}) {
    constexpr std::size_t kCount = 5000;
    Bytes codes = sparse_bytes(kCount * code_bytes, random);
    const Bytes queries = sparse_bytes(15 * code_bytes, random);
    const bitgaze::Codes rows{codes.data(), kCount, code_bytes, false};
    const bitgaze::MultiIndex index(rows, 2);
    const std::vector<std::int64_t> changed = {0, 77, 2222};
    for (const std::int64_t id : changed) {
      codes[static_cast<std::size_t>(id) * code_bytes] ^= 0x80;
    }
    Bytes filter = random_bytes(kCount / 8 - 3, random);
    std::fill(filter.begin() + 100, filter.begin() + 300, std::uint8_t{0});
    std::vector<std::int64_t> exclude(15, -1);
    exclude[3] = 77;
    exclude[5] = 4000;
    const auto radius = static_cast<unsigned>(code_bytes / 2);
    for (const std::size_t k : Sizes{1, 20, kCount}) {
      for (const bool filtered : {false, true}) {
        bitgaze::SearchParams params{k, radius, {}, 2};
        params.filter.exclude = exclude.data();
        if (filtered) {
          params.filter.bits = filter.data();
          params.filter.count = 8 * filter.size();
        }
        const bitgaze::Queries query_rows{queries.data(), 15};
        const std::vector<Found> expected = reference_search(codes, queries, code_bytes, params);
        const std::string about = std::to_string(code_bytes) + " bytes, k " + std::to_string(k);
        check(bitgaze::search(kernel, rows, query_rows, params, {}) == expected, kernel,
              "conditions, scan, " + about);
        for (const bool forced : {false, true}) {
          const bitgaze::Tables tables{&index, 4992, changed, forced};
          check(bitgaze::search(kernel, rows, query_rows, params, tables) == expected, kernel,
                "conditions, tables, " + about);
        }
        if (k < kCount) continue;
        std::vector<std::int64_t> counts(15);
        bitgaze::count(kernel, rows, query_rows, params, counts.data());
        check(std::equal(counts.begin(), counts.end(), expected.begin(),
                         [](std::int64_t n, const Found& found) {
                           return n == static_cast<std::int64_t>(found.size());
                         }),
              kernel, "conditions, count, " + about);
      }
    }
  }
}

// Several searches share the pool while codes are written past those that they read.
void test_threads(const bitgaze::Kernel& kernel, std::size_t block_count, std::size_t query_count) {
  std::mt19937 random(4);
  const std::size_t seen_count = block_count * bitgaze::kBlockCodes + 13;
  const std::size_t count = seen_count + 2 * bitgaze::kBlockCodes;
  constexpr std::size_t kBytes = 16;
  const Bytes codes = sparse_bytes(count * kBytes, random);
  const Bytes queries = sparse_bytes(query_count * kBytes, random);
  Words blocks = blocks_of(codes, kBytes);
  auto* bytes = reinterpret_cast<std::uint8_t*>(blocks.data());
  const bitgaze::Codes seen{bytes, seen_count, kBytes, true};
  const bitgaze::Queries query_rows{queries.data(), query_count};
  const auto search = [&](unsigned threads) {
    return bitgaze::search(kernel, seen, query_rows, {7, 128, {}, threads}, {});
  };
  const std::vector<Found> expected = search(1);
  std::atomic<bool> equal = true;
  std::vector<std::thread> threads;
  for (unsigned t = 1; t <= 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 3; ++i) {
        if (search(t) != expected) equal = false;
      }
    });
  }
  for (std::size_t i = seen_count; i < count; i += 500) {
    const std::size_t size = std::min<std::size_t>(500, count - i);
    bitgaze::write_by_word(codes.data() + i * kBytes, size, kBytes, i, bytes);
  }
  for (std::thread& thread : threads) thread.join();
  check(equal, kernel, "searches at once");
}

// The distance of an item, from its views and the query's, each (views, code_bytes).
std::uint64_t reference_view_distance(const std::uint8_t* query, std::size_t query_views,
                                      const std::uint8_t* item, std::size_t item_views,
                                      std::size_t code_bytes) {
  const auto between = [&](std::size_t a, std::size_t b) -> std::size_t {
    return reference_distance(query + a * code_bytes, item + b * code_bytes, code_bytes);
  };
  std::vector<std::size_t> of_query(query_views, 9999);
  std::vector<std::size_t> of_item(item_views, 9999);
  for (std::size_t a = 0; a < query_views; ++a) {
    for (std::size_t b = 0; b < item_views; ++b) {
      of_query[a] = std::min(of_query[a], between(a, b));
      of_item[b] = std::min(of_item[b], between(a, b));
    }
  }
  const std::size_t multiple = std::lcm(query_views, item_views);
  const auto sum = [](const std::vector<std::size_t>& numbers) {
    return std::accumulate(numbers.begin(), numbers.end(), std::size_t{0});
  };
  return multiple / query_views * sum(of_query) + multiple / item_views * sum(of_item);
}

std::vector<Found> reference_view_search(const Bytes& items, std::size_t item_views,
                                         const Bytes& queries, std::size_t query_views,
                                         std::size_t code_bytes,
                                         const bitgaze::SearchParams& params) {
  const std::size_t item_bytes = item_views * code_bytes;
  const std::size_t query_bytes = query_views * code_bytes;
  std::vector<Found> results;
  for (std::size_t q = 0; q < queries.size() / query_bytes; ++q) {
    Found all;
    for (std::size_t i = 0; i < items.size() / item_bytes; ++i) {
      const std::uint64_t distance =
          reference_view_distance(queries.data() + q * query_bytes, query_views,
                                  items.data() + i * item_bytes, item_views, code_bytes);
      if (distance <= params.radius && params.filter.allows(q, i)) {
        all.push_back(distance << bitgaze::kIdBits | i);
      }
    }
    std::sort(all.begin(), all.end());
    if (all.size() > params.k) all.resize(params.k);
    results.push_back(all);
  }
  return results;
}

// Items in groups that end where readable memory ends. The places behind the last item hold codes
// of zeros or ones, so that one of them would be found.
void test_view_search(const bitgaze::Kernel& kernel, std::size_t code_bytes, const Bytes& items,
                      std::size_t item_views, const Bytes& queries, std::size_t query_views,
                      const bitgaze::SearchParams& params, const char* what) {
  bitgaze::ViewCodes codes{nullptr, items.size() / (item_views * code_bytes), item_views,
                           code_bytes};
  const std::size_t groups = (codes.count + bitgaze::kGroupItems - 1) / bitgaze::kGroupItems;
  std::vector<std::uint16_t> memory(groups * codes.group_words(),
                                    queries.empty() || queries[0] < 128 ? 0 : 0xffff);
  codes.data = memory.data();
  bitgaze::write_views(items.data(), codes.count, 0, codes);
  Bytes bytes(memory.size() * 2);
  if (!bytes.empty()) std::memcpy(bytes.data(), memory.data(), bytes.size());
  const Guarded guarded(bytes);
  codes.data = reinterpret_cast<const std::uint16_t*>(guarded.data());
  const bitgaze::ViewQueries query_rows{queries.data(), queries.size() / (query_views * code_bytes),
                                        query_views};
  bitgaze::SearchParams some = params;
  some.radius = std::min(some.radius, bitgaze::view_unit(item_views, query_views) *
                                          static_cast<unsigned>(8 * code_bytes));
  check(bitgaze::search_views(kernel, codes, query_rows, some) ==
            reference_view_search(items, item_views, queries, query_views, code_bytes, some),
        kernel,
        std::string("views in ") + what + " items, " + std::to_string(code_bytes) + " bytes, " +
            std::to_string(codes.count) + " items of " + std::to_string(item_views) + " views, " +
            std::to_string(query_views) + " of the query, k " + std::to_string(some.k) +
            ", radius " + std::to_string(some.radius) + ", threads " +
            std::to_string(some.threads));
}

void test_views(const bitgaze::Kernel& kernel) {
  std::mt19937 random(5);
  constexpr unsigned kAny = 1U << 30;
  constexpr std::size_t kMany = 100000;
  const auto items = [&](std::size_t count, std::size_t views, std::size_t code_bytes) {
    return random_bytes(count * views * code_bytes, random);
  };
  for (std::size_t code_bytes = 1; code_bytes <= 128; ++code_bytes) {
    const std::size_t views = 1 + code_bytes % bitgaze::kMaxViews;
    const std::size_t query_views = 1 + code_bytes / 8 % bitgaze::kMaxViews;
    test_view_search(kernel, code_bytes, items(67, views, code_bytes), views,
                     items(2, query_views, code_bytes), query_views, {5, kAny, {}, 1}, "random");
  }
  for (std::size_t views = 1; views <= bitgaze::kMaxViews; ++views) {
    for (std::size_t query_views = 1; query_views <= bitgaze::kMaxViews; ++query_views) {
      const std::size_t code_bytes = Sizes{8, 16, 24}.begin()[(views + query_views) % 3];
      test_view_search(kernel, code_bytes, items(70, views, code_bytes), views,
                       items(2, query_views, code_bytes), query_views, {9, kAny, {}, 1}, "random");
      // The greatest distances of all: beyond 2^16.
      test_view_search(kernel, 128, Bytes(35 * views * 128, 255), views,
                       Bytes(2 * query_views * 128, 0), query_views, {40, kAny, {}, 1}, "opposite");
    }
  }
  for (const std::size_t code_bytes : Sizes{1, 2, 3, 8, 16, 32}) {
    for (const std::size_t count : Sizes{0, 1, 31, 32, 33, 63, 64, 65, 500, 5000}) {
      for (const std::size_t k : Sizes{1, 10, kMany}) {
        test_view_search(kernel, code_bytes, sparse_bytes(count * 3 * code_bytes, random), 3,
                         sparse_bytes(2 * 2 * code_bytes, random), 2, {k, kAny, {}, 1}, "sparse");
      }
    }
  }
  // Far from a few near ones, so that screening sets in; the near ones lie apart.
  Bytes far = random_bytes(9000 * 4 * 16, random);
  const Bytes queries = random_bytes(3 * 4 * 16, random);
  for (std::size_t i = 700; i < 9000; i += 701) {
    std::copy(queries.begin(), queries.begin() + 4 * 16,
              far.begin() + static_cast<std::ptrdiff_t>(i * 4 * 16));
    far[i * 4 * 16] ^= static_cast<std::uint8_t>(i);
  }
  test_view_search(kernel, 16, far, 4, queries, 4, {5, kAny, {}, 1}, "far");
  test_view_search(kernel, 16, far, 4, queries, 4, {kMany, 200, {}, 1}, "far");
}

// Enough queries and items for tables: random, where few groups are near, and with many ties.
void test_view_tables(const bitgaze::Kernel& kernel) {
  std::mt19937 random(8);
  constexpr std::size_t kCount = 32768 + 33;
  constexpr std::size_t kQueries = 9;
  Bytes filter(kCount / 8, 255);
  filter[77] = 0;
  std::vector<std::int64_t> exclude(kQueries, 40);
  for (const std::size_t code_bytes : Sizes{2, 11, 16, 32}) {
    const std::size_t views = 1 + code_bytes % 5;
    const std::size_t query_views = 2 + code_bytes % 3;
    Bytes items = random_bytes(kCount * views * code_bytes, random);
    const Bytes queries = random_bytes(kQueries * query_views * code_bytes, random);
    // Opposite codes differ in all bits, the last item is the first query's own.
    for (std::size_t i = 0; i < code_bytes; ++i) {
      items[i] = static_cast<std::uint8_t>(~queries[i]);
      items[items.size() - code_bytes + i] = queries[i];
    }
    bitgaze::SearchParams params{7, 1U << 30, {}, 1};
    test_view_search(kernel, code_bytes, items, views, queries, query_views, params, "tables");
    params.filter = {filter.data(), 8 * filter.size(), exclude.data()};
    test_view_search(kernel, code_bytes, sparse_bytes(items.size(), random), views, queries,
                     query_views, params, "tables, filtered");
  }
}

// A radius, a filter, excluded ids and threads.
void test_view_conditions(const bitgaze::Kernel& kernel) {
  std::mt19937 random(6);
  constexpr std::size_t kCount = 1000;
  for (const std::size_t code_bytes : Sizes{3, 16}) {
    const Bytes items = sparse_bytes(kCount * 3 * code_bytes, random);
    const Bytes queries = sparse_bytes(9 * 2 * code_bytes, random);
    Bytes filter = random_bytes(kCount / 8 - 3, random);
    std::fill(filter.begin() + 30, filter.begin() + 70, std::uint8_t{0});
    std::vector<std::int64_t> exclude(9, -1);
    exclude[3] = 77;
    exclude[5] = 900;
    for (const std::size_t k : Sizes{1, 20, kCount}) {
      for (const unsigned radius : {0U, 30U}) {
        bitgaze::SearchParams params{k, radius, {}, 2};
        params.filter.exclude = exclude.data();
        test_view_search(kernel, code_bytes, items, 3, queries, 2, params, "conditions");
        params.filter.bits = filter.data();
        params.filter.count = 8 * filter.size();
        test_view_search(kernel, code_bytes, items, 3, queries, 2, params, "filtered");
      }
    }
  }
  // Threads share the items, or take other queries.
  test_view_search(kernel, 8, sparse_bytes(140000 * 8, random), 1, sparse_bytes(2 * 8, random), 1,
                   {11, 1U << 30, {}, 2}, "many");
  test_view_search(kernel, 16, sparse_bytes(3000 * 2 * 16, random), 2,
                   sparse_bytes(90 * 2 * 16, random), 2, {11, 1U << 30, {}, 3}, "few");
}

// Searches while items are written past those that they read.
void test_view_threads(const bitgaze::Kernel& kernel) {
  std::mt19937 random(7);
  constexpr std::size_t kSeen = 3000 + 13;
  constexpr std::size_t kViews = 3;
  constexpr std::size_t kBytes = 16;
  constexpr std::size_t kCount = kSeen + 3 * bitgaze::kGroupItems;
  const Bytes items = sparse_bytes(kCount * kViews * kBytes, random);
  const Bytes queries = sparse_bytes(12 * kViews * kBytes, random);
  bitgaze::ViewCodes codes{nullptr, kSeen, kViews, kBytes};
  std::vector<std::uint16_t> memory((kCount + bitgaze::kGroupItems) / bitgaze::kGroupItems *
                                    codes.group_words());
  codes.data = memory.data();
  bitgaze::write_views(items.data(), kSeen, 0, codes);
  const bitgaze::ViewQueries rows{queries.data(), 12, kViews};
  const bitgaze::SearchParams params{7, bitgaze::view_unit(kViews, kViews) * 128, {}, 2};
  const std::vector<Found> expected = bitgaze::search_views(kernel, codes, rows, params);
  std::atomic<bool> equal = true;
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) {
        if (bitgaze::search_views(kernel, codes, rows, params) != expected) equal = false;
      }
    });
  }
  for (std::size_t i = kSeen; i < kCount; ++i) {
    bitgaze::write_views(items.data() + i * kViews * kBytes, 1, i, codes);
  }
  for (std::thread& thread : threads) thread.join();
  check(equal, kernel, "searches by views at once");
}

// An error of any worker reaches the caller, and the pool keeps working.
void test_pool(const bitgaze::Kernel& kernel) {
  for (int i = 0; i < 100; ++i) {
    std::atomic<int> calls = 0;
    bool thrown = false;
    try {
      bitgaze::run_parallel(4, [&] {
        ++calls;
        throw std::runtime_error("of a worker");
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    check(thrown && calls >= 1 && calls <= 4, kernel, "an error in the pool");
  }
}

}  // namespace

// test_hamming [threads] [KERNEL ...]: tests these kernels, or else all that this machine supports.
// threads: only the tests that use threads.
int main(int count, char** arguments) {
  std::vector<std::string> names(arguments + 1, arguments + count);
  const bool only_threads = std::erase(names, "threads") > 0;
  std::printf("kernels:");
  for (const bitgaze::Kernel& kernel : bitgaze::kernels()) std::printf(" %s", kernel.name);
  std::printf("\n");
  if (names.empty()) {
    for (const bitgaze::Kernel& kernel : bitgaze::kernels()) names.emplace_back(kernel.name);
  }
  for (const std::string& name : names) {
    const bitgaze::Kernel& kernel = bitgaze::kernel(name);
    const std::size_t before = checks;
    if (!only_threads) {
      test_kernel(kernel);
      test_scan(kernel);
      test_views(kernel);
      test_view_tables(kernel);
    }
    test_conditions(kernel);
    test_view_conditions(kernel);
    test_threads(kernel, 70, 4);   // threads share the codes
    test_threads(kernel, 16, 40);  // each thread takes other queries
    test_view_threads(kernel);
    test_pool(kernel);
    std::printf("%s: %zu checks\n", kernel.name, checks - before);
    std::fflush(stdout);
  }
  std::printf("%zu checks on %zu kernels, %zu failures\n", checks, names.size(), failures);
  return failures == 0 ? 0 : 1;
}
