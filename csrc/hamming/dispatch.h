// Which kernels this machine can run, and which one a search uses.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "kernel.h"

namespace bitgaze {

// The kernels that the CPU and the operating system support, slowest first. Never empty.
std::span<const Kernel> kernels();

// The names of all kernels, including those that this machine cannot run, slowest first.
std::vector<std::string_view> kernel_names();

// Throws std::invalid_argument for a name that no kernel has, std::runtime_error for a kernel that
// this machine cannot run.
const Kernel& kernel(std::string_view name);

// The kernel that the environment variable BITGAZE_SIMD names, or else the fastest. Chosen by the
// first call that does not throw, not when the library is loaded. Throws like kernel(name).
const Kernel& default_kernel();

}  // namespace bitgaze
