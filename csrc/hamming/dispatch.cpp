// Reads cpuid and xgetbv: the features that __builtin_cpu_supports knows change with the compiler.

#include "dispatch.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(BITGAZE_X86_64)
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace bitgaze {

// From the table in CMakeLists.txt: kernel_portable, kernel_avx2, ..., slowest first.
extern const Kernel BITGAZE_KERNELS;

namespace {

#if defined(BITGAZE_X86_64)

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero for a leaf that the CPU lacks.
Registers cpuid(std::uint32_t leaf) {
  Registers r;
#if defined(_MSC_VER)
  int values[4];
  __cpuid(values, 0);
  if (leaf <= static_cast<std::uint32_t>(values[0])) {
    __cpuidex(values, static_cast<int>(leaf), 0);
    std::memcpy(&r, values, sizeof(r));
  }
#else
  __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// Which registers the operating system saves when it switches threads. Requires OSXSAVE.
std::uint32_t xcr0() {
#if defined(_MSC_VER)
  return static_cast<std::uint32_t>(_xgetbv(0));
#else
  std::uint32_t low;
  std::uint32_t high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
#endif
}

CpuBits this_machine() {
  const Registers basic = cpuid(1);
  const Registers extended = cpuid(7);
  const bool osxsave = (basic.ecx >> 27 & 1) != 0;
  return {basic.ecx, extended.ebx, extended.ecx, osxsave ? xcr0() : 0};
}

#else

CpuBits this_machine() { return {}; }

#endif

bool can_run(const Kernel& kernel, const CpuBits& has) {
  const CpuBits& needs = kernel.required;
  return kernel.find_rows != nullptr &&  // null on another processor
         (needs.leaf1_ecx & ~has.leaf1_ecx) == 0 && (needs.leaf7_ebx & ~has.leaf7_ebx) == 0 &&
         (needs.leaf7_ecx & ~has.leaf7_ecx) == 0 && (needs.xcr0 & ~has.xcr0) == 0;
}

std::string join(const std::vector<std::string_view>& names) {
  std::string text;
  for (const std::string_view name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

std::vector<std::string_view> names_of(std::span<const Kernel> kernels) {
  std::vector<std::string_view> names;
  for (const Kernel& kernel : kernels) names.emplace_back(kernel.name);
  return names;
}

const Kernel& find(std::string_view name, std::string_view source) {
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name) return kernel;
  }
  const std::vector<std::string_view> known = kernel_names();
  if (std::ranges::find(known, name) != known.end()) {
    throw std::runtime_error(std::string(source) + " is '" + std::string(name) +
                             "', but this machine can run only: " + join(names_of(kernels())));
  }
  throw std::invalid_argument(std::string(source) + " is '" + std::string(name) +
                              "', expected one of: " + join(known));
}

const Kernel& choose() {
  const char* forced = std::getenv("BITGAZE_SIMD");
  // An empty variable counts as unset, as in most programs.
  if (forced != nullptr && *forced != '\0') return find(forced, "BITGAZE_SIMD");
  return kernels().back();
}

}  // namespace

std::span<const Kernel> kernels() {
  static const std::span<const Kernel> available = [] {
    // Never destroyed: threads may still search while the process exits.
    static std::array kernels = {BITGAZE_KERNELS};
    const CpuBits machine = this_machine();
    const auto end = std::remove_if(kernels.begin(), kernels.end(), [&](const Kernel& kernel) {
      return !can_run(kernel, machine);
    });
    return std::span<const Kernel>(kernels.begin(), end);
  }();
  return available;
}

std::vector<std::string_view> kernel_names() { return names_of(std::array{BITGAZE_KERNELS}); }

const Kernel& kernel(std::string_view name) { return find(name, "kernel"); }

const Kernel& default_kernel() {
  static const Kernel& chosen = choose();
  return chosen;
}

}  // namespace bitgaze
