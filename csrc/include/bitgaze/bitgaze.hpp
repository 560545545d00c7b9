// Find the images nearest to an image in a flat file, which `bitgaze export-flat` writes.
//
//   bitgaze::FlatGallery gallery("photos.flat");
//   for (const bitgaze::Hit& hit : gallery.search(gallery.codes(0), {.k = 5})) {
//     std::cout << hit.distance << " " << gallery.key(hit.slot) << "\n";
//   }
//
// CMake: find_package(bitgaze REQUIRED), target_link_libraries(... bitgaze::bitgaze). C++20; needs
// no Python. Guide: docs/guide-cpp.md. C and other languages: bitgaze.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "bitgaze/bitgaze.h"  // BITGAZE_API

namespace bitgaze {

// A file that cannot be opened: missing, not a flat file, or of a newer version. Wrong arguments
// are std::invalid_argument, a slot that does not exist is std::out_of_range.
class BITGAZE_API FileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A flat file whose contents are damaged.
class BITGAZE_API DamagedFile : public FileError {
 public:
  using FileError::FileError;
};

// A part of an image, in [0, 1] of the upright image.
struct Box {
  float left, top, right, bottom;
};

struct Hit {
  std::size_t slot;  // the item's number, 0 to size() - 1
  double distance;   // in bits: 0 to bits(); with views a mean, see FlatGallery::search
};

// The views of a query and an item that are nearest to each other; 0 is the whole image.
struct Match {
  std::size_t query_view;
  std::size_t item_view;
};

struct SearchOptions {
  std::size_t k = 10;                                       // maximum number of hits, at least 1
  double radius = std::numeric_limits<double>::infinity();  // maximum distance, at least 0
  // Which items may be found: bit i % 8 of byte i / 8 allows slot i. What it is too short for is
  // left out.
  std::optional<std::span<const std::uint8_t>> filter = std::nullopt;
  std::optional<std::size_t> exclude = std::nullopt;  // a slot to leave out
  unsigned threads = 0;                               // maximum; 0: one per core
};

// A flat file, mapped into memory and searched there: opening it reads the header, whatever the
// number of items, and processes that have it open share its memory. Any number of threads may use
// an object. Keys, metadata and codes are checked when they are read, and throw DamagedFile.
class BITGAZE_API FlatGallery {
 public:
  // Throws FileError.
  explicit FlatGallery(const std::filesystem::path& path);
  ~FlatGallery();
  FlatGallery(FlatGallery&&) noexcept;
  FlatGallery& operator=(FlatGallery&&) noexcept;

  std::size_t size() const noexcept;   // number of items
  std::size_t bits() const noexcept;   // length of a code
  std::size_t views() const noexcept;  // codes of an item: the whole image, then its looks

  // Fingerprint of the model that made the codes, 64 hex digits; empty for codes of your own. Only
  // codes of the same model can be compared.
  std::string model() const;
  // A JSON object: name of the model, calibration.
  std::string_view info() const;

  // UTF-8; valid as long as this object.
  std::string_view key(std::size_t slot) const;
  // A JSON object.
  std::string_view metadata(std::size_t slot) const;
  // The slot of a key, if there is one.
  std::optional<std::size_t> find(std::string_view key) const;
  // The codes of an item, one view after the other: views() * bits() / 8 bytes.
  std::vector<std::uint8_t> codes(std::size_t slot) const;
  // Where a view of an item is; none for the whole image, which free places for looks repeat.
  std::optional<Box> box(std::size_t slot, std::size_t view) const;

  // The code of an image, or of a look at it, from the model's output `hash`, bits() numbers. Use
  // this rather than the output `code`: a gallery can be adapted to its images.
  std::vector<std::uint8_t> code_of(std::span<const float> hash) const;

  // The items nearest to a query, by distance and then slot; exact. query: the codes of an image
  // and of its looks, 1 to 8 views of bits() / 8 bytes each; one view if views() is 1. With one
  // view on both sides, the distance is the number of bits that differ; else the mean, of both
  // directions, of the mean distance of each view to the nearest of the other side.
  std::vector<Hit> search(std::span<const std::uint8_t> query,
                          const SearchOptions& options = {}) const;
  // The same for many queries of equally many views, one after the other; faster than one by one.
  std::vector<std::vector<Hit>> search_many(std::span<const std::uint8_t> queries,
                                            std::size_t query_views,
                                            const SearchOptions& options = {}) const;
  // Where an item matches a query best: box(slot, match(...).item_view).
  Match match(std::span<const std::uint8_t> query, std::size_t slot) const;

  // Compares every byte with its checksum; a sentence for each thing that is damaged.
  std::vector<std::string> verify() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The kernel that searches use here: portable, avx2, avx512 or neon. The environment variable
// BITGAZE_SIMD chooses another.
BITGAZE_API std::string_view simd();

}  // namespace bitgaze
