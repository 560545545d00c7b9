// Writes found codes to the arrays that callers get.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "nearest.h"

namespace bitgaze {

// One row for each query. If it has fewer codes than columns, the rest is far_distance and id -1.
inline void to_table(const std::vector<Found>& found, std::size_t columns,
                     std::int32_t far_distance, std::int32_t* distances, std::int64_t* ids) {
  for (const Found& row : found) {
    for (std::size_t i = 0; i < columns; ++i) {
      const bool any = i < row.size();
      *distances++ = any ? static_cast<std::int32_t>(row[i] >> kIdBits) : far_distance;
      *ids++ = any ? static_cast<std::int64_t>(row[i] & kIdMask) : -1;
    }
  }
}

inline std::size_t total_of(const std::vector<Found>& found) {
  std::size_t total = 0;
  for (const Found& row : found) total += row.size();
  return total;
}

// One list for all queries; the codes of query q are at lims[q] to lims[q + 1] - 1.
inline void to_list(const std::vector<Found>& found, std::int64_t* lims, std::int32_t* distances,
                    std::int64_t* ids) {
  std::int64_t end = 0;
  for (const Found& row : found) {
    *lims++ = end;
    for (const std::uint64_t number : row) {
      *distances++ = static_cast<std::int32_t>(number >> kIdBits);
      *ids++ = static_cast<std::int64_t>(number & kIdMask);
    }
    end += static_cast<std::int64_t>(row.size());
  }
  *lims = end;
}

}  // namespace bitgaze
