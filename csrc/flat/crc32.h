// CRC-32 as in zlib, gzip and PNG.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bitgaze {

// crc: of the bytes before, 0 at the start.
std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t crc = 0);

}  // namespace bitgaze
