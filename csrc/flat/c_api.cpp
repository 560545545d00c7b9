// The C interface: handles and status codes around FlatGallery.

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

#include "bitgaze/bitgaze.h"
#include "bitgaze/bitgaze.hpp"

struct bitgaze_gallery {
  bitgaze::FlatGallery flat;
};

namespace {

thread_local std::string last_error;

bitgaze_status failed(bitgaze_status status, const char* what) noexcept {
  try {
    last_error = what;
  } catch (...) {
    last_error.clear();
  }
  return status;
}

// Runs work; turns what it throws into a status.
template <typename Work>
bitgaze_status guarded(const Work& work) noexcept {
  try {
    return work();
  } catch (const bitgaze::DamagedFile& error) {
    return failed(BITGAZE_DAMAGED, error.what());
  } catch (const bitgaze::FileError& error) {
    return failed(BITGAZE_CANNOT_OPEN, error.what());
  } catch (const std::logic_error& error) {  // std::invalid_argument, std::out_of_range
    return failed(BITGAZE_INVALID_ARGUMENT, error.what());
  } catch (const std::exception& error) {
    return failed(BITGAZE_FAILED, error.what());
  } catch (...) {
    return failed(BITGAZE_FAILED, "an unknown error");
  }
}

template <typename... Pointer>
void check_given(Pointer... pointers) {
  if (((pointers == nullptr) || ...)) throw std::invalid_argument("an argument is NULL");
}

bitgaze_status give(std::string_view text, const char** out, size_t* bytes) {
  *out = text.data();
  *bytes = text.size();
  return BITGAZE_OK;
}

std::span<const std::uint8_t> query_of(const bitgaze_gallery* gallery, const uint8_t* query,
                                       uint32_t views) {
  if (views < 1 || views > 8) {
    throw std::invalid_argument("a query has " + std::to_string(views) + " views, expected 1 to 8");
  }
  return {query, views * (gallery->flat.bits() / 8)};
}

}  // namespace

const char* bitgaze_error(void) { return last_error.c_str(); }

bitgaze_status bitgaze_open(const char* path, bitgaze_gallery** gallery) {
  return guarded([&] {
    check_given(path, gallery);
    *gallery = nullptr;
    const std::u8string utf8(path, path + std::strlen(path));
    *gallery = new bitgaze_gallery{bitgaze::FlatGallery(std::filesystem::path(utf8))};
    return BITGAZE_OK;
  });
}

void bitgaze_close(bitgaze_gallery* gallery) { delete gallery; }

uint64_t bitgaze_size(const bitgaze_gallery* gallery) { return gallery->flat.size(); }

uint32_t bitgaze_bits(const bitgaze_gallery* gallery) {
  return static_cast<uint32_t>(gallery->flat.bits());
}

uint32_t bitgaze_views(const bitgaze_gallery* gallery) {
  return static_cast<uint32_t>(gallery->flat.views());
}

bitgaze_status bitgaze_model(const bitgaze_gallery* gallery, char fingerprint[65]) {
  return guarded([&] {
    check_given(gallery, fingerprint);
    const std::string model = gallery->flat.model();
    std::memcpy(fingerprint, model.c_str(), model.size() + 1);
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_key(const bitgaze_gallery* gallery, uint64_t slot, const char** key,
                           size_t* bytes) {
  return guarded([&] {
    check_given(gallery, key, bytes);
    return give(gallery->flat.key(slot), key, bytes);
  });
}

bitgaze_status bitgaze_metadata(const bitgaze_gallery* gallery, uint64_t slot, const char** json,
                                size_t* bytes) {
  return guarded([&] {
    check_given(gallery, json, bytes);
    return give(gallery->flat.metadata(slot), json, bytes);
  });
}

bitgaze_status bitgaze_find(const bitgaze_gallery* gallery, const char* key, size_t bytes,
                            uint64_t* slot) {
  return guarded([&] {
    check_given(gallery, key, slot);
    const std::optional<std::size_t> found = gallery->flat.find({key, bytes});
    if (!found) return failed(BITGAZE_NOT_FOUND, "no item has this key");
    *slot = *found;
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_codes(const bitgaze_gallery* gallery, uint64_t slot, uint8_t* codes) {
  return guarded([&] {
    check_given(gallery, codes);
    std::ranges::copy(gallery->flat.codes(slot), codes);
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_box(const bitgaze_gallery* gallery, uint64_t slot, uint32_t view,
                           float box[4]) {
  return guarded([&] {
    check_given(gallery, box);
    const bitgaze::Box found = gallery->flat.box(slot, view).value_or(bitgaze::Box{0, 0, 1, 1});
    box[0] = found.left;
    box[1] = found.top;
    box[2] = found.right;
    box[3] = found.bottom;
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_code_of(const bitgaze_gallery* gallery, const float* hash, uint8_t* code) {
  return guarded([&] {
    check_given(gallery, hash, code);
    std::ranges::copy(gallery->flat.code_of({hash, gallery->flat.bits()}), code);
    return BITGAZE_OK;
  });
}

bitgaze_options bitgaze_default_options(void) { return {10, -1, nullptr, 0, -1, 0}; }

bitgaze_status bitgaze_search(const bitgaze_gallery* gallery, const uint8_t* query,
                              uint32_t query_views, const bitgaze_options* options,
                              bitgaze_hit* hits, uint64_t* count) {
  return guarded([&] {
    check_given(gallery, query, hits, count);
    const bitgaze_options asked = options == nullptr ? bitgaze_default_options() : *options;
    bitgaze::SearchOptions given;
    given.k = asked.k;
    if (!(asked.radius < 0)) given.radius = asked.radius;
    if (asked.filter != nullptr) given.filter = {asked.filter, asked.filter_bytes};
    if (asked.exclude >= 0) given.exclude = static_cast<std::size_t>(asked.exclude);
    given.threads = asked.threads;
    const std::vector<bitgaze::Hit> found =
        gallery->flat.search(query_of(gallery, query, query_views), given);
    std::ranges::transform(
        found, hits, [](const bitgaze::Hit& hit) { return bitgaze_hit{hit.slot, hit.distance}; });
    *count = found.size();
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_match(const bitgaze_gallery* gallery, const uint8_t* query,
                             uint32_t query_views, uint64_t slot, uint32_t* query_view,
                             uint32_t* item_view) {
  return guarded([&] {
    check_given(gallery, query, query_view, item_view);
    const bitgaze::Match match = gallery->flat.match(query_of(gallery, query, query_views), slot);
    *query_view = static_cast<uint32_t>(match.query_view);
    *item_view = static_cast<uint32_t>(match.item_view);
    return BITGAZE_OK;
  });
}

bitgaze_status bitgaze_verify(const bitgaze_gallery* gallery) {
  return guarded([&] {
    check_given(gallery);
    const std::vector<std::string> problems = gallery->flat.verify();
    if (!problems.empty()) return failed(BITGAZE_DAMAGED, problems.front().c_str());
    return BITGAZE_OK;
  });
}
