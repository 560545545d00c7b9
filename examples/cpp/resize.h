// Resizes an image to a model's input, to the bit as bitgaze does in Python, by way of Pillow:
// first means of whole cells, down to twice the size, then bicubic interpolation in integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

struct Image {
  std::size_t width;
  std::size_t height;
  std::vector<std::uint8_t> pixels;  // RGB, row by row
};

namespace resize_detail {

constexpr double kGap = 2.0;
constexpr int kPrecision = 22;  // bits after the point

// The mean of each cell of factor_x by factor_y pixels; those at the edges may be smaller.
inline Image reduced(const Image& image, std::size_t factor_x, std::size_t factor_y) {
  Image out{(image.width + factor_x - 1) / factor_x, (image.height + factor_y - 1) / factor_y, {}};
  out.pixels.resize(3 * out.width * out.height);
  for (std::size_t y = 0; y < out.height; ++y) {
    const std::size_t bottom = std::min((y + 1) * factor_y, image.height);
    for (std::size_t x = 0; x < out.width; ++x) {
      const std::size_t right = std::min((x + 1) * factor_x, image.width);
      const auto area =
          static_cast<std::uint32_t>((bottom - y * factor_y) * (right - x * factor_x));
      // As Pillow divides: by multiplication, in 32 bits.
      const auto inverse =
          static_cast<std::uint32_t>(4294967296.0F / static_cast<float>(256 * area));
      for (std::size_t channel = 0; channel < 3; ++channel) {
        std::uint32_t sum = area / 2;
        for (std::size_t row = y * factor_y; row < bottom; ++row) {
          for (std::size_t column = x * factor_x; column < right; ++column) {
            sum += image.pixels[3 * (row * image.width + column) + channel];
          }
        }
        out.pixels[3 * (y * out.width + x) + channel] =
            static_cast<std::uint8_t>(sum * inverse >> 24);
      }
    }
  }
  return out;
}

inline double bicubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1) return ((kA + 2) * x - (kA + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * kA;
  return 0;
}

// For a pixel of the output: the first pixel of the input that counts, and the weights from there.
struct Weights {
  std::size_t first;
  std::vector<std::int32_t> weights;
};

// span: how much of the input, from its start, the output shows.
inline std::vector<Weights> weights_of(std::size_t input, float span, std::size_t output) {
  const double scale = static_cast<double>(span) / static_cast<double>(output);
  const double filter_scale = std::max(scale, 1.0);
  const double support = 2 * filter_scale;
  std::vector<Weights> all;
  for (std::size_t x = 0; x < output; ++x) {
    const double centre = (static_cast<double>(x) + 0.5) * scale;
    const int first = std::max(static_cast<int>(centre - support + 0.5), 0);
    const int last = std::min(static_cast<int>(centre + support + 0.5), static_cast<int>(input));
    std::vector<double> values;
    double sum = 0;
    for (int i = first; i < last; ++i) {
      values.push_back(bicubic((i - centre + 0.5) * (1 / filter_scale)));
      sum += values.back();
    }
    Weights weights{static_cast<std::size_t>(first), {}};
    for (double value : values) {
      if (sum != 0) value /= sum;
      value *= 1 << kPrecision;
      weights.weights.push_back(static_cast<std::int32_t>(value < 0 ? value - 0.5 : value + 0.5));
    }
    all.push_back(std::move(weights));
  }
  return all;
}

// Resizes rows to another width and swaps rows with columns; twice resizes both.
inline Image across(const Image& image, float span, std::size_t width) {
  const std::vector<Weights> all = weights_of(image.width, span, width);
  Image out{image.height, width, std::vector<std::uint8_t>(3 * image.height * width)};
  for (std::size_t y = 0; y < image.height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      const std::uint8_t* const from = image.pixels.data() + 3 * (y * image.width + all[x].first);
      for (std::size_t channel = 0; channel < 3; ++channel) {
        std::int32_t sum = 1 << (kPrecision - 1);
        for (std::size_t i = 0; i < all[x].weights.size(); ++i) {
          sum += from[3 * i + channel] * all[x].weights[i];
        }
        out.pixels[3 * (x * image.height + y) + channel] =
            static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255));
      }
    }
  }
  return out;
}

inline Image transposed(const Image& image) {
  Image out{image.height, image.width, std::vector<std::uint8_t>(image.pixels.size())};
  for (std::size_t y = 0; y < image.height; ++y) {
    for (std::size_t x = 0; x < image.width; ++x) {
      std::copy_n(image.pixels.data() + 3 * (y * image.width + x), 3,
                  out.pixels.data() + 3 * (x * image.height + y));
    }
  }
  return out;
}

}  // namespace resize_detail

inline Image resized(const Image& image, std::size_t size) {
  using namespace resize_detail;
  if (image.width == size && image.height == size) return image;
  const auto factor = [&](std::size_t length) {
    return std::max<std::size_t>(
        static_cast<std::size_t>(static_cast<double>(length) / static_cast<double>(size) / kGap),
        1);
  };
  const std::size_t factor_x = factor(image.width);
  const std::size_t factor_y = factor(image.height);
  const bool shrinks = factor_x > 1 || factor_y > 1;
  const Image& cells = shrinks ? reduced(image, factor_x, factor_y) : image;
  const auto span = [](std::size_t length, std::size_t by) {
    return static_cast<float>(static_cast<double>(length) / static_cast<double>(by));
  };
  const float width = span(image.width, factor_x);
  const float height = span(image.height, factor_y);
  // The height goes first where that shrinks the image most, as in resizing.py: the order can
  // change a pixel by a few steps, and a code by a bit.
  if (cells.height > size && cells.height + 2 * size > 2 * cells.width + size) {
    return transposed(across(across(transposed(cells), height, size), width, size));
  }
  return across(across(cells, width, size), height, size);
}
