// The kernel for any CPU, and the tail of every other kernel.

#include <cstring>

#include "kernel.h"
#include "popcount.h"
#include "screened.h"
#include "view_kernel.h"

namespace bitgaze {
namespace {

std::uint64_t load_word(const std::uint8_t* bytes) noexcept {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return word;
}

// Loads 0 to 7 bytes into one word. Their order does not matter when counting differing bits.
std::uint64_t load_rest(const std::uint8_t* bytes, std::size_t size) noexcept {
  std::uint64_t word = 0;
  if (size & 4) {
    std::uint32_t part;
    std::memcpy(&part, bytes, sizeof(part));
    word = part;
    bytes += sizeof(part);
  }
  if (size & 2) {
    std::uint16_t part;
    std::memcpy(&part, bytes, sizeof(part));
    word = word << 16 | part;
    bytes += sizeof(part);
  }
  if (size & 1) word = word << 8 | *bytes;
  return word;
}

unsigned distance(const std::uint8_t* a, const std::uint8_t* b, std::size_t size) noexcept {
  unsigned sum = 0;
  std::size_t i = 0;
  for (; i + 8 <= size; i += 8) sum += popcount(load_word(a + i) ^ load_word(b + i));
  return sum + popcount(load_rest(a + i, size - i) ^ load_rest(b + i, size - i));
}

// Distances are written to a small array, which compilers vectorise, and compared together.
constexpr std::size_t kStep = 32;

std::uint16_t nearest_of(const std::uint16_t* distances, std::size_t size) noexcept {
  std::uint16_t nearest = 0xffff;
  for (std::size_t i = 0; i < size; ++i) {
    nearest = distances[i] < nearest ? distances[i] : nearest;
  }
  return nearest;
}

struct Collector {
  unsigned limit;
  std::uint64_t* found;
  std::size_t count = 0;

  // The distances of the codes id, id + 1, ...; size: up to kStep.
  void add(const std::uint16_t* distances, std::size_t size, std::uint64_t id) noexcept {
    if (nearest_of(distances, size) >= limit) return;
    for (std::size_t i = 0; i < size; ++i) {
      found[count] = std::uint64_t{distances[i]} << kIdBits | (id + i);
      count += distances[i] < limit;
    }
  }
};

// distance_of(i) is the distance of code i.
template <typename DistanceOf>
std::size_t find(std::size_t count, unsigned limit, std::uint64_t first, std::uint64_t* found,
                 const DistanceOf& distance_of) noexcept {
  Collector out{limit, found};
  std::uint16_t distances[kStep];
  std::size_t i = 0;
  for (; i + kStep <= count; i += kStep) {
    for (std::size_t j = 0; j < kStep; ++j) {
      distances[j] = static_cast<std::uint16_t>(distance_of(i + j));
    }
    out.add(distances, kStep, first + i);
  }
  for (std::size_t j = 0; j < count - i; ++j) {
    distances[j] = static_cast<std::uint16_t>(distance_of(i + j));
  }
  out.add(distances, count - i, first + i);
  return out.count;
}

template <std::size_t kWords>
std::size_t rows_words(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                       unsigned limit, std::uint64_t first, std::uint64_t* found) noexcept {
  std::uint64_t words[kWords];
  std::memcpy(words, query, sizeof(words));
  return find(count, limit, first, found, [&words, codes](std::size_t i) noexcept {
    unsigned sum = 0;
    for (std::size_t j = 0; j < kWords; ++j) {
      sum += popcount(words[j] ^ load_word(codes + 8 * (i * kWords + j)));
    }
    return sum;
  });
}

// Compilers do not vectorise an unknown number of words, which takes twice as long.
template <std::size_t kWords>
std::size_t compare_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                                 std::size_t stride, std::size_t count, unsigned limit,
                                 std::uint64_t first, std::uint64_t* found) noexcept {
  return find(count, limit, first, found, [=](std::size_t i) noexcept {
    unsigned sum = 0;
    for (std::size_t j = 0; j < kWords; ++j)
      sum += popcount(query[j] ^ word_columns[j * stride + i]);
    return sum;
  });
}

// The distances of kGroup codes.
struct Group {
  std::uint16_t distances[kGroup];
};

struct Vectors {
  using Distances = Group;

  static Group differing(std::uint64_t word, const std::uint64_t* codes) noexcept {
    Group group;
    for (std::size_t i = 0; i < kGroup; ++i) {
      group.distances[i] = static_cast<std::uint16_t>(popcount(word ^ codes[i]));
    }
    return group;
  }
  static Group add(Group a, const Group& b) noexcept {
    for (std::size_t i = 0; i < kGroup; ++i) {
      a.distances[i] = static_cast<std::uint16_t>(a.distances[i] + b.distances[i]);
    }
    return a;
  }
};

struct GroupCollector : Collector {
  bool any(const Group& group) const noexcept {
    return nearest_of(group.distances, kGroup) < limit;
  }
  void add(const Group& group, std::uint64_t id) noexcept {
    Collector::add(group.distances, kGroup, id);
  }
};

// Loops over small arrays, which compilers vectorise. With sign, because SSE2 has no minimum of
// 16-bit numbers without.
struct ViewVectors {
  static constexpr std::size_t kLanes = 32;
  struct Lanes {
    std::int16_t numbers[kLanes];
  };

  template <typename Function>
  static Lanes each(const Function& function) noexcept {
    Lanes result;
    for (std::size_t i = 0; i < kLanes; ++i) {
      result.numbers[i] = static_cast<std::int16_t>(function(i));
    }
    return result;
  }
  static unsigned number(const Lanes& a, std::size_t i) noexcept {
    return static_cast<std::uint16_t>(a.numbers[i]);
  }

  static Lanes all(std::uint16_t number) noexcept {
    return each([=](std::size_t) { return number; });
  }
  // Of numbers below 2^15, such as distances.
  static Lanes min(const Lanes& a, const Lanes& b) noexcept {
    return each(
        [&](std::size_t i) { return a.numbers[i] < b.numbers[i] ? a.numbers[i] : b.numbers[i]; });
  }
  static Lanes add(const Lanes& a, const Lanes& b) noexcept {
    return each([&](std::size_t i) { return a.numbers[i] + b.numbers[i]; });
  }
  static Lanes add_saturating(const Lanes& a, const Lanes& b) noexcept {
    return each([&](std::size_t i) {
      const unsigned sum = number(a, i) + number(b, i);
      return sum > 0xffff ? 0xffffU : sum;
    });
  }
  static Lanes times(const Lanes& a, std::uint16_t factor) noexcept {
    return each([&](std::size_t i) { return number(a, i) * factor; });
  }
  static void store(std::uint16_t* numbers, const Lanes& a) noexcept {
    std::memcpy(numbers, a.numbers, sizeof(a));
  }
  static bool any_within(const Lanes& a, std::uint16_t most) noexcept {
    bool any = false;
    for (std::size_t i = 0; i < kLanes; ++i) any |= number(a, i) <= most;
    return any;
  }

  template <std::size_t kWords>
  static Lanes distances(const std::uint64_t* query, const std::uint16_t* codes,
                         std::size_t words) noexcept {
    if constexpr (kWords > 0) words = kWords;
    constexpr std::size_t kPacked = kLanes / 4;  // numbers of 64 bits that hold all lanes
    std::uint64_t sums[kPacked] = {};
    // A byte holds the sum of up to 31 of its kind.
    constexpr std::size_t kMost = 16;
    for (std::size_t w = 0; w < words; w += kMost) {
      std::uint64_t bytes[kPacked] = {};
      for (std::size_t i = w; i < words && i < w + kMost; ++i) {
        std::uint64_t packed[kPacked];
        std::memcpy(packed, codes + i * kGroupItems, sizeof(packed));
        for (std::size_t p = 0; p < kPacked; ++p) {
          bytes[p] += count_bytes(packed[p] ^ query[i]);
        }
      }
      constexpr std::uint64_t kLow = 0x00ff00ff00ff00ff;
      for (std::size_t p = 0; p < kPacked; ++p) {
        sums[p] += (bytes[p] & kLow) + (bytes[p] >> 8 & kLow);
      }
    }
    Lanes result;
    std::memcpy(&result, sums, sizeof(result));
    return result;
  }
};

std::size_t find_word_columns(const std::uint64_t* query, const std::uint64_t* word_columns,
                              std::size_t stride, std::size_t count, std::size_t words,
                              unsigned limit, std::uint64_t first, std::uint64_t* found) noexcept {
  switch (words) {
    case 1:
      return compare_word_columns<1>(query, word_columns, stride, count, limit, first, found);
    case 2:
      return compare_word_columns<2>(query, word_columns, stride, count, limit, first, found);
    case 4:
      return compare_word_columns<4>(query, word_columns, stride, count, limit, first, found);
    default:
      return find(count, limit, first, found, [=](std::size_t i) noexcept {
        unsigned sum = 0;
        for (std::size_t j = 0; j < words; ++j)
          sum += popcount(query[j] ^ word_columns[j * stride + i]);
        return sum;
      });
  }
}

std::size_t find_rows(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                      std::size_t code_bytes, unsigned limit, std::uint64_t first,
                      std::uint64_t* found) noexcept {
  switch (code_bytes) {
    case 8:
      return rows_words<1>(query, codes, count, limit, first, found);
    case 16:
      return rows_words<2>(query, codes, count, limit, first, found);
    case 32:
      return rows_words<4>(query, codes, count, limit, first, found);
    default:
      return find(count, limit, first, found, [=](std::size_t i) noexcept {
        return distance(query, codes + i * code_bytes, code_bytes);
      });
  }
}

}  // namespace

extern const Kernel kernel_portable = {"portable",
                                       {},
                                       find_rows,
                                       find_word_columns,
                                       find_screened<Vectors, GroupCollector, find_word_columns>,
                                       find_in_views<ViewVectors>};

}  // namespace bitgaze
