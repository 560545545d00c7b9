// The search as a WebAssembly module: the functions that JavaScript (web/src/kernels.ts) calls.
//
// One thread, and no imports: a worker's memory is its own. JavaScript checks all arguments.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "hamming/codes.h"
#include "hamming/kernel.h"
#include "hamming/nearest.h"
#include "hamming/scan.h"
#include "hamming/view_scan.h"
#include "hamming/views.h"

namespace bitgaze {
extern const Kernel kernel_wasm;
}

// Out of memory is a trap, which JavaScript sees as a RuntimeError. The library's own operator
// would throw, and its messages would import the operating system's output.
void* operator new(std::size_t size) {
  void* const memory = std::malloc(size);
  if (memory == nullptr) __builtin_trap();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
namespace std {
[[noreturn]] void __libcpp_verbose_abort(const char*, ...) { __builtin_trap(); }
}  // namespace std

namespace {

template <typename Scan>
std::size_t nearest(Scan scan, std::size_t items, std::size_t k, unsigned radius,
                    std::uint32_t* distances, std::uint32_t* slots) {
  std::vector<bitgaze::Nearest> sinks;
  sinks.emplace_back(k, radius + 1);
  scan.run(0, items, sinks);
  const bitgaze::Found found = sinks[0].sorted();
  for (const std::uint64_t number : found) {
    *distances++ = static_cast<std::uint32_t>(number >> bitgaze::kIdBits);
    *slots++ = static_cast<std::uint32_t>(number & bitgaze::kIdMask);
  }
  return found.size();
}

}  // namespace

extern "C" {

// A multiple of 64, as aligned_alloc requires and vectors like. Null if there is no memory.
[[clang::export_name("allocate")]] void* allocate(std::size_t size) {
  return std::aligned_alloc(64, (size + 63) / 64 * 64);
}

[[clang::export_name("release")]] void release(void* memory) { std::free(memory); }

// Up to k items nearest to one query, by distance and then slot. codes: the section of a flat file,
// in the layout for its bits and views. query: query_views rows. filter: a bit for each item that
// may be found, or null. radius, distances: in bits, or in view units if the items have several
// views. Returns the number found.
[[clang::export_name("search")]] std::size_t search(
    const std::uint8_t* codes, std::size_t items, std::size_t code_bytes, std::size_t views,
    const std::uint8_t* query, std::size_t query_views, const std::uint8_t* filter, std::size_t k,
    unsigned radius, std::uint32_t* distances, std::uint32_t* slots) {
  using namespace bitgaze;
  k = std::min(k, items);
  if (k == 0) return 0;
  const Filter allowed{filter, items, nullptr};
  if (views == 1) {
    const Codes rows{codes, items, code_bytes, lies_by_word(code_bytes)};
    return nearest(Scan<Nearest>(kernel_wasm, rows, query, 1, allowed), items, k, radius, distances,
                   slots);
  }
  const ViewCodes groups{reinterpret_cast<const std::uint16_t*>(codes), items, views, code_bytes};
  return nearest(ViewScan(kernel_wasm, groups, query, 1, query_views, allowed), items, k, radius,
                 distances, slots);
}

}  // extern "C"
