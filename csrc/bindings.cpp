// The Python module bitgaze._hamming: unpack, check, release the GIL, call, return.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "hamming/scan.h"

namespace py = pybind11;

namespace {

using CodeArray = py::array_t<std::uint8_t, py::array::c_style>;

bitgaze::CodeView view(const CodeArray& array, const char* name) {
  if (array.ndim() != 2) {
    throw py::value_error(std::string(name) + " must have shape (n, code_bytes), got " +
                          std::to_string(array.ndim()) + " dimensions");
  }
  if (array.shape(1) < 1 || array.shape(1) > 128) {
    throw py::value_error(std::string(name) + " must have 1 to 128 bytes per row, got " +
                          std::to_string(array.shape(1)));
  }
  return {array.data(), static_cast<std::size_t>(array.shape(0)),
          static_cast<std::size_t>(array.shape(1))};
}

std::pair<py::array_t<std::int32_t>, py::array_t<std::int64_t>> search(
    const CodeArray& codes, const CodeArray& queries, py::ssize_t k,
    const std::optional<std::string>& kernel_name) {
  const bitgaze::CodeView code_view = view(codes, "codes");
  const bitgaze::CodeView query_view = view(queries, "queries");
  if (code_view.code_bytes != query_view.code_bytes) {
    throw py::value_error("queries have " + std::to_string(query_view.code_bytes) +
                          " bytes per row, but codes have " + std::to_string(code_view.code_bytes));
  }
  if (k < 1) throw py::value_error("k must be at least 1, got " + std::to_string(k));
  // Under the GIL, because it reads the environment, which Python code may be changing.
  const bitgaze::Kernel& kernel =
      kernel_name ? bitgaze::kernel(*kernel_name) : bitgaze::default_kernel();

  const py::ssize_t found = std::min(k, codes.shape(0));
  py::array_t<std::int32_t> distances({queries.shape(0), found});
  py::array_t<std::int64_t> ids({queries.shape(0), found});
  std::int32_t* distances_data = distances.mutable_data();
  std::int64_t* ids_data = ids.mutable_data();
  if (found > 0) {
    py::gil_scoped_release release;
    bitgaze::search(kernel, code_view, query_view, static_cast<std::size_t>(found), distances_data,
                    ids_data);
  }
  return {std::move(distances), std::move(ids)};
}

}  // namespace

PYBIND11_MODULE(_hamming, module, py::mod_gil_not_used()) {
  module.def("search", &search, py::arg("codes").noconvert(), py::arg("queries").noconvert(),
             py::arg("k"), py::arg("kernel") = py::none(),
             "The k nearest codes of each query, with the default kernel or a named one.");
  module.def(
      "kernel", [] { return bitgaze::default_kernel().name; },
      "The name of the kernel that searches use.");
  module.def(
      "kernels",
      [] {
        py::list names;
        for (const bitgaze::Kernel& kernel : bitgaze::kernels()) names.append(kernel.name);
        return names;
      },
      "The names of the kernels that this machine can run, slowest first.");
}
