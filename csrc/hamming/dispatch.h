// Which kernels this machine can run, and which one a search uses.
#pragma once

#include <span>
#include <string_view>

#include "kernel.h"

namespace bitgaze {

struct Kernel {
  std::string_view name;  // portable, avx2, avx512, neon
  FindRowsFn find_rows;
  FindPlanesFn find_planes;
  FindScreenedFn find_screened;
};

// Those that the CPU and the operating system allow, slowest first. Never empty.
std::span<const Kernel> kernels();

// Throws std::invalid_argument for a name that no build knows, std::runtime_error for a kernel that
// this machine cannot run.
const Kernel& kernel(std::string_view name);

// The one named in the environment variable BITGAZE_SIMD, or else the fastest. Decided at the first
// call that does not throw, not when the library is loaded. Throws like kernel(name).
const Kernel& default_kernel();

}  // namespace bitgaze
