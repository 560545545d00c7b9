// A file mapped into memory, to be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>

namespace bitgaze {

class MappedFile {
 public:
  // Throws FileError if the path is not that of a file that can be read.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::uint8_t* data() const { return data_; }  // starts on a page; null if size() is 0
  std::size_t size() const { return size_; }

 private:
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace bitgaze
