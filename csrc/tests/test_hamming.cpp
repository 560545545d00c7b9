// One body of tests, run on every kernel that this machine has, against a naive reference.

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "hamming/scan.h"

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
    std::printf("FAILED %.*s: %s\n", static_cast<int>(kernel.name.size()), kernel.name.data(),
                what.c_str());
  }
}

// Bytes that end where readable memory ends, so that one byte too many is a crash.
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
  for (std::size_t i = 0; i < size; ++i) {
    sum += std::popcount(static_cast<std::uint8_t>(a[i] ^ b[i]));
  }
  return static_cast<std::uint16_t>(sum);
}

void test_distances(const bitgaze::Kernel& kernel, std::size_t code_bytes, const Bytes& query,
                    const Bytes& codes, const char* what) {
  const std::size_t count = codes.size() / code_bytes;
  const Guarded guarded_query(query);
  const Guarded guarded_codes(codes);
  constexpr std::uint16_t kUntouched = 0xffff;
  std::vector<std::uint16_t> distances(count + 1, kUntouched);
  kernel.distances(guarded_query.data(), guarded_codes.data(), count, code_bytes, distances.data());
  bool equal = distances[count] == kUntouched;
  for (std::size_t i = 0; i < count; ++i) {
    equal = equal && distances[i] == reference_distance(query.data(), codes.data() + i * code_bytes,
                                                        code_bytes);
  }
  check(equal, kernel,
        std::string("distances of ") + what + " codes, " + std::to_string(code_bytes) + " bytes, " +
            std::to_string(count) + " codes");
}

void test_kernel(const bitgaze::Kernel& kernel) {
  std::mt19937 random(1);
  for (std::size_t code_bytes = 1; code_bytes <= 128; ++code_bytes) {
    // Around one and two steps of every kernel: 8 and 16 codes.
    for (const std::size_t count : Sizes{0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 100}) {
      const Bytes query = random_bytes(code_bytes, random);
      const Bytes codes = random_bytes(count * code_bytes, random);
      test_distances(kernel, code_bytes, query, codes, "random");
    }
    const std::size_t size = 35 * code_bytes;
    const Bytes zeros(code_bytes, 0);
    test_distances(kernel, code_bytes, zeros, Bytes(size, 0), "zero");
    test_distances(kernel, code_bytes, zeros, Bytes(size, 255), "opposite");

    // A set bit at each end: neither lost nor counted twice where loads overlap.
    for (std::size_t i = 0; i < code_bytes; ++i) {
      Bytes codes(size, 0);
      for (std::size_t j = 0; j < 35; ++j) codes[j * code_bytes + i] = 0x81;
      test_distances(kernel, code_bytes, zeros, codes, "two-bit");
    }
    // Every alignment of a first code.
    const Bytes query = random_bytes(code_bytes, random);
    const Bytes codes = random_bytes(64 + 17 * code_bytes, random);
    for (std::size_t offset = 0; offset < 64; ++offset) {
      std::uint16_t distances[17];
      kernel.distances(query.data(), codes.data() + offset, 17, code_bytes, distances);
      bool equal = true;
      for (std::size_t i = 0; i < 17; ++i) {
        const std::uint8_t* code = codes.data() + offset + i * code_bytes;
        equal = equal && distances[i] == reference_distance(query.data(), code, code_bytes);
      }
      check(equal, kernel, "alignment " + std::to_string(offset));
    }
  }
}

void test_search(const bitgaze::Kernel& kernel, std::size_t code_bytes, const Bytes& codes,
                 const Bytes& queries, std::size_t k, const char* what) {
  const std::size_t count = codes.size() / code_bytes;
  const std::size_t query_count = queries.size() / code_bytes;
  k = std::min(k, count);
  std::vector<std::int32_t> distances(query_count * k, -1);
  std::vector<std::int64_t> ids(query_count * k, -1);
  bitgaze::search(kernel, {codes.data(), count, code_bytes},
                  {queries.data(), query_count, code_bytes}, k, distances.data(), ids.data());

  bool equal = true;
  for (std::size_t q = 0; q < query_count; ++q) {
    std::vector<std::int32_t> all(count);
    for (std::size_t i = 0; i < count; ++i) {
      all[i] = reference_distance(queries.data() + q * code_bytes, codes.data() + i * code_bytes,
                                  code_bytes);
    }
    std::vector<std::int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return all[static_cast<std::size_t>(a)] < all[static_cast<std::size_t>(b)];
    });
    for (std::size_t j = 0; j < k; ++j) {
      equal = equal && ids[q * k + j] == order[j] &&
              distances[q * k + j] == all[static_cast<std::size_t>(order[j])];
    }
  }
  check(equal, kernel,
        std::string("search in ") + what + " codes, " + std::to_string(code_bytes) + " bytes, " +
            std::to_string(count) + " codes, k " + std::to_string(k));
}

void test_scan(const bitgaze::Kernel& kernel) {
  std::mt19937 random(2);
  constexpr std::size_t kMany = 100000;
  for (const std::size_t code_bytes : Sizes{1, 5, 8, 16, 24, 32, 33, 64, 100, 128}) {
    // Around the 64 codes that are skipped together and the 2,048 of a block.
    for (const std::size_t count : Sizes{1, 63, 64, 65, 2047, 2048, 2049, 4500}) {
      for (const std::size_t k : Sizes{1, 10, 65, kMany}) {
        const Bytes queries = random_bytes(2 * code_bytes, random);
        const Bytes codes = random_bytes(count * code_bytes, random);
        test_search(kernel, code_bytes, codes, queries, k, "random");
        const Bytes few_bits = sparse_bytes(count * code_bytes, random);
        test_search(kernel, code_bytes, few_bits, queries, k, "sparse");
      }
    }
    const Bytes queries = random_bytes(3 * code_bytes, random);
    for (const std::size_t k : Sizes{1, 300, kMany}) {
      test_search(kernel, code_bytes, Bytes(2100 * code_bytes, 0x55), queries, k, "equal");
      test_search(kernel, code_bytes, {}, queries, k, "no");
      test_search(kernel, code_bytes, Bytes(code_bytes), {}, k, "one (no query)");
    }
  }
  // Ever nearer codes: each one is kept, so the candidates' room runs out again and again.
  Bytes codes;
  for (std::size_t i = 0; i < 4000; ++i) {
    Bytes code(128, 0);
    const std::size_t bits = 1024 - i * 1024 / 4000;
    for (std::size_t b = 0; b < bits; ++b) code[b / 8] |= static_cast<std::uint8_t>(1 << b % 8);
    codes.insert(codes.end(), code.begin(), code.end());
  }
  for (const std::size_t k : Sizes{1, 2, 100, 1000}) {
    test_search(kernel, 128, codes, Bytes(128, 0), k, "descending");
    test_search(kernel, 128, codes, Bytes(128, 255), k, "ascending");
  }
  // More queries than one group.
  test_search(kernel, 8, random_bytes(8 * 100, random), random_bytes(8 * 600, random), 3, "random");
}

}  // namespace

int main() {
  std::size_t kernel_count = 0;
  for (const bitgaze::Kernel& kernel : bitgaze::kernels()) {
    const std::size_t before = checks;
    test_kernel(kernel);
    test_scan(kernel);
    ++kernel_count;
    std::printf("%.*s: %zu checks\n", static_cast<int>(kernel.name.size()), kernel.name.data(),
                checks - before);
    std::fflush(stdout);
  }
  std::printf("%zu checks on %zu kernels, %zu failures\n", checks, kernel_count, failures);
  return failures == 0 ? 0 : 1;
}
