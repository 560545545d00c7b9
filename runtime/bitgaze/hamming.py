"""HammingIndex: exact nearest neighbours among binary codes, in memory.

Knows bytes and bits. Does not know what a code stands for, models, images or files.
"""

import operator
import threading
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bitgaze import _hamming

MAX_BITS = 1024
_ALIGNMENT = 64


class HammingIndex:
    """A growing array of binary codes; a search compares a query with every one of them.

    A code's id is its position: the first code added has id 0, the next 1. Results are exact, and
    the same on every machine.

    Any number of threads may search while one adds: a search sees the codes that were there when
    it began. `replace` and `remove` change codes in place, so a search that runs at that moment may
    see a code half changed; keep them apart with a lock of your own if that matters.

    Attributes:
        bits: the length of a code, a multiple of 8 from 8 to 1024.
    """

    def __init__(self, bits: int) -> None:
        """Makes an empty index.

        Args:
            bits: length of a code: a multiple of 8 from 8 to 1024.

        Raises:
            TypeError: bits is not an integer.
            ValueError: bits is not one of those lengths.
        """
        bits = _integer(bits, "bits")
        if not 8 <= bits <= MAX_BITS or bits % 8:
            raise ValueError(f"bits must be a multiple of 8 from 8 to {MAX_BITS}, got {bits}")
        self.bits = bits
        self._lock = threading.Lock()  # held by writers; a reader takes _codes once
        self._buffer = _aligned(0, bits // 8)
        self._codes = _read_only(self._buffer)

    def __len__(self) -> int:
        """How many codes there are."""
        return len(self._codes)

    @property
    def codes(self) -> NDArray[np.uint8]:
        """The codes: uint8, shape (n, bits // 8), C-contiguous, row i the code with id i.

        A read-only view of the n codes of this moment, not a copy: `add` leaves it as it is,
        `replace` and `remove` show through.
        """
        return self._codes

    def add(self, codes: NDArray[np.uint8]) -> None:
        """Appends codes; they get the ids that follow. The codes are copied.

        Args:
            codes: uint8, shape (n, bits // 8), C-contiguous; n may be 0.

        Raises:
            TypeError: codes is not a uint8 array.
            ValueError: its shape is another, or it is not C-contiguous.
        """
        self._check(codes, "codes")
        with self._lock:
            begin = len(self._codes)
            end = begin + len(codes)
            if end > len(self._buffer):
                # Half as much again: repeated adding copies each code about twice. The old buffer
                # stays alive, unchanged, for the searches that use it.
                buffer = _aligned(max(end, begin + begin // 2), self.bits // 8)
                buffer[:begin] = self._codes
                self._buffer = buffer
            self._buffer[begin:end] = codes
            self._codes = _read_only(self._buffer[:end])

    def replace(self, slot: int, code: NDArray[np.uint8]) -> None:
        """Puts another code in the place of one.

        Args:
            slot: id of the code to overwrite, 0 to n - 1.
            code: uint8, shape (bits // 8,).

        Raises:
            TypeError: code is not a uint8 array, or slot is not an integer.
            ValueError: the shape of code is another.
            IndexError: there is no such slot.
        """
        _check_array(code, "code")
        if code.shape != (self.bits // 8,):
            raise ValueError(f"code must have shape ({self.bits // 8},), got {code.shape}")
        with self._lock:
            self._buffer[self._known(slot)] = code

    def remove(self, slot: int) -> None:
        """Takes a code out and moves the last one into its slot, which changes that one's id.

        Args:
            slot: id of the code to take out, 0 to n - 1.

        Raises:
            TypeError: slot is not an integer.
            IndexError: there is no such slot.
        """
        with self._lock:
            slot = self._known(slot)
            last = len(self._codes) - 1
            self._buffer[slot] = self._buffer[last]
            self._codes = _read_only(self._buffer[:last])

    def search(
        self, queries: NDArray[np.uint8], k: SupportsIndex = 10
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Finds the k nearest codes of each query.

        Args:
            queries: uint8, shape (q, bits // 8), C-contiguous; q may be 0.
            k: how many to find for each query, at least 1.

        Returns:
            distances, int32, and ids, int64, both of shape (q, min(k, n)): in each row ascending
            by distance (0 to bits), ties by lower id.

        Raises:
            TypeError: queries is not a uint8 array, or k is not an integer.
            ValueError: queries has another shape or is not C-contiguous, or k < 1; or the
                environment variable BITGAZE_SIMD names no kernel.
            RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
        """
        self._check(queries, "queries")
        k = _integer(k, "k")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        codes = self._codes
        return _hamming.search(codes, queries, min(k, max(len(codes), 1)))

    def _check(self, array: NDArray[np.uint8], name: str) -> None:
        _check_array(array, name)
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
        if not array.flags.c_contiguous:
            raise ValueError(
                f"{name} must be C-contiguous, got strides {array.strides}: pass "
                f"numpy.ascontiguousarray({name})"
            )

    def _known(self, slot: int) -> int:
        slot = _integer(slot, "slot")
        if not 0 <= slot < len(self._codes):
            raise IndexError(f"no slot {slot}: this index holds {len(self._codes)} codes")
        return slot


def simd() -> str:
    """The kernel that searches use on this machine: portable, avx2, avx512 or neon.

    Decided at first use: the fastest that the CPU and the operating system allow, or the one that
    the environment variable BITGAZE_SIMD names.

    Raises:
        ValueError: BITGAZE_SIMD names no kernel.
        RuntimeError: BITGAZE_SIMD names a kernel that this machine cannot run.
    """
    return _hamming.kernel()


def _integer(value: SupportsIndex, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def _check_array(array: object, name: str) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a uint8 array, got {type(array).__name__}")
    if array.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array, got dtype {array.dtype}")


def _aligned(count: int, code_bytes: int) -> NDArray[np.uint8]:
    """Room for count codes that begins on a cache line, so that no vector load crosses two."""
    size = count * code_bytes
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % _ALIGNMENT
    return memory[offset : offset + size].reshape(count, code_bytes)


def _read_only(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    view = codes.view()
    view.flags.writeable = False
    return view
