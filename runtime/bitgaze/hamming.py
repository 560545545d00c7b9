"""HammingIndex: exact nearest neighbours among binary codes, in memory.

Works on bytes alone: what a code stands for, and where it is stored, is up to the caller.
"""

import threading
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bitgaze import _hamming
from bitgaze.arguments import (
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
    radius_within,
    thread_count,
)
from bitgaze.cores import available_cores

_CACHE_LINE_BYTES = 64
_BLOCK_CODES = _hamming.BLOCK_CODES

# A search scans changed and added codes alongside the tables, up to these numbers or shares of all
# codes; beyond them the tables are rebuilt, which costs tens of microseconds per change (33 with
# 2 M codes of 64 bits).
_MAX_CHANGED = 4096
_MAX_CHANGED_SHARE = 1 / 1024
_MAX_UNCOVERED = 65536
_MAX_UNCOVERED_SHARE = 1 / 8

Method = Literal["scan", "mih"]
_NO_IDS: NDArray[np.int64] = np.empty(0, np.int64)


def pack(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Turn hash values into codes: a bit is set where its value is above 0.

    Args:
        values: shape (..., bits), bits a multiple of 8.

    Returns:
        uint8, shape (..., bits // 8). The first value is the most significant bit of byte 0, as in
        `numpy.packbits` and in the code that a model file returns.
    """
    return np.packbits(values > 0, axis=-1)


@dataclass(frozen=True, slots=True)
class _State:
    """A snapshot of the index: a search reads it once, at its start; writers replace it."""

    # With spare capacity: uint8 (capacity, code_bytes), or by word, uint64
    # (blocks, words, _BLOCK_CODES).
    codes: NDArray[Any]
    count: int
    tables: _hamming.MultiIndex | None = None
    # The tables hold the codes with ids below `covered`, except those in `changed`, ascending.
    covered: int = 0
    changed: NDArray[np.int64] = field(default_factory=lambda: _NO_IDS)


class HammingIndex:
    """A growing array of binary codes that can be searched for those nearest to a query.

    The id of a code is its position: the first code added has id 0, the next 1. Results are exact,
    and identical on every machine, with any number of threads, with tables and without.

    Any number of threads may search while one thread adds: a search sees the codes that were there
    when it started. `replace` and `remove`, and the first `add` after a `remove`, write in place:
    a search running at that moment may read a code that is half changed. If that matters, guard
    searches and changes with a lock. Copies and unpickled indexes have their own codes.

    Attributes:
        bits: length of a code, a multiple of 8 from 8 to 1024.
    """

    def __init__(self, bits: SupportsIndex) -> None:
        """Create an empty index.

        Args:
            bits: length of a code, a multiple of 8 from 8 to 1024.

        Raises:
            TypeError: bits is not an integer.
            ValueError: bits is not such a multiple.
        """
        self.bits = code_length(bits)
        self._by_word = _is_by_word(self.bits)
        self._is_view = False
        self._lock = threading.Lock()  # held by writers
        self._state = _State(self._allocate(0), 0)

    @classmethod
    def view(cls, codes: NDArray[np.uint8]) -> "HammingIndex":
        """Create a read-only index over an existing array, without copying it.

        The index keeps the array alive. Do not change the array during a search. It may be backed
        by a file or any other buffer: `numpy.memmap`, or
        `numpy.frombuffer(data, numpy.uint8).reshape(n, -1)`. If another program shortens a mapped
        file, the operating system ends the process at the next search (SIGBUS): map only files that
        nobody writes to, or read them.

        Args:
            codes: uint8, shape (n, bits // 8), C-contiguous, with any alignment.

        Raises:
            TypeError: codes is not a uint8 array.
            ValueError: codes has a different shape or is not C-contiguous.
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

    @classmethod
    def over(
        cls, memory: NDArray[np.uint8], bits: SupportsIndex, count: SupportsIndex
    ) -> "HammingIndex":
        """Create a read-only index over codes that lie in memory as an index keeps them.

        Like `view`, for what `laid_out` returned: searches are as fast as in an index that the
        codes were added to, also those of a mapped file.

        Args:
            memory: uint8, shape (`layout_bytes(bits, count)`,), aligned to 8 bytes.
            bits: length of a code, a multiple of 8 from 8 to 1024.
            count: number of codes.

        Raises:
            TypeError: memory is not a uint8 array, or bits or count is not an integer.
            ValueError: another shape or alignment, not C-contiguous, or a number out of its range.
        """
        index = cls(bits)
        count = at_least(count, "count", 0)
        check_memory(memory, layout_bytes(index.bits, count))
        index._is_view = True
        codes: NDArray[Any] = memory.reshape(-1, index.bits // 8)
        if index._by_word:
            codes = memory.view(np.uint64).reshape(-1, index.bits // 64, _BLOCK_CODES)
        index._state = _State(codes, count)
        return index

    def __repr__(self) -> str:
        return f"HammingIndex({len(self):,} codes, {self.bits} bits)"

    def __len__(self) -> int:
        """Number of codes."""
        return self._state.count

    def __getitem__(
        self, ids: SupportsIndex | slice | NDArray[np.integer[Any]]
    ) -> NDArray[np.uint8]:
        """Copy codes out of the index, as uint8.

        `index[3]` has shape (bits // 8,); `index[10:20]` and `index[ids]` have shape
        (n, bits // 8).

        Raises:
            TypeError: ids is not an integer, a slice or an integer array.
            IndexError: an id is outside 0 to n - 1; negative ids are not counted from the end.
        """
        state = self._state
        if isinstance(ids, slice):
            start, end, step = ids.indices(state.count)
            if step == 1 and self._by_word:
                return self._span(state, start, max(start, end))
            return self._gather(state, np.arange(start, end, step))
        if isinstance(ids, np.ndarray) and ids.ndim == 1:
            return self._gather(state, known_ids(ids, "ids", state.count))
        slot = known_id(ids, "id", state.count)
        row: NDArray[np.uint8]
        if self._by_word:
            row = state.codes[slot // _BLOCK_CODES, :, slot % _BLOCK_CODES].copy().view(np.uint8)
        else:
            row = state.codes[slot].copy()
        return row

    def reserve(self, count: SupportsIndex) -> None:
        """Allocate memory for `count` codes in total, so that adding them copies each only once.

        Raises:
            TypeError: count is not an integer.
            ValueError: count < 0, or this index is a view.
        """
        count = at_least(count, "count", 0)
        self._check_writable()
        with self._lock:
            state = self._state
            self._state = self._with_capacity(state, count)

    def add(self, codes: NDArray[np.uint8]) -> None:
        """Append copies of codes; they get the next free ids, in order.

        Args:
            codes: uint8, shape (n, bits // 8), C-contiguous; n may be 0.

        Raises:
            TypeError: codes is not a uint8 array.
            ValueError: codes has a different shape or is not C-contiguous, or this index is a view.
        """
        self._check(codes, "codes")
        self._check_writable()
        with self._lock:
            before = self._state
            end = before.count + len(codes)
            # Growth by half: repeated adding copies each code about twice. Running searches keep
            # the old array, which no longer changes.
            grown = max(end, before.count + before.count // 2)
            state = before if end <= self._capacity(before) else self._with_capacity(before, grown)
            if self._by_word:
                _hamming.write_blocks(state.codes, state.count, codes)
            else:
                state.codes[state.count : end] = codes
            self._state = replace(state, count=end)
            self._rebuild_stale_tables()

    def replace(self, slot: SupportsIndex, code: NDArray[np.uint8]) -> None:
        """Overwrite one code.

        Args:
            slot: id of the code to overwrite, 0 to n - 1.
            code: uint8, shape (bits // 8,).

        Raises:
            TypeError: code is not a uint8 array, or slot is not an integer.
            ValueError: code has a different shape, or this index is a view.
            IndexError: slot is out of range.
        """
        check_array(code, "code")
        if code.shape != (self.bits // 8,):
            raise ValueError(f"code must have shape ({self.bits // 8},), got {code.shape}")
        self._check_writable()
        with self._lock:
            state = self._state
            self._write(state, known_id(slot, "slot", state.count), code, state.count)

    def remove(self, slot: SupportsIndex) -> None:
        """Remove one code. The last code moves into its slot, and so gets its id.

        Args:
            slot: id of the code to remove, 0 to n - 1.

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
            self._write(state, slot, self._gather(state, np.array([last]))[0], last)

    def build_tables(self, *, threads: SupportsIndex | None = None) -> None:
        """Build tables for multi-index hashing, which spare a search from scanning every code.

        They pay off where matches are close: a radius of a few bits, or clustered codes, among
        millions. From then on each search uses tables or scan, whichever costs less.

        The tables take 12 bytes per code and table, and there are about bits / log2(n) of them: 3
        tables, 3.6 GB, for 100 M codes of 64 bits. Since that exceeds the codes themselves, only
        this call builds them; see `table_bytes`.

        Changes keep the tables correct. After many changes (an eighth of the codes added, or a
        thousandth changed) `add`, `replace` or `remove` rebuilds them with all cores and holds both
        versions meanwhile. If memory runs out, the tables are dropped with a RuntimeWarning.

        Args:
            threads: maximum number of threads; by default the cores this process may use.

        Raises:
            TypeError: threads is not an integer.
            ValueError: threads < 1, or the index holds 2**32 codes or more.
        """
        threads = thread_count(threads)
        with self._lock:
            self._state = self._with_tables(self._state, threads)

    @property
    def table_bytes(self) -> int:
        """Size of the tables in bytes; 0 before `build_tables`."""
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
        """Find the k nearest codes of each query.

        Args:
            queries: uint8, shape (q, bits // 8), C-contiguous; q may be 0.
            k: maximum number of results per query, at least 1.
            filter: which codes may be found: bool, shape (m,), m <= n; or packed,
                `numpy.packbits(mask, bitorder="little")`. Codes from id m on are left out.
            exclude: for each query an id to leave out, or -1: integers, shape (q,). So
                `index.search(index[ids], exclude=ids)` finds the neighbours of stored codes.
            threads: maximum number of threads; by default the cores this process may use.
            method: "scan" or "mih" (multi-index hashing) forces one. By default a search uses
                tables if there are any; a query for which they have cost an eighth of a scan (a
                twentieth in a batch) is scanned instead.

        Returns:
            distances, int32, and ids, int64, both of shape (q, min(k, m)), where m is the number of
            codes, or of codes that the filter allows. Each row is ascending by distance (0 to
            bits), ties by lower id. A row that `exclude` leaves short ends with id -1 and distance
            bits + 1.

        Raises:
            TypeError: an array has a different dtype, or k or threads is not an integer.
            ValueError: an array has a different shape or is not C-contiguous; k or threads < 1;
                method is unknown, or "mih" before `build_tables`; or the environment variable
                BITGAZE_SIMD names no kernel.
            IndexError: exclude contains an id that does not exist.
            RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
        """
        k = hit_count(k)
        state = self._state
        request = self._request(state, queries, k, self.bits, filter, exclude, threads, method)
        allowed = state.count if filter is None else allowed_count(filter, state.count)
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
        method: Method | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Find the codes within a radius of each query.

        Args:
            queries: as for `search`.
            radius: maximum Hamming distance, inclusive, at least 0.
            k: maximum number of results per query, nearest first; by default all.
            filter: as for `search`.
            exclude: as for `search`.
            threads: as for `search`.
            method: as for `search`.

        Returns:
            lims, int64, shape (q + 1,); distances, int32; and ids, int64. The results of query i
            are distances[lims[i] : lims[i + 1]], ascending, ties by lower id, and the same slice of
            ids.

        Raises:
            As `search`; also TypeError if radius is not an integer, ValueError if it is < 0.
        """
        state = self._state
        most = max(state.count, 1) if k is None else hit_count(k)
        radius = radius_within(radius)
        request = self._request(state, queries, most, radius, filter, exclude, threads, method)
        return _hamming.within(request)

    def range_count(
        self,
        queries: NDArray[np.uint8],
        radius: SupportsIndex,
        *,
        filter: NDArray[np.bool_] | NDArray[np.uint8] | None = None,
        exclude: NDArray[np.integer[Any]] | None = None,
        threads: SupportsIndex | None = None,
    ) -> NDArray[np.int64]:
        """Count the codes within a radius of each query. Always scans; never uses tables.

        Args:
            queries: as for `search`.
            radius: maximum Hamming distance, inclusive, at least 0.
            filter: as for `search`.
            exclude: as for `search`.
            threads: as for `search`.

        Returns:
            int64, shape (q,).

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

    def _span(self, state: _State, start: int, end: int) -> NDArray[np.uint8]:
        """The codes from `start` to `end`, block by block: ten times as fast as by ids."""
        first = start // _BLOCK_CODES
        blocks = state.codes[first : -(-end // _BLOCK_CODES)].transpose(0, 2, 1)
        codes = np.ascontiguousarray(blocks).view(np.uint8).reshape(-1, self.bits // 8)
        offset = first * _BLOCK_CODES
        return codes[start - offset : end - offset].copy()

    def _check_writable(self) -> None:
        if self._is_view:
            raise ValueError(
                "this index is a view of an array and cannot be changed: "
                f"create HammingIndex({self.bits}) and add the codes to it"
            )

    def _allocate(self, count: int) -> NDArray[Any]:
        if not self._by_word:
            return aligned(count * self.bits // 8).reshape(count, self.bits // 8)
        blocks = -(-count // _BLOCK_CODES)
        memory = aligned(blocks * _BLOCK_CODES * self.bits // 8)
        return memory.view(np.uint64).reshape(blocks, self.bits // 64, _BLOCK_CODES)

    def _capacity(self, state: _State) -> int:
        return len(state.codes) * (_BLOCK_CODES if self._by_word else 1)

    def _with_capacity(self, state: _State, count: int) -> _State:
        if count <= self._capacity(state):
            return state
        codes = self._allocate(count)
        used = -(-state.count // _BLOCK_CODES) if self._by_word else state.count
        codes[:used] = state.codes[:used]
        return replace(state, codes=codes)

    def _write(self, state: _State, slot: int, code: NDArray[np.uint8], count: int) -> None:
        """Write a code into a slot and set the number of codes."""
        # First the slot is marked as changed, so that searches no longer trust the tables for it,
        # then it is written: an interrupt in between does no harm.
        changed = state.changed
        if slot < state.covered:
            at = int(np.searchsorted(changed, slot))
            if at == len(changed) or changed[at] != slot:
                changed = np.insert(changed, at, slot)
        self._state = state = replace(state, changed=changed)
        if self._by_word:
            block, column = divmod(slot, _BLOCK_CODES)
            state.codes[block, :, column] = np.ascontiguousarray(code).view(np.uint64)
        else:
            state.codes[slot] = code
        # A multiple of 64: searches read a filter in words of 64 bits.
        covered = min(state.covered, count // 64 * 64)
        self._state = replace(state, count=count, covered=covered)
        self._rebuild_stale_tables()

    def _rebuild_stale_tables(self) -> None:
        """Rebuild the tables if too much has changed; drop them if memory runs out."""
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
                "not enough memory to rebuild the tables of this HammingIndex: searches scan from "
                "now on; call build_tables() to try again",
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


def laid_out(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of codes as an index keeps them in memory; free places are zeros.

    Rows; or, for codes of several words of 64 bits, blocks of 4,096 codes by word.

    Args:
        codes: uint8, shape (n, bits // 8), C-contiguous.

    Returns:
        uint8, shape (`layout_bytes(bits, n)`,). The layouts of runs of 4,096 codes, one after the
        other, are that of all of them.

    Raises:
        TypeError: codes is not a uint8 array.
    """
    check_array(codes, "codes")
    bits = 8 * codes.shape[1]
    if not _is_by_word(bits):
        return codes.reshape(-1)
    memory = np.zeros(layout_bytes(bits, len(codes)), np.uint8)
    blocks = memory.view(np.uint64).reshape(-1, bits // 64, _BLOCK_CODES)
    _hamming.write_blocks(blocks, 0, codes)
    return memory


def layout_bytes(bits: int, count: int) -> int:
    """Size in bytes of `count` codes of `bits` bits, as an index keeps them in memory."""
    places = -(-count // _BLOCK_CODES) * _BLOCK_CODES if _is_by_word(bits) else count
    return places * bits // 8


def _is_by_word(bits: int) -> bool:
    return bits > 64 and bits % 64 == 0


def check_memory(memory: NDArray[np.uint8], size: int) -> None:
    """Check memory that holds a layout.

    Raises:
        TypeError: it is not a uint8 array.
        ValueError: another size or alignment, or it is not C-contiguous.
    """
    check_array(memory, "memory")
    if memory.shape != (size,):
        raise ValueError(f"memory must have shape ({size},), got {memory.shape}")
    check_contiguous(memory, "memory")
    if memory.ctypes.data % 8:
        raise ValueError("memory must be aligned to 8 bytes")


def simd() -> str:
    """Name of the kernel that searches use on this machine: portable, avx2, avx512 or neon.

    Chosen at first use: the one that the environment variable BITGAZE_SIMD names, or else the
    fastest that the CPU and the operating system support.

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


def aligned(size: int) -> NDArray[np.uint8]:
    """Uninitialised bytes that start on a cache line, so that no vector load crosses two lines."""
    memory = np.empty(size + _CACHE_LINE_BYTES, np.uint8)
    offset = -memory.ctypes.data % _CACHE_LINE_BYTES
    return memory[offset : offset + size]
