// Distances of items with several views. A kernel file includes this and supplies its vectors; the
// result is that file's own code, of internal linkage like the rest of it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel.h"

namespace bitgaze {
namespace {

// The two sums that make up the distance, of the items of one vector.
template <typename Vectors>
struct ViewSums {
  typename Vectors::Lanes numbers[2];
};

// From the first `words` words of each view; kWords: their number, or 0 to use the argument.
template <typename Vectors, std::size_t kWords>
ViewSums<Vectors> view_sums(const ViewQuery& query, const std::uint16_t* codes,
                            std::size_t words) noexcept {
  using Lanes = typename Vectors::Lanes;
  const Lanes far = Vectors::all(0x7fff);
  Lanes of_query[kMaxViews];  // the least distance of each query view so far
  for (std::size_t a = 0; a < query.views; ++a) of_query[a] = far;
  ViewSums<Vectors> sums{{Vectors::all(0), Vectors::all(0)}};
  for (std::size_t b = 0; b < query.item_views; ++b) {
    const std::uint16_t* const code = codes + b * query.words_per_view * kGroupItems;
    Lanes of_item = far;
    for (std::size_t a = 0; a < query.views; ++a) {
      const Lanes distances =
          Vectors::template distances<kWords>(query.words + a * query.words_per_view, code, words);
      of_query[a] = Vectors::min(of_query[a], distances);
      of_item = Vectors::min(of_item, distances);
    }
    sums.numbers[1] = Vectors::add(sums.numbers[1], of_item);
  }
  for (std::size_t a = 0; a < query.views; ++a) {
    sums.numbers[0] = Vectors::add(sums.numbers[0], of_query[a]);
  }
  return sums;
}

template <typename Vectors>
bool any_within(const ViewQuery& query, const ViewSums<Vectors>& sums,
                std::uint16_t most) noexcept {
  const auto a = Vectors::times(sums.numbers[0], static_cast<std::uint16_t>(query.weights[0]));
  const auto b = Vectors::times(sums.numbers[1], static_cast<std::uint16_t>(query.weights[1]));
  return Vectors::any_within(Vectors::add_saturating(a, b), most);
}

template <typename Vectors, std::size_t kWords>
std::size_t compare_views(const ViewQuery& query, const std::uint16_t* groups, std::size_t count,
                          unsigned limit, std::size_t screen, std::uint64_t first,
                          std::uint64_t* found, std::size_t* passed) noexcept {
  constexpr std::size_t kLanes = Vectors::kLanes;
  const std::size_t words = query.words_per_view;
  // Sums saturate at 2^16 - 1, so that those beyond it pass here and are compared in full below.
  const auto most = static_cast<std::uint16_t>(limit > 0xffff ? 0xffff : limit - 1);
  std::size_t size = 0;
  *passed = 0;
  for (std::size_t i = 0; i < count; i += kGroupItems) {
    const std::uint16_t* const group = groups + i * query.item_views * words;
    bool near = screen == 0;
    for (std::size_t lane = 0; !near && lane < kGroupItems; lane += kLanes) {
      near = any_within<Vectors>(query,
                                 kWords > 1 && screen == kWords / 2
                                     ? view_sums<Vectors, kWords / 2>(query, group + lane, screen)
                                     : view_sums<Vectors, 0>(query, group + lane, screen),
                                 most);
    }
    if (!near) continue;
    ++*passed;
    for (std::size_t lane = 0; lane < kGroupItems; lane += kLanes) {
      const auto sums = view_sums<Vectors, kWords>(query, group + lane, words);
      if (!any_within<Vectors>(query, sums, most)) [[likely]]
        continue;
      std::uint16_t numbers[2][kLanes];
      Vectors::store(numbers[0], sums.numbers[0]);
      Vectors::store(numbers[1], sums.numbers[1]);
      for (std::size_t j = 0; j < kLanes && i + lane + j < count; ++j) {
        const unsigned distance =
            query.weights[0] * numbers[0][j] + query.weights[1] * numbers[1][j];
        found[size] = std::uint64_t{distance} << kIdBits | (first + i + lane + j);
        size += distance < limit;
      }
    }
  }
  return size;
}

// Vectors has a type Lanes, of kLanes numbers of 16 bits without sign, and static functions over
// them: all(number); min, add and add_saturating(Lanes, Lanes); times(Lanes, number);
// store(address, Lanes); any_within(Lanes, most), whether one is at most that; and
// distances<kWords>(query, codes, words), where the words of the codes are kGroupItems apart.
template <typename Vectors>
std::size_t find_in_views(const ViewQuery& query, const std::uint16_t* groups, std::size_t count,
                          unsigned limit, std::size_t screen, std::uint64_t first,
                          std::uint64_t* found, std::size_t* passed) noexcept {
  switch (query.words_per_view) {
    case 4:
      return compare_views<Vectors, 4>(query, groups, count, limit, screen, first, found, passed);
    case 8:
      return compare_views<Vectors, 8>(query, groups, count, limit, screen, first, found, passed);
    default:
      return compare_views<Vectors, 0>(query, groups, count, limit, screen, first, found, passed);
  }
}

}  // namespace
}  // namespace bitgaze
