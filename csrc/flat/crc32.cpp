#include "crc32.h"

#include <array>
#include <cstring>

namespace bitgaze {
namespace {

// Eight bytes at a time (M. E. Kounavis and F. L. Berry, "A systematic approach to building high
// performance software-based CRC generators", ISCC 2005): table j is that of a byte followed by j
// zeros.
constexpr auto kTables = [] {
  std::array<std::array<std::uint32_t, 256>, 8> tables{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320U : 0);
    tables[0][byte] = crc;
  }
  for (std::size_t j = 1; j < 8; ++j) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = tables[j - 1][byte];
      tables[j][byte] = before >> 8 ^ tables[0][before & 255];
    }
  }
  return tables;
}();

}  // namespace

std::uint32_t crc32(const std::uint8_t* data, std::size_t size, std::uint32_t crc) {
  crc = ~crc;
  for (; size >= 8; data += 8, size -= 8) {
    std::uint32_t low;
    std::uint32_t high;
    std::memcpy(&low, data, 4);
    std::memcpy(&high, data + 4, 4);
    low ^= crc;
    crc = 0;
    for (unsigned j = 0; j < 4; ++j) {
      crc ^= kTables[7 - j][low >> 8 * j & 255] ^ kTables[3 - j][high >> 8 * j & 255];
    }
  }
  for (; size > 0; ++data, --size) crc = crc >> 8 ^ kTables[0][(crc ^ *data) & 255];
  return ~crc;
}

}  // namespace bitgaze
