#include "mapped_file.h"

#include <string>
#include <system_error>

#include "bitgaze/bitgaze.hpp"

#if defined(_WIN32)
#define NOMINMAX
#include <windows.h>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace bitgaze {
namespace {

std::string text_of(const std::filesystem::path& path) {
  const std::u8string text = path.u8string();
  return {text.begin(), text.end()};
}

[[noreturn]] void fail(const std::filesystem::path& path, int error) {
  throw FileError(text_of(path) + ": " + std::system_category().message(error));
}

}  // namespace

#if defined(_WIN32)

MappedFile::MappedFile(const std::filesystem::path& path) {
  // Shared for deletion, so that a new export can take the file's name.
  const HANDLE file = CreateFileW(path.c_str(), GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE,
                                  nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) fail(path, static_cast<int>(GetLastError()));
  LARGE_INTEGER size;
  HANDLE mapping = nullptr;
  DWORD error = 0;
  if (!GetFileSizeEx(file, &size)) {
    error = GetLastError();
  } else if (size.QuadPart > 0) {
    size_ = static_cast<std::size_t>(size.QuadPart);
    mapping = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
    if (mapping != nullptr) {
      data_ = static_cast<const std::uint8_t*>(MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0));
    }
    if (data_ == nullptr) error = GetLastError();
  }
  if (mapping != nullptr) CloseHandle(mapping);
  CloseHandle(file);
  if (error != 0) fail(path, static_cast<int>(error));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) UnmapViewOfFile(data_);
}

#else

MappedFile::MappedFile(const std::filesystem::path& path) {
  // Not to wait for the other end of a pipe.
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) fail(path, errno);
  struct stat status;
  int error = 0;
  bool is_file = true;
  if (fstat(file, &status) != 0) {
    error = errno;
  } else if (!S_ISREG(status.st_mode)) {
    is_file = false;
  } else if (status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    void* const data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file, 0);
    if (data == MAP_FAILED) {
      error = errno;
    } else {
      data_ = static_cast<const std::uint8_t*>(data);
    }
  }
  close(file);
  if (!is_file) throw FileError(text_of(path) + ": is not a file");
  if (error != 0) fail(path, error);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::uint8_t*>(data_), size_);
}

#endif

}  // namespace bitgaze
