// Which kernels this machine can run, and which one a search uses.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "kernel.h"

namespace bitgaze {

// Those that the CPU and the operating system allow, slowest first. Never empty.
std::span<const Kernel> kernels();

// The names of all kernels, whether this machine can run them or not, slowest first.
std::vector<std::string_view> kernel_names();

// Throws std::invalid_argument for a name that no kernel has, std::runtime_error for a kernel that
// this machine cannot run.
const Kernel& kernel(std::string_view name);

// The one named in the environment variable BITGAZE_SIMD, or else the fastest. Decided at the first
// call that does not throw, not when the library is loaded. Throws like kernel(name).
const Kernel& default_kernel();

}  // namespace bitgaze
