#include "flat_file.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "bitgaze/bitgaze.hpp"
#include "crc32.h"
#include "hamming/codes.h"
#include "hamming/views.h"

namespace bitgaze {
namespace {

static_assert(std::endian::native == std::endian::little, "flat files are little-endian");

constexpr std::uint8_t kMagic[8] = {0x89, 'B', 'G', 'F', '\r', '\n', 0x1a, '\n'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kFieldBytes = 128;
constexpr std::size_t kEntryBytes = 32;
constexpr std::size_t kNameBytes = 8;
constexpr std::size_t kMaxSections = 64;
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kCrcAt = 12;
constexpr std::size_t kMaxBits = 64 * kMaxWords;

template <typename Number>
Number load(const std::uint8_t* data) {
  Number number;
  std::memcpy(&number, data, sizeof(number));
  return number;
}

std::uint64_t codes_length(std::uint64_t items, std::uint64_t bits, std::uint64_t views) {
  const auto in_blocks = [&](std::uint64_t block) { return (items + block - 1) / block * block; };
  if (views > 1) return in_blocks(kGroupItems) * views * 2 * view_words_of(bits / 8);
  return (lies_by_word(bits / 8) ? in_blocks(kBlockCodes) : items) * bits / 8;
}

}  // namespace

FlatFile::FlatFile(const std::filesystem::path& path) : file_(path) {
  const std::u8string text = path.u8string();
  name_.assign(text.begin(), text.end());
  read_header();
  check_sections();
  offsets_ = section("offsets");
  records_ = section("records");
  if (views_ > 1) boxes_ = section("boxes");
  const auto* const lookup = reinterpret_cast<const std::uint32_t*>(section("lookup").data());
  crcs_ = {lookup, items_};
  slots_ = {lookup + items_, items_};
}

void FlatFile::read_header() {
  const std::uint8_t* const data = file_.data();
  const std::size_t size = file_.size();
  if (size < sizeof(kMagic) || std::memcmp(data, kMagic, sizeof(kMagic)) != 0) {
    throw FileError(name_ +
                    ": is not a flat file; `bitgaze export-flat OUT -g GALLERY` writes one");
  }
  if (size < kFieldBytes) damaged("it is cut off: it has " + std::to_string(size) + " bytes");
  const auto version = load<std::uint32_t>(data + 8);
  if (version > kVersion) {
    throw FileError(name_ + ": has version " + std::to_string(version) +
                    " of the flat file, but this version of bitgaze reads up to " +
                    std::to_string(kVersion) + "; update bitgaze, or export it again");
  }
  const auto file_bytes = load<std::uint64_t>(data + 24);
  if (size != file_bytes) {
    damaged("it has " + std::to_string(size) + " bytes, expected " + std::to_string(file_bytes) +
            ": it was not copied completely");
  }
  const std::size_t count = load<std::uint32_t>(data + 20);
  header_bytes_ = load<std::uint32_t>(data + 16);
  if (version < 1 || count > kMaxSections || header_bytes_ != kFieldBytes + count * kEntryBytes ||
      header_bytes_ > size) {
    damaged("its header has " + std::to_string(header_bytes_) + " bytes and " +
            std::to_string(count) + " sections");
  }
  const std::uint8_t zeros[4] = {};
  std::uint32_t crc = crc32(data, kCrcAt);
  crc = crc32(zeros, 4, crc);
  crc = crc32(data + kCrcAt + 4, header_bytes_ - kCrcAt - 4, crc);
  if (crc != load<std::uint32_t>(data + kCrcAt)) damaged("the header's checksum does not match");

  const auto items = load<std::uint64_t>(data + 32);
  bits_ = load<std::uint32_t>(data + 40);
  views_ = load<std::uint32_t>(data + 44);
  if (items > 0xffffffff || bits_ < 8 || bits_ > kMaxBits || bits_ % 8 != 0 || views_ < 1 ||
      views_ > kMaxViews) {
    damaged("it claims " + std::to_string(items) + " items of " + std::to_string(views_) +
            " codes of " + std::to_string(bits_) + " bits");
  }
  items_ = static_cast<std::size_t>(items);
  std::memcpy(model_.data(), data + 48, 32);
  is_adapted_ = std::any_of(data + 80, data + 112, [](std::uint8_t byte) { return byte != 0; });

  std::uint64_t end = header_bytes_;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t* const entry = data + kFieldBytes + i * kEntryBytes;
    const auto* const name = reinterpret_cast<const char*>(entry);
    std::string text(name, kNameBytes);
    text.erase(text.find_last_not_of('\0') + 1);
    const auto offset = load<std::uint64_t>(entry + 8);
    const auto length = load<std::uint64_t>(entry + 16);
    if (offset < end || offset > file_bytes || length > file_bytes - offset) {
      damaged("sections overlap, or lie beyond the end of the file");
    }
    if (offset % kAlignment != 0) damaged("section " + text + " is not aligned");
    if (find_section(text) != nullptr) damaged("two sections are named " + text);
    end = offset + length;
    sections_.push_back({std::move(text), static_cast<std::size_t>(offset),
                         static_cast<std::size_t>(length), load<std::uint32_t>(entry + 24)});
  }
  if (end != file_bytes) damaged("it does not end with its last section");
}

void FlatFile::check_sections() const {
  for (const std::string_view name : {"info", "records"}) {
    if (find_section(name) == nullptr) damaged("there is no section " + std::string(name));
  }
  check_length("codes", codes_length(items_, bits_, views_));
  check_length("offsets", 8 * (std::uint64_t{items_} + 1));
  check_length("lookup", 8 * std::uint64_t{items_});
  if (views_ > 1) check_length("boxes", 8 * std::uint64_t{items_} * (views_ - 1));
  if (is_adapted_) check_length("adapt", 4 * bits_ * (bits_ + 1));
}

void FlatFile::check_length(std::string_view name, std::uint64_t length) const {
  const Section* const found = find_section(name);
  if (found == nullptr) damaged("there is no section " + std::string(name));
  if (found->length != length) {
    damaged("section " + std::string(name) + " has " + std::to_string(found->length) +
            " bytes, expected " + std::to_string(length));
  }
}

const FlatFile::Section* FlatFile::find_section(std::string_view name) const {
  for (const Section& section : sections_) {
    if (section.name == name) return &section;
  }
  return nullptr;
}

std::span<const std::uint8_t> FlatFile::section(std::string_view name) const {
  const Section* const found = find_section(name);
  return {file_.data() + found->offset, found->length};
}

std::span<const std::uint8_t> FlatFile::checked(std::string_view name) const {
  const std::span<const std::uint8_t> bytes = section(name);
  if (crc32(bytes.data(), bytes.size()) != find_section(name)->crc) {
    damaged("section " + std::string(name) + ": its bytes do not match their checksum");
  }
  return bytes;
}

FlatFile::Record FlatFile::record(std::size_t slot) const {
  const auto start = load<std::uint64_t>(offsets_.data() + 8 * slot);
  const auto end = load<std::uint64_t>(offsets_.data() + 8 * slot + 8);
  if (start > end || end > records_.size() || end - start < 4) {
    damaged("the record of item " + std::to_string(slot) + ": from byte " + std::to_string(start) +
            " to " + std::to_string(end) + " of " + std::to_string(records_.size()));
  }
  const std::string_view text(reinterpret_cast<const char*>(records_.data()) + start + 4,
                              end - start - 4);
  const auto key_bytes = load<std::uint32_t>(records_.data() + start);
  if (key_bytes > text.size()) {
    damaged("the record of item " + std::to_string(slot) + ": a key of " +
            std::to_string(key_bytes) + " bytes in " + std::to_string(text.size()));
  }
  return {text.substr(0, key_bytes), text.substr(key_bytes)};
}

std::optional<std::size_t> FlatFile::find(std::string_view key) const {
  const std::uint32_t crc = crc32(reinterpret_cast<const std::uint8_t*>(key.data()), key.size());
  auto at = std::lower_bound(crcs_.begin(), crcs_.end(), crc);
  for (; at != crcs_.end() && *at == crc; ++at) {
    const std::uint32_t slot = slots_[static_cast<std::size_t>(at - crcs_.begin())];
    if (slot >= items_) damaged("the lookup names item " + std::to_string(slot));
    if (record(slot).key == key) return slot;
  }
  return std::nullopt;
}

std::array<std::uint16_t, 4> FlatFile::box(std::size_t slot, std::size_t view) const {
  std::array<std::uint16_t, 4> box;
  std::memcpy(box.data(), boxes_.data() + 8 * (slot * (views_ - 1) + view - 1), 8);
  return box;
}

std::vector<std::string> FlatFile::problems() const {
  std::vector<std::string> problems;
  std::size_t end = header_bytes_;
  for (const Section& section : sections_) {
    const std::uint8_t* const data = file_.data();
    if (std::any_of(data + end, data + section.offset, [](std::uint8_t b) { return b != 0; })) {
      problems.push_back("the gap before section " + section.name + ": is not zeros");
    }
    if (crc32(data + section.offset, section.length) != section.crc) {
      problems.push_back("section " + section.name + ": its bytes do not match their checksum");
    }
    end = section.offset + section.length;
  }
  if (!problems.empty()) return problems;
  // A file with right checksums can still be made wrong.
  std::vector<bool> seen(items_);
  for (std::size_t i = 0; i < items_; ++i) {
    try {
      record(i);
      const std::size_t slot = slots_[i];
      if (slot >= items_ || seen[slot] || (i > 0 && crcs_[i] < crcs_[i - 1])) {
        problems.push_back("section lookup: is not sorted, or does not name each item once");
        return problems;
      }
      seen[slot] = true;
      const std::string_view key = record(slot).key;
      if (crc32(reinterpret_cast<const std::uint8_t*>(key.data()), key.size()) != crcs_[i]) {
        problems.push_back("section lookup: a checksum is not that of its key");
        return problems;
      }
    } catch (const DamagedFile& error) {
      problems.push_back(error.what());
      return problems;
    }
  }
  return problems;
}

void FlatFile::damaged(const std::string& what) const {
  throw DamagedFile(name_ + ": is damaged: " + what + "; export it again");
}

}  // namespace bitgaze
