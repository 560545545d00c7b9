// Exact search: every code is compared with every query. Knows nothing of instruction sets.
#pragma once

#include "dispatch.h"

namespace bitgaze {

struct CodeView {
  const std::uint8_t* data;  // count * code_bytes bytes, of any alignment
  std::size_t count;
  std::size_t code_bytes;  // 1 to 128
};

// The k nearest codes of each query: ascending distance, ties by lower position. 1 <= k, and k is
// at most codes.count. distances and ids: queries.count rows of k.
void search(const Kernel& kernel, const CodeView& codes, const CodeView& queries, std::size_t k,
            std::int32_t* distances, std::int64_t* ids);

}  // namespace bitgaze
