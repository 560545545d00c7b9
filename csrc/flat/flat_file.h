// The parts of a flat file, checked before they are read; docs/flat-file.md specifies it.
//
// Nothing in the file, whatever it is, leads to a read outside of it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "mapped_file.h"

namespace bitgaze {

class FlatFile {
 public:
  // Reads the header. Throws FileError and DamagedFile.
  explicit FlatFile(const std::filesystem::path& path);

  std::size_t items() const { return items_; }
  std::size_t bits() const { return bits_; }
  std::size_t views() const { return views_; }
  std::span<const std::uint8_t, 32> model() const { return std::span(model_); }
  bool is_adapted() const { return is_adapted_; }

  // The bytes of a section that the header says is there.
  std::span<const std::uint8_t> section(std::string_view name) const;
  // The same, if its checksum matches; for small ones. Throws DamagedFile.
  std::span<const std::uint8_t> checked(std::string_view name) const;

  struct Record {
    std::string_view key;
    std::string_view metadata;
  };
  // slot < items(). Throws DamagedFile.
  Record record(std::size_t slot) const;
  std::optional<std::size_t> find(std::string_view key) const;
  // slot < items(), 1 <= view < views(). In 1/65535.
  std::array<std::uint16_t, 4> box(std::size_t slot, std::size_t view) const;

  std::vector<std::string> problems() const;

 private:
  struct Section {
    std::string name;
    std::size_t offset;
    std::size_t length;
    std::uint32_t crc;
  };

  const Section* find_section(std::string_view name) const;
  void read_header();
  void check_sections() const;
  void check_length(std::string_view name, std::uint64_t length) const;
  [[noreturn]] void damaged(const std::string& what) const;

  MappedFile file_;
  std::string name_;
  std::size_t header_bytes_ = 0;
  std::size_t items_ = 0;
  std::size_t bits_ = 0;
  std::size_t views_ = 0;
  std::array<std::uint8_t, 32> model_{};
  bool is_adapted_ = false;
  std::vector<Section> sections_;
  std::span<const std::uint8_t> offsets_;
  std::span<const std::uint8_t> records_;
  std::span<const std::uint8_t> boxes_;
  std::span<const std::uint32_t> crcs_;  // of keys, ascending
  std::span<const std::uint32_t> slots_;
};

}  // namespace bitgaze
