// The layout of items that have several codes (views) each.
//
// Items lie in groups of 32. A group holds a column for each 16-bit word of each view: the same
// word of 32 items, in one cache line. A vector then holds distances of several items in lanes of
// 16 bits, wide enough for the longest code, and a kernel needs no tail: it reads whole groups, one
// after the other.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernel.h"

namespace bitgaze {

inline std::size_t view_words_of(std::size_t code_bytes) { return (code_bytes + 1) / 2; }

struct ViewCodes {
  // Word w of view v of an item at (v * words() + w) * kGroupItems + item % kGroupItems of its
  // group. The last group is as long as the others.
  const std::uint16_t* data;
  std::size_t count;       // items
  std::size_t views;       // of each item, 1 to kMaxViews
  std::size_t code_bytes;  // 1 to 128; zeros fill up the last word

  std::size_t words() const { return view_words_of(code_bytes); }
  std::size_t group_words() const { return views * words() * kGroupItems; }
  const std::uint16_t* group(std::size_t item) const {
    return data + item / kGroupItems * group_words();
  }
};

// Writes rows (count, views, code_bytes) as the items first, first + 1, ...
inline void write_views(const std::uint8_t* rows, std::size_t count, std::size_t first,
                        const ViewCodes& codes) {
  const std::size_t whole = codes.code_bytes / 2;
  for (std::size_t item = first; item < first + count; ++item) {
    auto* column = const_cast<std::uint16_t*>(codes.group(item)) + item % kGroupItems;
    for (std::size_t view = 0; view < codes.views; ++view) {
      for (std::size_t w = 0; w < whole; ++w, column += kGroupItems) {
        std::memcpy(column, rows + 2 * w, 2);
      }
      if (whole < codes.words()) {
        *column = 0;
        std::memcpy(column, rows + 2 * whole, 1);
        column += kGroupItems;
      }
      rows += codes.code_bytes;
    }
  }
}

}  // namespace bitgaze
