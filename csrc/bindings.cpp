// The Python module bitgaze._hamming: unpack, check, release the GIL, call, return.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "hamming/results.h"
#include "hamming/search.h"
#include "hamming/view_search.h"

namespace py = pybind11;

namespace {

using Rows = py::array_t<std::uint8_t, py::array::c_style>;
using Blocks = py::array_t<std::uint64_t, py::array::c_style>;
using Groups = py::array_t<std::uint16_t, py::array::c_style>;
using Ids = py::array_t<std::int64_t, py::array::c_style>;

std::string text(const std::string& words, py::ssize_t number) {
  return words + std::to_string(number);
}

bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Runs work without the GIL. Not py::gil_scoped_release: when the interpreter exits, taking the GIL
// back ends a daemon thread by unwinding its stack, and unwinding through a destructor aborts the
// process. Here such a thread waits for the process to end, as it does in Python 3.14 and later.
template <typename Work>
void without_gil(const Work& work) {
  PyThreadState* const state = PyEval_SaveThread();
  std::exception_ptr error;
  try {
    work();
  } catch (...) {
    error = std::current_exception();
  }
  while (is_finalizing()) std::this_thread::sleep_for(std::chrono::hours(1));
  PyEval_RestoreThread(state);
  if (error) std::rethrow_exception(error);
}

// A view of codes in a Python array: rows (n, code_bytes), or blocks by word (b, words,
// kBlockCodes).
bitgaze::Codes code_view(const py::array& array, py::ssize_t count) {
  const auto block_codes = static_cast<py::ssize_t>(bitgaze::kBlockCodes);
  const bool by_word = Blocks::check_(array) && array.ndim() == 3 && array.shape(2) == block_codes;
  if (!by_word && !(Rows::check_(array) && array.ndim() == 2)) {
    throw py::type_error("codes must be C-contiguous: uint8 (n, code_bytes), or uint64 (blocks, " +
                         text("words, ", block_codes) + ")");
  }
  const py::ssize_t room = by_word ? array.shape(0) * block_codes : array.shape(0);
  const py::ssize_t code_bytes = by_word ? 8 * array.shape(1) : array.shape(1);
  if (count < 0 || count > room) throw py::value_error(text("codes have no room for ", count));
  if (code_bytes < 1 || code_bytes > 128) {
    throw py::value_error(text("codes must have 1 to 128 bytes, got ", code_bytes));
  }
  return {static_cast<const std::uint8_t*>(array.data()), static_cast<std::size_t>(count),
          static_cast<std::size_t>(code_bytes), by_word};
}

// Checks and unpacks what to find for each query. max_radius: the greatest distance of all.
bitgaze::SearchParams search_params(py::ssize_t queries, py::ssize_t k, py::ssize_t radius,
                                    py::ssize_t max_radius, const std::optional<Rows>& filter,
                                    const std::optional<Ids>& exclude, py::ssize_t threads) {
  if (k < 1) throw py::value_error(text("k must be at least 1, got ", k));
  if (radius < 0) throw py::value_error(text("radius must be at least 0, got ", radius));
  if (threads < 1) throw py::value_error(text("threads must be at least 1, got ", threads));
  bitgaze::SearchParams params{};
  params.k = static_cast<std::size_t>(k);
  params.radius = static_cast<unsigned>(std::min(radius, max_radius));
  // The threads of the pool stay, so start no more than could ever help.
  const unsigned most = std::max(64U, std::thread::hardware_concurrency());
  params.threads = static_cast<unsigned>(std::min<py::ssize_t>(threads, most));
  if (filter) {
    params.filter.bits = filter->data();
    params.filter.count = static_cast<std::size_t>(8 * filter->size());
  }
  if (exclude) {
    if (exclude->size() != queries) {
      throw py::value_error(text("exclude must have an id for each query: ", queries));
    }
    params.filter.exclude = exclude->data();
  }
  return params;
}

// A view of the groups of items in a Python array (groups, views, words, kGroupItems).
bitgaze::ViewCodes group_view(const py::array& array, py::ssize_t count, py::ssize_t code_bytes) {
  const auto group_items = static_cast<py::ssize_t>(bitgaze::kGroupItems);
  const auto most = static_cast<py::ssize_t>(bitgaze::kMaxViews);
  if (!Groups::check_(array) || array.ndim() != 4 || array.shape(3) != group_items) {
    throw py::type_error("groups must be C-contiguous: uint16 (groups, views, words, " +
                         text("", group_items) + ")");
  }
  if (array.shape(1) < 1 || array.shape(1) > most) {
    throw py::value_error(text("items must have 1 to ", most) +
                          text(" views, got ", array.shape(1)));
  }
  if (code_bytes < 1 || code_bytes > 128 || array.shape(2) != (code_bytes + 1) / 2) {
    throw py::value_error(text("groups do not hold codes of ", code_bytes) + " bytes");
  }
  if (count < 0 || count > array.shape(0) * group_items) {
    throw py::value_error(text("groups have no room for ", count));
  }
  return {static_cast<const std::uint16_t*>(array.data()), static_cast<std::size_t>(count),
          static_cast<std::size_t>(array.shape(1)), static_cast<std::size_t>(code_bytes)};
}

// The arguments of a search, checked. Keeps the arrays that the search reads alive.
class Request {
 public:
  Request(py::array codes, py::ssize_t count, Rows queries, py::ssize_t k, py::ssize_t radius,
          std::optional<Rows> filter, std::optional<Ids> exclude, py::ssize_t threads,
          const std::optional<std::string>& kernel, const bitgaze::MultiIndex* tables,
          py::ssize_t covered, std::optional<Ids> changed, bool forced)
      // Chosen under the GIL: the choice reads the environment, which Python may be changing. A
      // free-threaded Python has none; there os.environ may not change during the first search.
      : kernel_(kernel ? bitgaze::kernel(*kernel) : bitgaze::default_kernel()),
        codes_(code_view(codes, count)),
        held_(py::make_tuple(codes, queries, filter, exclude, changed)) {
    const auto bits = static_cast<py::ssize_t>(8 * codes_.code_bytes);
    if (queries.ndim() != 2 || 8 * queries.shape(1) != bits) {
      throw py::value_error(text("queries must have as many bytes per row as codes: ", bits / 8));
    }
    queries_ = {queries.data(), static_cast<std::size_t>(queries.shape(0))};
    params_ = search_params(queries.shape(0), k, radius, bits, filter, exclude, threads);
    if (tables == nullptr) return;
    const auto table_bits = static_cast<py::ssize_t>(8 * tables->code_bytes());
    if (table_bits != bits) {
      throw py::value_error(text("the tables hold codes of ", table_bits / 8) +
                            text(" bytes, not ", bits / 8));
    }
    if (covered < 0 || covered % 64 != 0 ||
        covered > std::min(count, static_cast<py::ssize_t>(tables->count()))) {
      throw py::value_error(text("the tables cannot cover ", covered));
    }
    tables_ = {tables, static_cast<std::size_t>(covered), {}, forced};
    if (changed) tables_.changed = {changed->data(), static_cast<std::size_t>(changed->size())};
  }

  py::ssize_t query_count() const { return static_cast<py::ssize_t>(queries_.count); }
  std::int32_t max_distance() const { return static_cast<std::int32_t>(8 * codes_.code_bytes); }

  std::vector<bitgaze::Found> search() const {
    std::vector<bitgaze::Found> found;
    without_gil([&] { found = bitgaze::search(kernel_, codes_, queries_, params_, tables_); });
    return found;
  }

  void count(std::int64_t* counts) const {
    without_gil([&] { bitgaze::count(kernel_, codes_, queries_, params_, counts); });
  }

 private:
  const bitgaze::Kernel& kernel_;
  bitgaze::Codes codes_;
  bitgaze::Queries queries_{};
  bitgaze::SearchParams params_{};
  bitgaze::Tables tables_{};
  py::tuple held_;
};

// The same for items of several codes.
class ViewRequest {
 public:
  ViewRequest(py::array groups, py::ssize_t count, Rows queries, py::ssize_t k, py::ssize_t radius,
              std::optional<Rows> filter, std::optional<Ids> exclude, py::ssize_t threads,
              const std::optional<std::string>& kernel)
      : kernel_(kernel ? bitgaze::kernel(*kernel) : bitgaze::default_kernel()),
        held_(py::make_tuple(groups, queries, filter, exclude)) {
    const auto most = static_cast<py::ssize_t>(bitgaze::kMaxViews);
    if (queries.ndim() != 3 || queries.shape(1) < 1 || queries.shape(1) > most) {
      throw py::value_error(text("queries must have shape (q, views, code_bytes), 1 to ", most) +
                            " views");
    }
    codes_ = group_view(groups, count, queries.shape(2));
    queries_ = {queries.data(), static_cast<std::size_t>(queries.shape(0)),
                static_cast<std::size_t>(queries.shape(1))};
    params_ = search_params(queries.shape(0), k, radius, max_distance(), filter, exclude, threads);
  }

  py::ssize_t query_count() const { return static_cast<py::ssize_t>(queries_.count); }
  std::int32_t max_distance() const {
    return static_cast<std::int32_t>(bitgaze::view_unit(codes_.views, queries_.views) * 8 *
                                     codes_.code_bytes);
  }

  std::vector<bitgaze::Found> search() const {
    std::vector<bitgaze::Found> found;
    without_gil([&] { found = bitgaze::search_views(kernel_, codes_, queries_, params_); });
    return found;
  }

 private:
  const bitgaze::Kernel& kernel_;
  bitgaze::ViewCodes codes_{};
  bitgaze::ViewQueries queries_{};
  bitgaze::SearchParams params_{};
  py::tuple held_;
};

template <typename Request>
py::tuple nearest(const Request& request, py::ssize_t columns) {
  const std::vector<bitgaze::Found> found = request.search();
  py::array_t<std::int32_t> distances({request.query_count(), columns});
  py::array_t<std::int64_t> ids({request.query_count(), columns});
  bitgaze::to_table(found, static_cast<std::size_t>(columns), request.max_distance() + 1,
                    distances.mutable_data(), ids.mutable_data());
  return py::make_tuple(std::move(distances), std::move(ids));
}

template <typename Request>
py::tuple within(const Request& request) {
  const std::vector<bitgaze::Found> found = request.search();
  const auto total = static_cast<py::ssize_t>(bitgaze::total_of(found));
  py::array_t<std::int64_t> lims(request.query_count() + 1);
  py::array_t<std::int32_t> distances(total);
  py::array_t<std::int64_t> ids(total);
  bitgaze::to_list(found, lims.mutable_data(), distances.mutable_data(), ids.mutable_data());
  return py::make_tuple(std::move(lims), std::move(distances), std::move(ids));
}

Ids count(const Request& request) {
  Ids counts(request.query_count());
  request.count(counts.mutable_data());
  return counts;
}

void write_blocks(Blocks& blocks, py::ssize_t first, const Rows& rows) {
  if (rows.ndim() != 2 || first < 0) throw py::value_error("rows must have shape (n, code_bytes)");
  const bitgaze::Codes codes = code_view(blocks, first + rows.shape(0));
  if (static_cast<py::ssize_t>(codes.code_bytes) != rows.shape(1) || !codes.by_word) {
    throw py::value_error("rows and blocks must hold codes of the same length");
  }
  auto* bytes = reinterpret_cast<std::uint8_t*>(blocks.mutable_data());
  without_gil([&] {
    bitgaze::write_by_word(rows.data(), static_cast<std::size_t>(rows.shape(0)), codes.code_bytes,
                           static_cast<std::size_t>(first), bytes);
  });
}

void write_groups(Groups& groups, py::ssize_t first, const Rows& rows) {
  if (rows.ndim() != 3 || first < 0) {
    throw py::value_error("rows must have shape (n, views, code_bytes)");
  }
  const bitgaze::ViewCodes codes = group_view(groups, first + rows.shape(0), rows.shape(2));
  if (static_cast<py::ssize_t>(codes.views) != rows.shape(1)) {
    throw py::value_error("rows and groups must have the same number of views");
  }
  groups.mutable_data();  // throws if it is read-only
  without_gil([&] {
    bitgaze::write_views(rows.data(), static_cast<std::size_t>(rows.shape(0)),
                         static_cast<std::size_t>(first), codes);
  });
}

std::unique_ptr<bitgaze::MultiIndex> multi_index(const py::array& codes, py::ssize_t count,
                                                 unsigned threads) {
  const bitgaze::Codes view = code_view(codes, count);
  if (view.count > 0xffffffff) throw py::value_error("tables hold at most 2^32 - 1 codes");
  std::unique_ptr<bitgaze::MultiIndex> index;
  without_gil([&] { index = std::make_unique<bitgaze::MultiIndex>(view, threads); });
  return index;
}

}  // namespace

PYBIND11_MODULE(_hamming, module, py::mod_gil_not_used()) {
  module.attr("BLOCK_CODES") = bitgaze::kBlockCodes;
  module.attr("GROUP_ITEMS") = bitgaze::kGroupItems;
  module.attr("KERNELS") = bitgaze::kernel_names();
  py::class_<bitgaze::MultiIndex>(module, "MultiIndex",
                                  "Tables of the codes as they are now, for multi-index hashing.")
      .def(py::init(&multi_index), py::arg("codes").noconvert(), py::arg("count"),
           py::arg("threads"))
      .def_property_readonly("bytes", &bitgaze::MultiIndex::bytes);
  py::class_<Request>(module, "Request", "Codes, queries, and what to find for each query.")
      .def(py::init<py::array, py::ssize_t, Rows, py::ssize_t, py::ssize_t, std::optional<Rows>,
                    std::optional<Ids>, py::ssize_t, const std::optional<std::string>&,
                    const bitgaze::MultiIndex*, py::ssize_t, std::optional<Ids>, bool>(),
           py::keep_alive<1, 11>(),  // tables
           py::arg("codes").noconvert(), py::arg("count"), py::arg("queries").noconvert(),
           py::kw_only(), py::arg("k"), py::arg("radius"),
           py::arg("filter").noconvert() = py::none(), py::arg("exclude").noconvert() = py::none(),
           py::arg("threads") = 1, py::arg("kernel") = py::none(), py::arg("tables") = py::none(),
           py::arg("covered") = 0, py::arg("changed").noconvert() = py::none(),
           py::arg("forced") = false);
  py::class_<ViewRequest>(module, "ViewRequest", "The same for items of several codes.")
      .def(py::init<py::array, py::ssize_t, Rows, py::ssize_t, py::ssize_t, std::optional<Rows>,
                    std::optional<Ids>, py::ssize_t, const std::optional<std::string>&>(),
           py::arg("groups").noconvert(), py::arg("count"), py::arg("queries").noconvert(),
           py::kw_only(), py::arg("k"), py::arg("radius"),
           py::arg("filter").noconvert() = py::none(), py::arg("exclude").noconvert() = py::none(),
           py::arg("threads") = 1, py::arg("kernel") = py::none());
  constexpr const char* kNearest = "distances and ids, (q, columns) each.";
  module.def("nearest", &nearest<Request>, py::arg("request"), py::arg("columns"), kNearest);
  module.def("nearest", &nearest<ViewRequest>, py::arg("request"), py::arg("columns"), kNearest);
  constexpr const char* kWithin = "lims (q + 1,), distances and ids.";
  module.def("within", &within<Request>, py::arg("request"), kWithin);
  module.def("within", &within<ViewRequest>, py::arg("request"), kWithin);
  module.def("count", &count, py::arg("request"), "The number of codes within the radius, (q,).");
  module.def("view_unit", &bitgaze::view_unit, py::arg("item_views"), py::arg("query_views"),
             "What one bit counts in the distance between items of several codes.");
  module.def("write_groups", &write_groups, py::arg("groups").noconvert(), py::arg("first"),
             py::arg("rows").noconvert(), "Writes rows (n, views, code_bytes) into groups.");
  module.def("write_blocks", &write_blocks, py::arg("blocks").noconvert(), py::arg("first"),
             py::arg("rows").noconvert(), "Writes rows into blocks by word.");
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
