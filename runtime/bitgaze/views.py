"""ViewIndex: exact nearest neighbours among items of several binary codes each, in memory.

Works on bytes alone, like HammingIndex: what a code stands for is up to the caller. To bitgaze, the
first view is the whole image, and the others are places where the network looked again.
"""

import threading
from dataclasses import dataclass, replace
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bitgaze import _hamming
from bitgaze.arguments import (
    MAX_VIEWS,
    allowed_count,
    at_least,
    bitmap,
    check_array,
    check_contiguous,
    code_length,
    excluded_ids,
    hit_count,
    known_id,
    known_ids,
    thread_count,
    view_count,
)
from bitgaze.hamming import aligned, check_memory

_GROUP_ITEMS = _hamming.GROUP_ITEMS


@dataclass(frozen=True, slots=True)
class _State:
    """A snapshot of the index: a search reads it once, at its start; writers replace it."""

    # With spare capacity: uint16 (groups, views, words, _GROUP_ITEMS).
    groups: NDArray[np.uint16]
    count: int


class ViewIndex:
    """A growing array of items, each of several codes, that can be searched by all of them.

    The distance between a query of Q views and an item of V views is the symmetric Chamfer distance
    (H. G. Barrow et al., "Parametric correspondence and chamfer matching", IJCAI 1977), in whole
    numbers. With L the least common multiple of Q and V, and d the Hamming distance,

        distance = L/Q * sum over query views a of min over item views b of d(a, b)
                 + L/V * sum over item views b of min over query views a of d(a, b)

    Divided by `unit(Q)` = 2 L it is a mean number of bits, 0 to `bits`: the mean of both
    directions, each the mean over the views of one side of the distance to the nearest view of the
    other. With one view on either side it is twice the Hamming distance. An item with fewer views
    than the index holds repeats one, usually its first.

    The id of an item is its position: the first item added has id 0, the next 1. Results are exact,
    and identical on every machine and with any number of threads. Searches and changes at the same
    time behave as in `HammingIndex`. An item takes views * bits / 8 bytes (views * (bits + 8) / 8
    where bits is no multiple of 16).

    Attributes:
        bits: length of a code, a multiple of 8 from 8 to 1024.
        views: number of codes of an item, 1 to 8.
    """

    def __init__(self, bits: SupportsIndex, views: SupportsIndex) -> None:
        """Create an empty index.

        Args:
            bits: length of a code, a multiple of 8 from 8 to 1024.
            views: number of codes of an item, 1 to 8.

        Raises:
            TypeError: an argument is not an integer.
            ValueError: an argument is out of its range.
        """
        self.bits = code_length(bits)
        self.views = view_count(views)
        self._is_view = False
        self._lock = threading.Lock()  # held by writers
        self._state = _State(self._allocate(0), 0)

    @classmethod
    def over(
        cls,
        memory: NDArray[np.uint8],
        bits: SupportsIndex,
        views: SupportsIndex,
        count: SupportsIndex,
    ) -> "ViewIndex":
        """Create a read-only index over items that lie in memory as an index keeps them.

        The index keeps the memory alive. It may be that of a mapped file, see `HammingIndex.view`.

        Args:
            memory: uint8, shape (`layout_bytes(bits, views, count)`,), aligned to 8 bytes, as
                `laid_out` returned it.
            bits: length of a code, a multiple of 8 from 8 to 1024.
            views: number of codes of an item, 1 to 8.
            count: number of items.

        Raises:
            TypeError: memory is not a uint8 array, or a number is not an integer.
            ValueError: another shape or alignment, not C-contiguous, or a number out of its range.
        """
        index = cls(bits, views)
        count = at_least(count, "count", 0)
        check_memory(memory, layout_bytes(index.bits, index.views, count))
        index._is_view = True
        groups = memory.view(np.uint16).reshape(-1, index.views, -(-index.bits // 16), _GROUP_ITEMS)
        index._state = _State(groups, count)
        return index

    def __len__(self) -> int:
        """Number of items."""
        return self._state.count

    def __getitem__(
        self, ids: SupportsIndex | slice | NDArray[np.integer[Any]]
    ) -> NDArray[np.uint8]:
        """Copy items out of the index, as uint8.

        `index[3]` has shape (views, bits // 8); `index[10:20]` and `index[ids]` have shape
        (n, views, bits // 8).

        Raises:
            TypeError: ids is not an integer, a slice or an integer array.
            IndexError: an id is outside 0 to n - 1; negative ids are not counted from the end.
        """
        state = self._state
        if isinstance(ids, slice):
            return self._gather(state, np.arange(*ids.indices(state.count)))
        if isinstance(ids, np.ndarray) and ids.ndim == 1:
            return self._gather(state, known_ids(ids, "ids", state.count))
        item: NDArray[np.uint8] = self._gather(state, np.array([known_id(ids, "id", state.count)]))[
            0
        ]
        return item

    def unit(self, query_views: SupportsIndex) -> int:
        """What distances are divided by to get a mean number of bits: 2 lcm(query_views, views).

        Args:
            query_views: number of codes of a query, 1 to 8.

        Raises:
            TypeError: query_views is not an integer.
            ValueError: query_views is out of its range.
        """
        return _hamming.view_unit(self.views, view_count(query_views))

    def reserve(self, count: SupportsIndex) -> None:
        """Allocate memory for `count` items in total, so that adding them copies each only once.

        Raises:
            TypeError: count is not an integer.
            ValueError: count < 0, or this index is a view.
        """
        count = at_least(count, "count", 0)
        self._check_writable()
        with self._lock:
            state = self._state
            self._state = self._with_capacity(state, count)

    def add(self, items: NDArray[np.uint8]) -> None:
        """Append copies of items; they get the next free ids, in order.

        Args:
            items: uint8, shape (n, views, bits // 8), C-contiguous; n may be 0.

        Raises:
            TypeError: items is not a uint8 array.
            ValueError: items has a different shape or is not C-contiguous, or this index is a view.
        """
        self._check(items, "items")
        if items.shape[1] != self.views:
            raise ValueError(
                f"items have {items.shape[1]} views, but those of this index have {self.views}: "
                "repeat one where an item has fewer"
            )
        self._check_writable()
        with self._lock:
            before = self._state
            end = before.count + len(items)
            # Growth by half: repeated adding copies each item about twice. Running searches keep
            # the old array, which no longer changes.
            grown = max(end, before.count + before.count // 2)
            full = end > len(before.groups) * _GROUP_ITEMS
            state = self._with_capacity(before, grown) if full else before
            _hamming.write_groups(state.groups, state.count, items)
            self._state = replace(state, count=end)

    def replace(self, slot: SupportsIndex, item: NDArray[np.uint8]) -> None:
        """Overwrite one item.

        Args:
            slot: id of the item to overwrite, 0 to n - 1.
            item: uint8, shape (views, bits // 8).

        Raises:
            TypeError: item is not a uint8 array, or slot is not an integer.
            ValueError: item has a different shape, or this index is a view.
            IndexError: slot is out of range.
        """
        check_array(item, "item")
        shape = (self.views, self.bits // 8)
        if item.shape != shape:
            raise ValueError(f"item must have shape {shape}, got {item.shape}")
        self._check_writable()
        with self._lock:
            state = self._state
            slot = known_id(slot, "slot", state.count)
            _hamming.write_groups(state.groups, slot, np.ascontiguousarray(item)[None])

    def remove(self, slot: SupportsIndex) -> None:
        """Remove one item. The last item moves into its slot, and so gets its id.

        Args:
            slot: id of the item to remove, 0 to n - 1.

        Raises:
            TypeError: slot is not an integer.
            IndexError: slot is out of range.
            ValueError: this index is a view.
        """
        self._check_writable()
        with self._lock:
            state = self._state
            last = state.count - 1
            slot = known_id(slot, "slot", state.count)
            _hamming.write_groups(state.groups, slot, self._gather(state, np.array([last])))
            self._state = replace(state, count=last)

    def search(
        self,
        queries: NDArray[np.uint8],
        k: SupportsIndex = 10,
        *,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Find the k nearest items of each query.

        Args:
            queries: uint8, shape (q, query views, bits // 8), C-contiguous; q may be 0, and a query
                has 1 to 8 views. A single one finds the items that show it in any view.
            k: maximum number of results per query, at least 1.
            filter: which items may be found: bool, shape (m,), m <= n; or packed,
                `numpy.packbits(mask, bitorder="little")`. Items from id m on are left out.
            exclude: for each query an id to leave out, or -1: integers, shape (q,). So
                `index.search(index[ids], exclude=ids)` finds the neighbours of stored items.
            threads: maximum number of threads; by default the cores this process may use.

        Returns:
            distances, int32, and ids, int64, both of shape (q, min(k, m)), where m is the number of
            items, or of items that the filter allows. Each row is ascending by distance (0 to
            `unit(query views)` * bits, see the class), ties by lower id. A row that `exclude`
            leaves short ends with id -1 and a distance one beyond that range.

        Raises:
            TypeError: an array has a different dtype, or k or threads is not an integer.
            ValueError: an array has a different shape or is not C-contiguous; k or threads < 1; or
                the environment variable BITGAZE_SIMD names no kernel.
            IndexError: exclude contains an id that does not exist.
            RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
        """
        k = hit_count(k)
        state = self._state
        allowed = state.count if filter is None else allowed_count(filter, state.count)
        request = self._request(state, queries, k, None, filter, exclude, threads)
        return _hamming.nearest(request, min(k, allowed))

    def range_search(
        self,
        queries: NDArray[np.uint8],
        radius: SupportsIndex,
        *,
        k: SupportsIndex | None = None,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Find the items within a radius of each query.

        Args:
            queries: as for `search`.
            radius: maximum distance, inclusive, at least 0: for a mean of b bits,
                `b * unit(query views)`.
            k: maximum number of results per query, nearest first; by default all.
            filter: as for `search`.
            exclude: as for `search`.
            threads: as for `search`.

        Returns:
            lims, int64, shape (q + 1,); distances, int32; and ids, int64. The results of query i
            are distances[lims[i] : lims[i + 1]], ascending, ties by lower id, and the same slice of
            ids.

        Raises:
            As `search`; also TypeError if radius is not an integer, ValueError if it is < 0.
        """
        state = self._state
        most = max(state.count, 1) if k is None else hit_count(k)
        radius = at_least(radius, "radius", 0)
        request = self._request(state, queries, most, radius, filter, exclude, threads)
        return _hamming.within(request)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.bits, self.views, self[:])

    def _request(
        self,
        state: _State,
        queries: NDArray[np.uint8],
        k: int,
        radius: int | None,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None,
        exclude: NDArray[np.integer[Any]] | None,
        threads: SupportsIndex | None,
    ) -> _hamming.ViewRequest:
        self._check(queries, "queries")
        farthest = self.unit(queries.shape[1]) * self.bits
        return _hamming.ViewRequest(
            state.groups,
            state.count,
            queries,
            k=min(k, max(state.count, 1)),
            radius=farthest if radius is None else min(radius, farthest),
            filter=None if filter is None else bitmap(filter, state.count),
            exclude=None if exclude is None else excluded_ids(exclude, len(queries), state.count),
            threads=thread_count(threads),
        )

    def _check_writable(self) -> None:
        if self._is_view:
            raise ValueError(
                "this index is a view of memory and cannot be changed: "
                f"create ViewIndex({self.bits}, {self.views}) and add the items to it"
            )

    def _gather(self, state: _State, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        words = state.groups[ids // _GROUP_ITEMS, :, :, ids % _GROUP_ITEMS]
        bytes_ = np.ascontiguousarray(words).view(np.uint8)
        return np.ascontiguousarray(bytes_[..., : self.bits // 8])

    def _allocate(self, capacity: int) -> NDArray[np.uint16]:
        shape = (-(-capacity // _GROUP_ITEMS), self.views, -(-self.bits // 16), _GROUP_ITEMS)
        return aligned(int(np.prod(shape)) * 2).view(np.uint16).reshape(shape)

    def _with_capacity(self, state: _State, capacity: int) -> _State:
        if capacity <= len(state.groups) * _GROUP_ITEMS:
            return state
        groups = self._allocate(capacity)
        used = -(-state.count // _GROUP_ITEMS)
        groups[:used] = state.groups[:used]
        return replace(state, groups=groups)

    def _check(self, array: NDArray[np.uint8], name: str) -> None:
        check_array(array, name)
        code_bytes = self.bits // 8
        if array.ndim != 3:
            raise ValueError(f"{name} must have shape (n, views, {code_bytes}), got {array.shape}")
        if array.shape[2] != code_bytes:
            raise ValueError(
                f"{name} have {array.shape[2]} bytes per code, but this index holds "
                f"{code_bytes}-byte codes"
            )
        if not 1 <= array.shape[1] <= MAX_VIEWS:
            raise ValueError(f"{name} must have 1 to {MAX_VIEWS} views, got {array.shape[1]}")
        check_contiguous(array, name)


def laid_out(items: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of items as an index keeps them in memory; free places are zeros.

    Groups of 32 items, with a column for each 16-bit word of each view.

    Args:
        items: uint8, shape (n, views, bits // 8), C-contiguous.

    Returns:
        uint8, shape (`layout_bytes(bits, views, n)`,). The layouts of runs of 32 items, one after
        the other, are that of all of them.

    Raises:
        TypeError: items is not a uint8 array.
    """
    check_array(items, "items")
    count, views, code_bytes = items.shape
    memory = np.zeros(layout_bytes(8 * code_bytes, views, count), np.uint8)
    groups = memory.view(np.uint16).reshape(-1, views, -(-code_bytes // 2), _GROUP_ITEMS)
    _hamming.write_groups(groups, 0, items)
    return memory


def layout_bytes(bits: int, views: int, count: int) -> int:
    """Size in bytes of `count` items of `views` codes, as an index keeps them in memory."""
    return -(-count // _GROUP_ITEMS) * _GROUP_ITEMS * views * 2 * -(-bits // 16)


def _rebuilt(bits: int, views: int, items: NDArray[np.uint8]) -> ViewIndex:
    index = ViewIndex(bits, views)
    index.reserve(len(items))
    index.add(items)
    return index
