// Find the images of a flat file that look like one of them.
//
//   search photos.flat KEY [K [TEXT]]    the K nearest; only those whose keys contain TEXT

#include <bitgaze/bitgaze.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace {

int run(int count, char** arguments) {
  const bitgaze::FlatGallery gallery(arguments[1]);
  const auto slot = gallery.find(arguments[2]);
  if (!slot) {
    std::fprintf(stderr, "%s holds no item %s\n", arguments[1], arguments[2]);
    return 1;
  }

  bitgaze::SearchOptions options;
  options.exclude = *slot;
  if (count > 3) options.k = std::strtoul(arguments[3], nullptr, 10);
  std::vector<std::uint8_t> allowed((gallery.size() + 7) / 8);
  if (count > 4) {
    for (std::size_t i = 0; i < gallery.size(); ++i) {
      if (gallery.key(i).find(arguments[4]) != std::string_view::npos) {
        allowed[i / 8] = static_cast<std::uint8_t>(allowed[i / 8] | 1U << i % 8);
      }
    }
    options.filter = allowed;
  }

  const std::vector<std::uint8_t> query = gallery.codes(*slot);
  for (const bitgaze::Hit& hit : gallery.search(query, options)) {
    const std::string key(gallery.key(hit.slot));
    const std::string metadata(gallery.metadata(hit.slot));
    std::printf("%zu\t%.17g\t%s\t%s", hit.slot, hit.distance, key.c_str(), metadata.c_str());
    const bitgaze::Match match = gallery.match(query, hit.slot);
    if (const auto box = gallery.box(hit.slot, match.item_view)) {
      std::printf("\t%.9g %.9g %.9g %.9g", static_cast<double>(box->left),
                  static_cast<double>(box->top), static_cast<double>(box->right),
                  static_cast<double>(box->bottom));
    }
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3 || count > 5) {
    std::fprintf(stderr, "usage: search FILE KEY [K [TEXT]]\n");
    return 2;
  }
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
