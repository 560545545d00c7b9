"""HammingIndex: exact nearest neighbours among binary codes, in memory.

Knows bytes and bits. Does not know what a code stands for, models, images or files.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bitgaze import _hamming
from bitgaze.arguments import (
    MAX_BITS,
    allowed_count,
    bitmap,
    check_array,
    check_contiguous,
    excluded_ids,
    integer,
    known_id,
    known_ids,
    radius_within,
    thread_count,
)
from bitgaze.cores import available_cores

_ALIGNMENT = 64
_BLOCK_CODES = _hamming.BLOCK_CODES

# So many changed or added codes, or this share of all, may be looked at beside the tables before
# these are made anew: that costs each change some tens of microseconds (2 M codes of 64 bits, 33).
_MAX_CHANGED = 4096
_MAX_CHANGED_SHARE = 1 / 1024
_MAX_UNCOVERED = 65536
_MAX_UNCOVERED_SHARE = 1 / 8

Method = Literal["scan", "mih"]
_NO_IDS: NDArray[np.int64] = np.empty(0, np.int64)


def pack(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Codes of hash values, packed as a model packs them: a bit is set where its value is above 0.

    Args:
        values: float, (n, bits); bits a multiple of 8. 0 and NaN leave a bit unset.

    Returns:
        uint8, (n, bits // 8), C-contiguous; the first bit is the most significant of byte 0.
    """
    return np.packbits(values > 0, axis=1)


@dataclass(frozen=True, slots=True)
class _State:
    """What a search sees: taken once, at its beginning. Writers put another in its place."""

    codes: NDArray[Any]  # with room for more: uint8 (room, code_bytes), or uint64 blocks by word
    count: int
    tables: _hamming.MultiIndex | None = None
    covered: int = 0  # codes below are in the tables
    # Except for these, ascending.
    changed: NDArray[np.int64] = field(default_factory=lambda: _NO_IDS)


class HammingIndex:
    """A growing array of binary codes; a search finds those nearest to a query.

    A code's id is its position: the first code added has id 0, the next 1. Results are exact, and
    the same on every machine, at every number of threads, with tables and without.

    Any number of threads may search while one adds: a search sees the codes that were there when
    it began. `replace`, `remove`, and the first `add` after it, change codes in place, so a search
    that runs at that moment may see a code half or already changed; keep them apart with a lock of
    your own if that matters. A copy, or what is pickled, has codes of its own.

    Attributes:
        bits: the length of a code, a multiple of 8 from 8 to 1024.
    """

    def __init__(self, bits: SupportsIndex) -> None:
        """Makes an empty index.

        Args:
            bits: length of a code: a multiple of 8 from 8 to 1024.

        Raises:
            TypeError: bits is not an integer.
            ValueError: bits is not one of those lengths.
        """
        self.bits = integer(bits, "bits")
        if not 8 <= self.bits <= MAX_BITS or self.bits % 8:
            raise ValueError(f"bits must be a multiple of 8 from 8 to {MAX_BITS}, got {bits}")
        # Codes of several whole words lie by word: csrc/hamming/codes.h says why.
        self._by_word = self.bits > 64 and self.bits % 64 == 0
        self._is_view = False
        self._lock = threading.Lock()  # held by writers
        self._state = _State(self._room(0), 0)

    @classmethod
    def view(cls, codes: NDArray[np.uint8]) -> "HammingIndex":
        """An index over an array of yours, which is neither copied nor ever changed.

        The array is kept alive; search it only while nobody changes it. It may lie in a file or
        any other buffer: `numpy.memmap`, `numpy.frombuffer(data, numpy.uint8).reshape(n, -1)`.

        Args:
            codes: uint8, shape (n, bits // 8), C-contiguous, of any alignment.

        Raises:
            TypeError: codes is not a uint8 array.
            ValueError: its shape is another, or it is not C-contiguous.
        """
        check_array(codes, "codes")
        if codes.ndim != 2:
            raise ValueError(f"codes must have shape (n, code_bytes), got {codes.shape}")
        index = cls(8 * codes.shape[1])
        index._check(codes, "codes")
        index._by_word = False
        index._is_view = True
        index._state = _State(codes, len(codes))
        return index

    def __len__(self) -> int:
        """How many codes there are."""
        return self._state.count

    def __getitem__(
        self, ids: SupportsIndex | slice | NDArray[np.integer[Any]]
    ) -> NDArray[np.uint8]:
        """Copies of codes, uint8.

        `index[3]` is one, shape (bits // 8,); `index[10:20]` and `index[ids]` are several, shape
        (n, bits // 8).

        Raises:
            TypeError: ids is not an integer, a slice or an integer array.
            IndexError: there is no such id.
        """
        state = self._state
        if isinstance(ids, slice):
            return self._gather(state, np.arange(*ids.indices(state.count)))
        if isinstance(ids, np.ndarray) and ids.ndim == 1:
            return self._gather(state, known_ids(ids, "ids", state.count))
        row: NDArray[np.uint8] = self._gather(state, np.array([known_id(ids, "id", state.count)]))[
            0
        ]
        return row

    def reserve(self, count: SupportsIndex) -> None:
        """Makes room for count codes in all, so that adding up to there copies none twice.

        Raises:
            TypeError: count is not an integer.
            ValueError: count is negative, or this index is a view.
        """
        count = integer(count, "count")
        if count < 0:
            raise ValueError(f"count must be at least 0, got {count}")
        with self._writing() as state:
            self._state = self._with_room(state, count)

    def add(self, codes: NDArray[np.uint8]) -> None:
        """Appends codes; they get the ids that follow. The codes are copied.

        Args:
            codes: uint8, shape (n, bits // 8), C-contiguous; n may be 0.

        Raises:
            TypeError: codes is not a uint8 array.
            ValueError: its shape is another, it is not C-contiguous, or this index is a view.
        """
        self._check(codes, "codes")
        with self._writing() as before:
            end = before.count + len(codes)
            # Half as much again: repeated adding copies each code about twice. The old array stays
            # alive, unchanged, for the searches that use it.
            grown = max(end, before.count + before.count // 2)
            state = before if end <= self._capacity(before) else self._with_room(before, grown)
            if self._by_word:
                _hamming.write_blocks(state.codes, state.count, codes)
            else:
                state.codes[state.count : end] = codes
            self._state = replace(state, count=end)
            self._renew_tables()

    def replace(self, slot: SupportsIndex, code: NDArray[np.uint8]) -> None:
        """Puts another code in the place of one.

        Args:
            slot: id of the code to overwrite, 0 to n - 1.
            code: uint8, shape (bits // 8,).

        Raises:
            TypeError: code is not a uint8 array, or slot is not an integer.
            ValueError: the shape of code is another, or this index is a view.
            IndexError: there is no such slot.
        """
        check_array(code, "code")
        if code.shape != (self.bits // 8,):
            raise ValueError(f"code must have shape ({self.bits // 8},), got {code.shape}")
        with self._writing() as state:
            self._put(state, known_id(slot, "slot", state.count), code, state.count)

    def remove(self, slot: SupportsIndex) -> None:
        """Takes a code out and moves the last one into its slot, which changes that one's id.

        Args:
            slot: id of the code to take out, 0 to n - 1.

        Raises:
            TypeError: slot is not an integer.
            IndexError: there is no such slot.
            ValueError: this index is a view.
        """
        with self._writing() as state:
            last = state.count - 1
            slot = known_id(slot, "slot", state.count)
            self._put(state, slot, self._gather(state, np.array([last]))[0], last)

    def build_tables(self, *, threads: SupportsIndex | None = None) -> None:
        """Makes tables for multi-index hashing, with which a search need not look at every code.

        They serve where near codes are near: a radius of a few bits, or clustered codes, among
        millions. From then on each search takes the way that costs less. They take 12 bytes for
        each code and table, and there are about bits / log2(n) tables: for 100 M codes of 64 bits 3
        tables, 3.6 GB. That is more than the codes themselves, so nothing but this call makes them;
        `table_bytes` tells how much it is.

        Changes keep the tables right. After many of them (an eighth added, or a thousandth changed)
        `add`, `replace` or `remove` makes them anew, with all cores, and for that time holds both;
        if there is no memory for it, the tables are given up with a RuntimeWarning.

        Args:
            threads: at most so many; by default the cores this process may use.

        Raises:
            TypeError: threads is not an integer.
            ValueError: threads < 1, or there are 2**32 codes or more.
        """
        threads = thread_count(threads)
        with self._lock:
            self._state = self._with_tables(self._state, threads)

    @property
    def table_bytes(self) -> int:
        """Memory of the tables, in bytes; 0 before `build_tables`."""
        tables = self._state.tables
        return 0 if tables is None else tables.bytes

    def search(
        self,
        queries: NDArray[np.uint8],
        k: SupportsIndex = 10,
        *,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
        method: Method | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the k nearest codes of each query.

        Args:
            queries: uint8, shape (q, bits // 8), C-contiguous; q may be 0.
            k: how many to find for each query, at least 1.
            filter: which codes may be found: bool, shape (m,), m <= n; or packed,
                `numpy.packbits(mask, bitorder="little")`. Codes from m on may not.
            exclude: for each query an id that it must not find, or -1: integers, shape (q,). So
                `index.search(index[ids], exclude=ids)` finds the neighbours of stored codes.
            threads: at most so many; by default the cores this process may use.
            method: "scan" or "mih" (multi-index hashing) force one; by default tables that are
                there are tried, until a query has cost an eighth of its scan, or a twentieth in a
                batch; then that query is scanned.

        Returns:
            distances, int32, and ids, int64, both of shape (q, min(k, m)), m being the number of
            codes, or of those that the filter allows: in each row ascending by distance (0 to
            bits), ties by lower id. A row that `exclude` leaves short ends in the id -1, with the
            distance bits + 1.

        Raises:
            TypeError: an array of another dtype, or k or threads is not an integer.
            ValueError: an array of another shape or not C-contiguous; k or threads < 1; an unknown
                method, or "mih" before `build_tables`; or the environment variable BITGAZE_SIMD
                names no kernel.
            IndexError: exclude holds an id that does not exist.
            RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
        """
        k = integer(k, "k")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        state = self._state
        request = self._request(state, queries, k, self.bits, filter, exclude, threads, method)
        found = state.count if filter is None else allowed_count(filter, state.count)
        return _hamming.nearest(request, min(k, found))

    def range_search(
        self,
        queries: NDArray[np.uint8],
        radius: SupportsIndex,
        *,
        k: SupportsIndex | None = None,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
        method: Method | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Finds the codes within a radius of each query, that distance included.

        Args:
            queries: as for `search`.
            radius: Hamming distance, at least 0.
            k: at most so many for each query, the nearest; by default all.
            filter: as for `search`.
            exclude: as for `search`.
            threads: as for `search`.
            method: as for `search`.

        Returns:
            lims, int64, shape (q + 1,), distances, int32, and ids, int64: those of query i are
            distances[lims[i] : lims[i + 1]], ascending, ties by lower id, and the same part of ids.

        Raises:
            As `search`; and ValueError: radius < 0.
        """
        state = self._state
        if k is not None and integer(k, "k") < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        most = max(state.count, 1) if k is None else integer(k, "k")
        radius = radius_within(radius)
        return _hamming.within(
            self._request(state, queries, most, radius, filter, exclude, threads, method)
        )

    def range_count(
        self,
        queries: NDArray[np.uint8],
        radius: SupportsIndex,
        *,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[np.int64]:
        """How many codes lie within a radius of each query: int64, shape (q,); it scans them all.

        Args:
            queries: as for `search`.
            radius: Hamming distance, at least 0.
            filter: as for `search`.
            exclude: as for `search`.
            threads: as for `search`.

        Raises:
            As `range_search`.
        """
        state, radius = self._state, radius_within(radius)
        request = self._request(state, queries, 1, radius, filter, exclude, threads, "scan")
        return _hamming.count(request)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.bits, self[:], self._state.tables is not None)

    def _request(
        self,
        state: _State,
        queries: NDArray[np.uint8],
        k: int,
        radius: int,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None,
        exclude: NDArray[np.integer[Any]] | None,
        threads: SupportsIndex | None,
        method: Method | None,
    ) -> _hamming.Request:
        self._check(queries, "queries")
        if method not in (None, "scan", "mih"):
            raise ValueError(f'method must be "scan", "mih" or None, got {method!r}')
        if method == "mih" and state.tables is None:
            raise ValueError('method "mih" needs tables: call build_tables() first')
        return _hamming.Request(
            state.codes,
            state.count,
            queries,
            k=min(k, max(state.count, 1)),
            radius=radius,
            filter=None if filter is None else bitmap(filter, state.count),
            exclude=None if exclude is None else excluded_ids(exclude, len(queries), state.count),
            threads=thread_count(threads),
            tables=None if method == "scan" else state.tables,
            covered=state.covered,
            changed=state.changed,
            forced=method == "mih",
        )

    def _gather(self, state: _State, ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        if not self._by_word:
            rows: NDArray[np.uint8] = state.codes[ids]
            return rows
        words = state.codes[ids // _BLOCK_CODES, :, ids % _BLOCK_CODES]
        return np.ascontiguousarray(words).view(np.uint8)

    @contextmanager
    def _writing(self) -> Iterator[_State]:
        if self._is_view:
            raise ValueError(
                "this index is a view of an array and cannot change: "
                f"make HammingIndex({self.bits}) and add the codes to it"
            )
        with self._lock:
            yield self._state

    def _room(self, count: int) -> NDArray[Any]:
        if not self._by_word:
            return _aligned(count * self.bits // 8).reshape(count, self.bits // 8)
        blocks = -(-count // _BLOCK_CODES)
        room = _aligned(blocks * _BLOCK_CODES * self.bits // 8)
        return room.view(np.uint64).reshape(blocks, self.bits // 64, _BLOCK_CODES)

    def _capacity(self, state: _State) -> int:
        return len(state.codes) * (_BLOCK_CODES if self._by_word else 1)

    def _with_room(self, state: _State, count: int) -> _State:
        if count <= self._capacity(state):
            return state
        room = self._room(count)
        used = -(-state.count // _BLOCK_CODES) if self._by_word else state.count
        room[:used] = state.codes[:used]
        return replace(state, codes=room)

    def _put(self, state: _State, slot: int, code: NDArray[np.uint8], count: int) -> None:
        """Writes a code into a slot, count codes being left then."""
        # Whatever interrupts this: first the tables stop to answer for the slot, then it changes.
        changed = state.changed
        if slot < state.covered:
            at = int(np.searchsorted(changed, slot))
            if at == len(changed) or changed[at] != slot:
                changed = np.insert(changed, at, slot)
        self._state = state = replace(state, changed=changed)
        if self._by_word:
            block, place = divmod(slot, _BLOCK_CODES)
            state.codes[block, :, place] = np.ascontiguousarray(code).view(np.uint64)
        else:
            state.codes[slot] = code
        # In steps of 64 codes: what a filter is looked at in.
        covered = min(state.covered, count // 64 * 64)
        self._state = replace(state, count=count, covered=covered)
        self._renew_tables()

    def _renew_tables(self) -> None:
        """Makes the tables anew, if too much has changed; without memory for it, there are none."""
        state = self._state
        if state.tables is None:
            return
        uncovered = state.count - state.covered
        if uncovered <= max(_MAX_UNCOVERED, _MAX_UNCOVERED_SHARE * state.count) and len(
            state.changed
        ) <= max(_MAX_CHANGED, _MAX_CHANGED_SHARE * state.count):
            return
        try:
            self._state = self._with_tables(state, available_cores())
        except MemoryError:
            self._state = replace(state, tables=None, covered=0, changed=_NO_IDS)
            warnings.warn(
                "no memory to make the tables of this HammingIndex anew: it scans from now on; "
                "build_tables() tries again",
                RuntimeWarning,
                stacklevel=4,
            )

    def _with_tables(self, state: _State, threads: int) -> _State:
        tables = _hamming.MultiIndex(state.codes, state.count, threads)
        return replace(state, tables=tables, covered=state.count // 64 * 64, changed=_NO_IDS)

    def _check(self, array: NDArray[np.uint8], name: str) -> None:
        check_array(array, name)
        code_bytes = self.bits // 8
        if array.shape == (code_bytes,):
            raise ValueError(
                f"{name} must have shape (n, {code_bytes}), got a single code of shape "
                f"({code_bytes},): add an axis with code[None]"
            )
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape (n, {code_bytes}), got {array.shape}")
        if array.shape[1] != code_bytes:
            raise ValueError(
                f"{name} have {array.shape[1]} bytes per row, but this index holds "
                f"{code_bytes}-byte codes"
            )
        check_contiguous(array, name)


def simd() -> str:
    """The kernel that searches use on this machine: portable, avx2, avx512 or neon.

    Decided at first use: the fastest that the CPU and the operating system allow, or the one that
    the environment variable BITGAZE_SIMD names.

    Raises:
        ValueError: BITGAZE_SIMD names no kernel.
        RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
    """
    return _hamming.kernel()


def _rebuilt(bits: int, codes: NDArray[np.uint8], has_tables: bool) -> HammingIndex:
    index = HammingIndex(bits)
    index.reserve(len(codes))
    index.add(codes)
    if has_tables:
        index.build_tables()
    return index


def _aligned(size: int) -> NDArray[np.uint8]:
    """Bytes that begin on a cache line, so that no vector load crosses two."""
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size]
