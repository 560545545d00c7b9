// Search a flat file with an image that is not in it: run the model with onnxruntime's C++ API.
//
//   encode general.onnx photos.flat image.ppm [K]
//
// The image is a binary PPM (P6), upright; `magick photo.jpg image.ppm` makes one. A program has
// its own decoder. Its code is that of the whole image, compared with all views of each item; looks
// at the image (docs/model-file.md says how they are chosen) would be encoded in the same way.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <bitgaze/bitgaze.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>

#include "resize.h"

namespace {

Image read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  std::size_t width = 0;
  std::size_t height = 0;
  std::size_t most = 0;
  file >> magic >> width >> height >> most;
  if (!file || magic != "P6" || most != 255 || width == 0 || height == 0 || width > 100000 ||
      height > 100000) {
    throw std::runtime_error(std::string(path) + ": not a binary PPM with 8 bits");
  }
  file.get();
  Image image{width, height, {}};
  image.pixels.assign(std::istreambuf_iterator<char>(file), {});
  if (image.pixels.size() != 3 * width * height) {
    throw std::runtime_error(std::string(path) + ": is cut off");
  }
  return image;
}

// The hash values of an image.
std::vector<float> hash_of(Ort::Session& session, const Image& image) {
  const std::vector<std::int64_t> shape =
      session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();  // N, size, size, 3
  const auto size = static_cast<std::size_t>(shape[1]);
  Image input = resized(image, size);
  const std::array<std::int64_t, 4> one = {1, shape[1], shape[2], 3};
  const Ort::Value tensor = Ort::Value::CreateTensor<std::uint8_t>(
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), input.pixels.data(),
      input.pixels.size(), one.data(), one.size());
  const char* const inputs[] = {"image"};
  const char* const outputs[] = {"hash"};
  const std::vector<Ort::Value> found =
      session.Run(Ort::RunOptions(nullptr), inputs, &tensor, 1, outputs, 1);
  const float* const values = found[0].GetTensorData<float>();
  return {values, values + found[0].GetTensorTypeAndShapeInfo().GetElementCount()};
}

int run(int count, char** arguments) {
  const Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "bitgaze");
  Ort::SessionOptions session_options;
  Ort::Session session(env, std::filesystem::path(arguments[1]).c_str(), session_options);
  const bitgaze::FlatGallery gallery(arguments[2]);
  const std::vector<std::uint8_t> code = gallery.code_of(hash_of(session, read_ppm(arguments[3])));
  for (const std::uint8_t byte : code) std::printf("%02x", byte);
  std::printf("\n");
  bitgaze::SearchOptions options;
  if (count > 4) options.k = std::strtoul(arguments[4], nullptr, 10);
  for (const bitgaze::Hit& hit : gallery.search(code, options)) {
    const std::string key(gallery.key(hit.slot));
    std::printf("%zu\t%.17g\t%s\n", hit.slot, hit.distance, key.c_str());
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 4 || count > 5) {
    std::fprintf(stderr, "usage: encode MODEL FILE IMAGE.ppm [K]\n");
    return 2;
  }
  try {
    return run(count, arguments);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
