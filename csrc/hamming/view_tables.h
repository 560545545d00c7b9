// Which items with several views are near, by table: a lower bound that costs less than counting
// bits. A kernel file includes this and supplies its vectors; the result is that file's own code,
// of internal linkage like the rest of it.
//
// A vector holds a few bits (an index) of a code of each of many items, one item a byte. A table of
// the query, looked up by index, gives the number of these bits that differ from one view of the
// query, and in the upper half of the byte the same of another view: two distances by one lookup.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel.h"
#include "view_kernel.h"

namespace bitgaze {
namespace {

// Where the bits of an index lie in the 16-bit words of a code: bits index * index_bits and up.
struct IndexPlace {
  std::size_t word;
  std::size_t shift;
  std::size_t bits;  // in this word; the others begin the next one

  IndexPlace(std::size_t index_bits, std::size_t index) noexcept
      : word(index * index_bits / 16), shift(index * index_bits % 16), bits(16 - shift) {
    if (bits > index_bits) bits = index_bits;
  }
};

// In each of four lanes of 16 bits. next: 0 where the code ends.
inline std::uint64_t indexes_of(const IndexPlace& place, std::size_t index_bits, std::uint64_t word,
                                std::uint64_t next) noexcept {
  constexpr std::uint64_t kOnes = 0x0001000100010001;
  const std::uint64_t low = kOnes * ((1U << place.bits) - 1);
  const std::uint64_t all = kOnes * ((1U << index_bits) - 1);
  return (word >> place.shift & low) | (next << place.bits & all & ~low);
}

// See LayOutIndexesFn.
template <std::size_t kIndexBits>
void lay_out_indexes(const std::uint16_t* groups, std::size_t group_count, std::size_t views,
                     std::size_t words, std::size_t indexes, std::uint8_t* out) noexcept {
  constexpr std::size_t kPacked = kGroupItems / 4;  // numbers of 64 bits that hold a column
  for (std::size_t g = 0; g < group_count; g += 2) {
    for (std::size_t view = 0; view < views; ++view) {
      const std::uint16_t* const code = groups + (g * views + view) * words * kGroupItems;
      // An odd last group is its own neighbour.
      const std::size_t neighbour = g + 1 < group_count ? views * words * kGroupItems : 0;
      for (std::size_t index = 0; index < indexes; ++index, out += 2 * kGroupItems) {
        const IndexPlace place(kIndexBits, index);
        std::uint64_t packed[2][2][kPacked] = {};  // of each group: the word and the next one
        for (std::size_t w = 0; w < 2 && place.word + w < words; ++w) {
          const std::uint16_t* const column = code + (place.word + w) * kGroupItems;
          std::memcpy(packed[0][w], column, sizeof(packed[0][w]));
          std::memcpy(packed[1][w], column + neighbour, sizeof(packed[1][w]));
        }
        for (std::size_t p = 0; p < kPacked; ++p) {
          packed[0][0][p] = indexes_of(place, kIndexBits, packed[0][0][p], packed[0][1][p]) |
                            indexes_of(place, kIndexBits, packed[1][0][p], packed[1][1][p]) << 8;
        }
        std::memcpy(out, packed[0][0], sizeof(packed[0][0]));
      }
    }
  }
}

// The distances to two views of the query, a byte for each item.
template <typename Vectors>
struct TwoDistances {
  typename Vectors::Lanes numbers[2];
};

// By the first `read` indexes of a view.
template <typename Vectors, std::size_t kRead>
TwoDistances<Vectors> two_distances(const std::uint8_t* tables, const std::uint8_t* indexes,
                                    std::size_t read) noexcept {
  using Lanes = typename Vectors::Lanes;
  constexpr std::size_t kTable = std::size_t{1} << Vectors::kIndexBits;
  if constexpr (kRead > 0) read = kRead;
  Lanes sum = Vectors::all(0);   // bytes a + 16 b, which wrap
  Lanes high = Vectors::all(0);  // b, and in even bytes also 16 a of the next, by the shift
  for (std::size_t i = 0; i < read; i += kTableSum) {
    Lanes few = Vectors::look_up(tables + i * kTable, indexes + i * 2 * kGroupItems);
    for (std::size_t j = i + 1; j < i + kTableSum; ++j) {
      few = Vectors::add_bytes(
          few, Vectors::look_up(tables + j * kTable, indexes + j * 2 * kGroupItems));
    }
    sum = Vectors::add_bytes(sum, few);
    high = Vectors::add_bytes(high, Vectors::template shift_right<4>(few));
  }
  const Lanes shifted_in = Vectors::both(Vectors::template shift_right<4>(sum), Vectors::all(0xf0));
  const Lanes b = Vectors::subtract_bytes(high, shifted_in);
  const Lanes b_16 = Vectors::both(Vectors::template shift_left<4>(b), Vectors::all(0xf0f0));
  return {{Vectors::subtract_bytes(sum, b_16), b}};
}

// Sums of bytes: those of even and of odd items.
template <typename Vectors>
struct ByteSums {
  typename Vectors::Lanes words = Vectors::all(0);
  typename Vectors::Lanes odd = Vectors::all(0);

  void add(typename Vectors::Lanes bytes) noexcept {
    words = Vectors::add(words, bytes);
    odd = Vectors::add(odd, Vectors::template shift_right<8>(bytes));
  }
  typename Vectors::Lanes even() const noexcept {
    return Vectors::subtract(words, Vectors::template shift_left<8>(odd));
  }
};

template <typename Vectors, std::size_t kRead>
std::size_t near_groups_of(const ViewQuery& query, const ViewTables& tables,
                           const std::uint8_t* indexes, std::size_t group_count, unsigned limit,
                           std::size_t read, std::uint16_t* near) noexcept {
  using Lanes = typename Vectors::Lanes;
  constexpr std::size_t kTable = std::size_t{1} << Vectors::kIndexBits;
  const auto most = static_cast<std::uint16_t>(limit > 0xffff ? 0xffff : limit - 1);
  const std::size_t pairs = (query.views + 1) / 2;
  std::size_t size = 0;
  for (std::size_t g = 0; g < group_count; g += 2) {
    bool near_here[2] = {false, false};
    for (std::size_t lane = 0; lane < kGroupItems; lane += Vectors::kLanes) {
      const std::uint8_t* column = indexes + 2 * lane;
      Lanes of_query[kMaxViews];
      for (std::size_t a = 0; a < 2 * pairs; ++a) of_query[a] = Vectors::all(0xfefe);
      ByteSums<Vectors> of_items;
      for (std::size_t b = 0; b < query.item_views; ++b) {
        Lanes of_item = Vectors::all(0xfefe);
        for (std::size_t pair = 0; pair < pairs; ++pair) {
          const auto two = two_distances<Vectors, kRead>(
              tables.bytes + pair * tables.indexes * kTable, column, read);
          for (std::size_t v = 0; v < 2; ++v) {
            Lanes& of_view = of_query[2 * pair + v];
            of_view = Vectors::min_bytes(of_view, two.numbers[v]);
            of_item = Vectors::min_bytes(of_item, two.numbers[v]);
          }
        }
        of_items.add(of_item);
        column += tables.indexes * 2 * kGroupItems;
      }
      ByteSums<Vectors> of_queries;
      for (std::size_t a = 0; a < query.views; ++a) of_queries.add(of_query[a]);
      near_here[0] |= any_within<Vectors>(query, {{of_queries.even(), of_items.even()}}, most);
      near_here[1] |= any_within<Vectors>(query, {{of_queries.odd, of_items.odd}}, most);
    }
    near[size] = static_cast<std::uint16_t>(g);
    size += near_here[0];
    near[size] = static_cast<std::uint16_t>(g + 1);
    size += near_here[1] && g + 1 < group_count;
    indexes += query.item_views * tables.indexes * 2 * kGroupItems;
  }
  return size;
}

// See NearGroupsFn. Vectors has what find_in_views needs, and kIndexBits; over bytes:
// look_up(table, indexes), add_bytes, subtract_bytes and min_bytes(Lanes, Lanes); over words:
// subtract and both(Lanes, Lanes), shift_left<n> and shift_right<n>(Lanes).
template <typename Vectors>
std::size_t near_groups(const ViewQuery& query, const ViewTables& tables,
                        const std::uint8_t* indexes, std::size_t group_count, unsigned limit,
                        std::size_t read, std::uint16_t* near) noexcept {
  constexpr std::size_t k128 = 21;
  if (read == k128) {
    return near_groups_of<Vectors, k128>(query, tables, indexes, group_count, limit, read, near);
  }
  return near_groups_of<Vectors, 0>(query, tables, indexes, group_count, limit, read, near);
}

}  // namespace
}  // namespace bitgaze
