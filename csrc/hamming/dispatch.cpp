// cpuid and xgetbv are read here rather than asked of __builtin_cpu_supports, whose set of known
// features changes with the compiler.

#include "dispatch.h"

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
namespace {

constexpr std::array<std::string_view, 4> kNames = {"portable", "avx2", "avx512", "neon"};

#if defined(BITGAZE_X86_64)

struct Registers {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero for a leaf that the CPU does not have.
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

// Which registers the operating system saves when it switches threads. Only after OSXSAVE was seen.
std::uint64_t xcr0() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  std::uint32_t low;
  std::uint32_t high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return std::uint64_t{high} << 32 | low;
#endif
}

struct Features {
  bool avx2 = false;
  bool avx512 = false;
};

// Bit numbers: Intel SDM volume 2A, CPUID; volume 1, chapter 13 (XCR0).
Features features() {
  const auto bit = [](std::uint64_t word, int number) { return (word >> number & 1) != 0; };
  const Registers basic = cpuid(1);
  const Registers extended = cpuid(7);

  const bool osxsave = bit(basic.ecx, 27);
  const std::uint64_t saved = osxsave ? xcr0() : 0;
  constexpr std::uint64_t kYmm = 0x06;  // SSE and AVX state
  constexpr std::uint64_t kZmm = 0xe6;  // and opmask, upper halves, registers 16 to 31

  Features found;
  found.avx2 = (saved & kYmm) == kYmm && bit(basic.ecx, 23) /* POPCNT, implied by -mavx2 */ &&
               bit(basic.ecx, 28) /* AVX */ && bit(extended.ebx, 5) /* AVX2 */;
  found.avx512 = found.avx2 && (saved & kZmm) == kZmm && bit(extended.ebx, 16) /* F */ &&
                 bit(extended.ebx, 30) /* BW */ && bit(extended.ecx, 14) /* VPOPCNTDQ */;
  return found;
}

#endif

struct Available {
  std::array<Kernel, kNames.size()> kernels{};
  std::size_t count = 0;

  Available() {
    add({"portable", find_rows_portable, find_planes_portable, find_screened_portable});
#if defined(BITGAZE_X86_64)
    const Features found = features();
    if (found.avx2) add({"avx2", find_rows_avx2, find_planes_avx2, find_screened_avx2});
    if (found.avx512) add({"avx512", find_rows_avx512, find_planes_avx512, find_screened_avx512});
#elif defined(BITGAZE_AARCH64)
    add({"neon", find_rows_neon, find_planes_neon, find_screened_neon});
#endif
  }

  void add(Kernel kernel) { kernels[count++] = kernel; }
};

std::string join(std::span<const std::string_view> names) {
  std::string text;
  for (const std::string_view name : names) {
    if (!text.empty()) text += ", ";
    text += name;
  }
  return text;
}

const Kernel& find(std::string_view name, std::string_view source) {
  std::array<std::string_view, kNames.size()> names;
  std::size_t count = 0;
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name) return kernel;
    names[count++] = kernel.name;
  }
  for (const std::string_view known : kNames) {
    if (known == name) {
      throw std::runtime_error(
          std::string(source) + " asks for '" + std::string(name) +
          "', but this machine has only: " + join(std::span(names).first(count)));
    }
  }
  throw std::invalid_argument(std::string(source) + " is '" + std::string(name) +
                              "', expected one of: " + join(kNames));
}

const Kernel& choose() {
  const char* forced = std::getenv("BITGAZE_SIMD");
  // An empty variable counts as unset, as in most programs.
  if (forced != nullptr && *forced != '\0') return find(forced, "BITGAZE_SIMD");
  return kernels().back();
}

}  // namespace

std::span<const Kernel> kernels() {
  static const Available available;
  return std::span(available.kernels).first(available.count);
}

const Kernel& kernel(std::string_view name) { return find(name, "kernel"); }

const Kernel& default_kernel() {
  static const Kernel& chosen = choose();
  return chosen;
}

}  // namespace bitgaze
