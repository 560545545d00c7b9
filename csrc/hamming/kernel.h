// A kernel finds the codes of a run whose distance to a query is below a limit.
//
// Few are, once a search knows k near codes, so a kernel compares many distances with the limit at
// once and writes only those below it.
//
// Every kernel file is compiled with the flags of its instruction set, so it may show the linker
// only its Kernel: an inline function that the linker shared with other files would carry
// instructions that an older CPU does not have. Hence C headers only, here and in kernel files.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define BITGAZE_X86_64
#elif defined(__aarch64__) || defined(_M_ARM64)
#define BITGAZE_AARCH64
#endif

namespace bitgaze {

// A found code is the number distance << kIdBits | id. These numbers sort in the order of results.
inline constexpr unsigned kIdBits = 46;

// A kernel may write this many numbers past the last that it found.
inline constexpr std::size_t kFoundSlack = 8;

inline constexpr std::size_t kMaxScreenedCodes = 4096;

// Codes in rows, as callers hold them: count * code_bytes bytes of any alignment, code_bytes 1 to
// 128. limit: 0 to 8 * code_bytes + 1. first: the id of the first code. found: room for count +
// kFoundSlack numbers; ascending by id. Returns the number found.
using FindRowsFn = std::size_t (*)(const std::uint8_t* query, const std::uint8_t* codes,
                                   std::size_t count, std::size_t code_bytes, unsigned limit,
                                   std::uint64_t first, std::uint64_t* found) noexcept;

// Codes by word: word j of code i is at index j * stride + i. A vector then holds the same word of
// several codes, and no lanes need adding up: worth the copy where many queries follow.
// words: the length of query, 1 to 16. count <= stride.
using FindWordColumnsFn = std::size_t (*)(const std::uint64_t* query,
                                          const std::uint64_t* word_columns, std::size_t stride,
                                          std::size_t count, std::size_t words, unsigned limit,
                                          std::uint64_t first, std::uint64_t* found) noexcept;

// The same for 2 to 16 words and up to kMaxScreenedCodes codes, word by word in the given order (a
// permutation of 0 to words - 1). Reads the next word of a code only if the words so far leave it
// below the limit: learned codes are clustered, and a single word shows that most are far away.
// *screened: whether this saved half of the reading; if not, screening does not pay here.
using FindScreenedFn = std::size_t (*)(const std::uint64_t* query,
                                       const std::uint64_t* word_columns, std::size_t stride,
                                       std::size_t count, std::size_t words,
                                       const std::uint8_t* order, unsigned limit,
                                       std::uint64_t first, std::uint64_t* found,
                                       bool* screened) noexcept;

// Items of several codes, their views: see views.h for the layout.
inline constexpr std::size_t kGroupItems = 32;
inline constexpr std::size_t kMaxViews = 8;

// The distance of an item: weights[0] times the sum over the query's views of the distance to the
// nearest of the item's views, and weights[1] times the sum over the item's views of the distance
// to the nearest of the query's.
struct ViewQuery {
  const std::uint64_t* words;  // (views, words): each 16-bit word, four times
  std::size_t views;           // 1 to kMaxViews
  std::size_t item_views;      // 1 to kMaxViews
  std::size_t words_per_view;  // 1 to 64
  unsigned weights[2];         // each of the two sums, weighted alone, is below 2^16
};

// Items in groups; count of them, of which the last group may hold fewer than 32, but all of it is
// readable. limit: at least 1; distances are below 2^(64 - kIdBits). screen: how many
// words of each view to read first, fewer than words_per_view, and the others only in groups that
// these leave below the limit; 0 reads all at once. *passed: the number of groups read whole.
// first, found: as above; room for count numbers.
using FindViewsFn = std::size_t (*)(const ViewQuery& query, const std::uint16_t* groups,
                                    std::size_t count, unsigned limit, std::size_t screen,
                                    std::uint64_t first, std::uint64_t* found,
                                    std::size_t* passed) noexcept;

// Screening by table, for many queries over the same items: see view_tables.h. Groups are laid out
// anew, two at a time: a column for each index (a few bits) of each view, in which byte 2 * i has
// item i of the first group, and byte 2 * i + 1 item i of the second.
struct ViewTables {
  // (pairs of query views, indexes, 2^index_bits): how many bits of the index differ from the first
  // view of the pair, plus 16 times those from the second. Both at most kMaxTableBits.
  const std::uint8_t* bytes;
  std::size_t indexes;  // of a view
};

// The sum of kTableSum numbers fits half a byte.
inline constexpr std::size_t kTableSum = 3;
inline constexpr unsigned kMaxTableBits = 15 / kTableSum;

// out: room for (group_count + 1) / 2 * views * indexes * 2 * kGroupItems bytes.
using LayOutIndexesFn = void (*)(const std::uint16_t* groups, std::size_t group_count,
                                 std::size_t views, std::size_t words, std::size_t indexes,
                                 std::uint8_t* out) noexcept;

// Writes the numbers of the groups that may hold an item below the limit, ascending, and returns
// how many. read: the indexes of each view to look up, a multiple of kTableSum. near: room for
// group_count + 1.
using NearGroupsFn = std::size_t (*)(const ViewQuery& query, const ViewTables& tables,
                                     const std::uint8_t* indexes, std::size_t group_count,
                                     unsigned limit, std::size_t read,
                                     std::uint16_t* near) noexcept;

// What CPUID and XCR0 report on x86-64: the instructions that the CPU has, and the registers that
// the operating system saves (Intel SDM volume 2A, CPUID; volume 1, chapter 13). Zero elsewhere.
struct CpuBits {
  std::uint32_t leaf1_ecx = 0;
  std::uint32_t leaf7_ebx = 0;
  std::uint32_t leaf7_ecx = 0;
  std::uint32_t xcr0 = 0;
};

inline constexpr std::uint32_t kPopcnt = 1U << 23;     // leaf1_ecx
inline constexpr std::uint32_t kAvx = 1U << 28;        // leaf1_ecx
inline constexpr std::uint32_t kAvx2 = 1U << 5;        // leaf7_ebx
inline constexpr std::uint32_t kAvx512F = 1U << 16;    // leaf7_ebx
inline constexpr std::uint32_t kAvx512Bw = 1U << 30;   // leaf7_ebx
inline constexpr std::uint32_t kVbmi = 1U << 1;        // leaf7_ecx
inline constexpr std::uint32_t kBitalg = 1U << 12;     // leaf7_ecx
inline constexpr std::uint32_t kVpopcntdq = 1U << 14;  // leaf7_ecx
inline constexpr std::uint32_t kYmmState = 0x06;       // xcr0: SSE and AVX state
inline constexpr std::uint32_t kZmmState = 0xe6;       // xcr0: and all AVX-512 state

// kernel_NAME.cpp defines one constant, kernel_NAME, and shows nothing else to the linker. Built
// for another processor, the constant has a name and no functions.
struct Kernel {
  const char* name;
  CpuBits required = {};
  FindRowsFn find_rows = nullptr;
  FindWordColumnsFn find_word_columns = nullptr;
  FindScreenedFn find_screened = nullptr;
  FindViewsFn find_views = nullptr;
  std::size_t index_bits = 0;  // of tables; 0: without them
  LayOutIndexesFn lay_out_indexes = nullptr;
  NearGroupsFn near_groups = nullptr;
};

extern const Kernel kernel_portable;  // also compares the tail that other kernels leave

}  // namespace bitgaze
