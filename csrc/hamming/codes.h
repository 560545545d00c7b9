// The layouts of codes in memory: rows, and blocks by word.
//
// By word, a vector holds the same word of several codes, so no lanes need adding up, and a search
// that needs only one word of most codes reads only that word.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace bitgaze {

// Large enough that reading one word of all its codes is a stream, small enough that a block stays
// in the second-level cache.
inline constexpr std::size_t kBlockCodes = 4096;

inline constexpr std::size_t kMaxWords = 16;

inline std::size_t words_of(std::size_t code_bytes) { return (code_bytes + 7) / 8; }

// Whether an index keeps codes of this length by word; shorter and odd ones are rows.
inline bool lies_by_word(std::size_t code_bytes) { return code_bytes > 8 && code_bytes % 8 == 0; }

struct Codes {
  const std::uint8_t* data;
  std::size_t count;
  std::size_t code_bytes;  // 1 to 128
  // false: rows of code_bytes, of any alignment. true: blocks of kBlockCodes codes, aligned to 8
  // bytes, word j of a block's code i at index j * kBlockCodes + i; code_bytes is a multiple of 8,
  // and the last block is as long as the others.
  bool by_word;

  const std::uint8_t* row(std::size_t i) const { return data + i * code_bytes; }

  // Word 0 of code i, in blocks by word.
  const std::uint64_t* first_word(std::size_t i) const {
    const std::size_t block = i / kBlockCodes * kBlockCodes;
    return reinterpret_cast<const std::uint64_t*>(data + block * code_bytes) + i % kBlockCodes;
  }

  // Copies code i to words_of(code_bytes) words; zeros fill up the last.
  void copy_words(std::size_t i, std::uint64_t* words) const {
    if (by_word) {
      for (std::size_t j = 0; j < code_bytes / 8; ++j) words[j] = first_word(i)[j * kBlockCodes];
    } else {
      words[words_of(code_bytes) - 1] = 0;
      std::memcpy(words, row(i), code_bytes);
    }
  }
};

// Copies rows to word columns: word j of code i becomes word_columns[j * stride + i]; zeros fill up
// the last word.
inline void to_word_columns(const std::uint8_t* rows, std::size_t count, std::size_t code_bytes,
                            std::uint64_t* word_columns, std::size_t stride) {
  const std::size_t whole = code_bytes / 8;
  for (std::size_t j = 0; j < whole; ++j) {
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(word_columns + j * stride + i, rows + i * code_bytes + 8 * j, 8);
    }
  }
  if (code_bytes % 8 == 0) return;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint64_t word = 0;
    std::memcpy(&word, rows + i * code_bytes + 8 * whole, code_bytes % 8);
    word_columns[whole * stride + i] = word;
  }
}

// Writes rows into blocks by word, as the codes first, first + 1, ...
inline void write_by_word(const std::uint8_t* rows, std::size_t count, std::size_t code_bytes,
                          std::size_t first, std::uint8_t* blocks) {
  while (count > 0) {
    const std::size_t part = std::min(count, kBlockCodes - first % kBlockCodes);
    const Codes codes{blocks, 0, code_bytes, true};
    to_word_columns(rows, part, code_bytes, const_cast<std::uint64_t*>(codes.first_word(first)),
                    kBlockCodes);
    rows += part * code_bytes;
    first += part;
    count -= part;
  }
}

}  // namespace bitgaze
