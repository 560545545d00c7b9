// What a kernel is: Hamming distances of one query to a run of codes.
//
// Every kernel file is compiled with the flags of its instruction set, so it may define nothing but
// its entry point: an inline function that the linker shared with other files would carry
// instructions that an older CPU does not have. Hence C headers only, here and there.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#define BITGAZE_X86_64
#elif defined(__aarch64__) || defined(_M_ARM64)
#define BITGAZE_AARCH64
#endif

namespace bitgaze {

// query: code_bytes bytes, 1 to 128. codes: count * code_bytes bytes, of any alignment.
// distances: count values, 0 to 8 * code_bytes.
using DistancesFn = void (*)(const std::uint8_t* query, const std::uint8_t* codes,
                             std::size_t count, std::size_t code_bytes,
                             std::uint16_t* distances) noexcept;

void distances_portable(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                        std::size_t code_bytes, std::uint16_t* distances) noexcept;

#if defined(BITGAZE_X86_64)
void distances_avx2(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                    std::size_t code_bytes, std::uint16_t* distances) noexcept;
void distances_avx512(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                      std::size_t code_bytes, std::uint16_t* distances) noexcept;
#endif

#if defined(BITGAZE_AARCH64)
void distances_neon(const std::uint8_t* query, const std::uint8_t* codes, std::size_t count,
                    std::size_t code_bytes, std::uint16_t* distances) noexcept;
#endif

}  // namespace bitgaze
