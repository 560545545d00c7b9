// Opens files that may be damaged and calls everything: an error must be an exception, and nothing
// may be read outside the file, which sanitizers notice. Prints a line per file: what open threw,
// or the number of problems that verify found.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "bitgaze/bitgaze.hpp"

namespace {

template <typename Call>
void attempt(const Call& call) {
  try {
    call();
  } catch (const bitgaze::DamagedFile&) {
  }
}

void use(const bitgaze::FlatGallery& gallery) {
  const std::size_t code_bytes = gallery.bits() / 8;
  for (std::size_t slot = 0; slot < gallery.size(); ++slot) {
    attempt([&] { (void)gallery.find(std::string(gallery.key(slot)) + " "); });
    attempt([&] { (void)gallery.find(gallery.key(slot)); });
    attempt([&] { (void)gallery.metadata(slot).size(); });
    const std::vector<std::uint8_t> codes = gallery.codes(slot);
    (void)gallery.match(codes, slot);
    for (std::size_t view = 0; view < gallery.views(); ++view) (void)gallery.box(slot, view);
  }
  attempt([&] { (void)gallery.info(); });
  attempt([&] { (void)gallery.code_of(std::vector<float>(gallery.bits())); });
  const std::vector<std::uint8_t> query(gallery.views() * code_bytes);
  const std::vector<std::uint8_t> filter = {0x55};
  for (const std::size_t k : {std::size_t{1}, std::size_t{1000}}) {
    (void)gallery.search(query, {.k = k, .threads = 2});
    (void)gallery.search(query, {.k = k, .radius = 3});
    (void)gallery.search(query, {.k = k, .filter = filter});
  }
}

}  // namespace

int main(int count, char** arguments) {
  for (int i = 1; i < count; ++i) {
    try {
      const bitgaze::FlatGallery gallery(arguments[i]);
      use(gallery);
      std::printf("%zu problems\n", gallery.verify().size());
    } catch (const bitgaze::DamagedFile&) {
      std::printf("damaged\n");
    } catch (const bitgaze::FileError&) {
      std::printf("no flat file\n");
    }
  }
  return 0;
}
