"""Arguments that callers pass in, checked once: clear errors here, trust below."""

import operator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from bitgaze.cores import available_cores

MAX_BITS = 1024


def integer(value: SupportsIndex, name: str) -> int:
    """An integer of any kind as int, else TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def code_length(bits: SupportsIndex) -> int:
    """The length of a code: a multiple of 8 from 8 to 1024."""
    length = integer(bits, "bits")
    if not 8 <= length <= MAX_BITS or length % 8:
        raise ValueError(f"bits must be a multiple of 8 from 8 to {MAX_BITS}, got {bits}")
    return length


def hit_count(k: SupportsIndex) -> int:
    """The maximum number of hits: at least 1."""
    if integer(k, "k") < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return integer(k, "k")


def thread_count(threads: SupportsIndex | None) -> int:
    """At least 1; by default the cores this process may use."""
    if threads is None:
        return available_cores()
    if integer(threads, "threads") < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return min(integer(threads, "threads"), 4096)  # the extension uses fewer, but takes no 10**30


def radius_within(radius: SupportsIndex) -> int:
    """At least 0, and no more than any code has bits."""
    if integer(radius, "radius") < 0:
        raise ValueError(f"radius must be at least 0, got {radius}")
    return min(integer(radius, "radius"), MAX_BITS)


def known_id(slot: SupportsIndex, name: str, count: int) -> int:
    """An id below count, else IndexError."""
    slot = integer(slot, name)
    if not 0 <= slot < count:
        raise IndexError(f"no {name} {slot}: this index holds {count} codes")
    return slot


def known_ids(ids: NDArray[np.integer[Any]], name: str, count: int) -> NDArray[np.int64]:
    """Ids below count, int64; else IndexError."""
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got dtype {ids.dtype}")
    unknown = ids[(ids < 0) | (ids >= count)]
    if len(unknown):
        raise IndexError(f"no id {unknown[0]}: this index holds {count} codes")
    return ids.astype(np.int64)


def excluded_ids(exclude: NDArray[np.integer[Any]], queries: int, count: int) -> NDArray[np.int64]:
    """An id below count, or -1, for each query: int64."""
    if not isinstance(exclude, np.ndarray) or isinstance(exclude, np.ma.MaskedArray):
        raise TypeError(f"exclude must be an integer array, got {type(exclude).__name__}")
    if exclude.shape != (queries,):
        raise ValueError(
            f"exclude must have an id for each query, shape ({queries},), got {exclude.shape}"
        )
    known_ids(exclude[exclude != -1], "exclude", count)
    return exclude.astype(np.int64)


def bitmap(filter: NDArray[np.bool_] | NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """A filter as a bit for each code, the first in the lowest bit of byte 0."""
    is_plain = isinstance(filter, np.ndarray) and not isinstance(filter, np.ma.MaskedArray)
    if not is_plain or filter.dtype not in {np.dtype(bool), np.dtype("u1")}:
        got = filter.dtype if is_plain else type(filter).__name__
        raise TypeError(f"filter must be a bool array, or a packed uint8 array, got {got}")
    most = count if filter.dtype == bool else -(-count // 8)
    if filter.ndim != 1 or len(filter) > most:
        raise ValueError(
            f"filter must have shape (m,), m at most {most} for {count} codes, got {filter.shape}"
        )
    if filter.dtype == bool:
        return np.packbits(filter, bitorder="little")
    check_contiguous(filter, "filter")
    return filter.view(np.uint8)


def allowed_count(filter: NDArray[np.bool_] | NDArray[np.uint8], count: int) -> int:
    """How many codes a filter, checked already, lets pass."""
    if filter.dtype == bool:
        return int(np.count_nonzero(filter))
    return (int.from_bytes(filter.tobytes(), "little") & ((1 << count) - 1)).bit_count()


def check_array(array: object, name: str) -> None:
    """TypeError for what is not a uint8 array."""
    # A masked array is one, but its mask would be ignored.
    if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a uint8 array, got {type(array).__name__}")
    if array.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array, got dtype {array.dtype}")


def check_contiguous(array: NDArray[Any], name: str) -> None:
    """ValueError for an array that is not C-contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, got strides {array.strides}: pass "
            f"numpy.ascontiguousarray({name})"
        )
