"""Checks of arguments: public methods validate once with these, code below trusts the values."""

import operator
import sys
from typing import Any, SupportsIndex, TypeGuard

import numpy as np
from numpy.typing import NDArray

from bitgaze.cores import available_cores

MAX_BITS = 1024
MAX_VIEWS = 8
_MAX_THREADS = 4096  # more than any search uses, and small enough for the extension's int


def integer(value: SupportsIndex, name: str) -> int:
    """Any kind of integer as an int.

    Raises:
        TypeError: value is not an integer; True and False are not.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got bool")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}") from None


def at_least(value: SupportsIndex, name: str, minimum: int) -> int:
    """An integer that is not below a minimum, as an int.

    Raises:
        TypeError: value is not an integer.
        ValueError: value is below the minimum.
    """
    number = integer(value, name)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")
    return number


def code_length(bits: SupportsIndex) -> int:
    """Length of a code in bits: a multiple of 8 from 8 to 1024.

    Raises:
        TypeError: bits is not an integer.
        ValueError: bits is not such a multiple.
    """
    length = integer(bits, "bits")
    if not 8 <= length <= MAX_BITS or length % 8:
        raise ValueError(f"bits must be a multiple of 8 from 8 to {MAX_BITS}, got {bits}")
    return length


def view_count(views: SupportsIndex) -> int:
    """Number of codes of an item or a query: 1 to 8.

    Raises:
        TypeError: views is not an integer.
        ValueError: views is out of that range.
    """
    count = integer(views, "views")
    if not 1 <= count <= MAX_VIEWS:
        raise ValueError(f"views must be 1 to {MAX_VIEWS}, got {views}")
    return count


def hit_count(k: SupportsIndex) -> int:
    """Maximum number of hits.

    Raises:
        TypeError: k is not an integer.
        ValueError: k < 1.
    """
    return at_least(k, "k", 1)


def thread_count(threads: SupportsIndex | None) -> int:
    """Number of threads; None means one per core that this process may use.

    Raises:
        TypeError: threads is not an integer.
        ValueError: threads < 1.
    """
    if threads is None:
        return available_cores()
    return min(at_least(threads, "threads", 1), _MAX_THREADS)


def radius_within(radius: SupportsIndex) -> int:
    """Hamming radius, clipped to the length of the longest code.

    Raises:
        TypeError: radius is not an integer.
        ValueError: radius < 0.
    """
    return min(at_least(radius, "radius", 0), MAX_BITS)


def known_id(slot: SupportsIndex, name: str, count: int) -> int:
    """An id in 0 to count - 1, as an int.

    Raises:
        TypeError: slot is not an integer.
        IndexError: slot is out of that range.
    """
    slot = integer(slot, name)
    if not 0 <= slot < count:
        raise IndexError(f"no {name} {slot}: this index holds {count} codes")
    return slot


def known_ids(ids: NDArray[np.integer[Any]], name: str, count: int) -> NDArray[np.int64]:
    """Ids in 0 to count - 1, as int64 of the same shape.

    Raises:
        TypeError: the dtype is not an integer type.
        IndexError: an id is out of that range.
    """
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got dtype {ids.dtype}")
    unknown = ids[(ids < 0) | (ids >= count)]
    if len(unknown):
        raise IndexError(f"no id {unknown[0]}: this index holds {count} codes")
    return ids.astype(np.int64)


def excluded_ids(exclude: NDArray[np.integer[Any]], queries: int, count: int) -> NDArray[np.int64]:
    """For each query an id in 0 to count - 1, or -1 for none: int64, shape (queries,).

    Raises:
        TypeError: exclude is not an integer array.
        ValueError: its shape differs.
        IndexError: an id is out of that range.
    """
    if not _is_plain_array(exclude):
        raise TypeError(f"exclude must be an integer array, got {type(exclude).__name__}")
    if exclude.shape != (queries,):
        raise ValueError(
            f"exclude must have one id per query, shape ({queries},), got {exclude.shape}"
        )
    known_ids(exclude[exclude != -1], "exclude", count)
    return exclude.astype(np.int64)


def bitmap(filter: NDArray[np.bool_] | NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """A filter with one bit per code; the first code is the lowest bit of byte 0.

    Args:
        filter: bool, shape (m,), m <= count; or already packed: uint8, C-contiguous.
        count: number of codes.

    Returns:
        uint8, shape (bytes,).

    Raises:
        TypeError: filter is not an array of one of these types.
        ValueError: its shape differs, it covers more than `count` codes, or it is not C-contiguous.
    """
    if not _is_plain_array(filter) or filter.dtype not in {np.dtype(bool), np.dtype("u1")}:
        got = filter.dtype if _is_plain_array(filter) else type(filter).__name__
        raise TypeError(f"filter must be a bool array or a packed uint8 array, got {got}")
    max_length = count if filter.dtype == bool else -(-count // 8)
    if filter.ndim != 1 or len(filter) > max_length:
        raise ValueError(
            f"filter must have shape (m,), m at most {max_length} for {count} codes, "
            f"got {filter.shape}"
        )
    if filter.dtype == bool:
        return np.packbits(filter, bitorder="little")
    check_contiguous(filter, "filter")
    return filter.view(np.uint8)


def allowed_count(filter: NDArray[np.bool_] | NDArray[np.uint8], count: int) -> int:
    """Number of codes that a filter allows; `bitmap` must have accepted the filter."""
    if filter.dtype == bool:
        return int(np.count_nonzero(filter))
    return (int.from_bytes(filter.tobytes(), "little") & ((1 << count) - 1)).bit_count()


def check_array(array: object, name: str) -> None:
    """Raise TypeError unless `array` is a uint8 array."""
    if not _is_plain_array(array):
        raise TypeError(f"{name} must be a uint8 array, got {type(array).__name__}")
    if array.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array, got dtype {array.dtype}")


def check_contiguous(array: NDArray[Any], name: str) -> None:
    """Raise ValueError unless `array` is C-contiguous."""
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{name} must be C-contiguous, got strides {array.strides}: pass "
            f"numpy.ascontiguousarray({name})"
        )


def _is_plain_array(array: object) -> TypeGuard[NDArray[Any]]:
    """False for masked arrays too: their mask would be ignored."""
    # `np.ma` would import the module, 24 ms; without it, no array has a mask.
    masked = getattr(sys.modules.get("numpy.ma"), "MaskedArray", ())
    return isinstance(array, np.ndarray) and not isinstance(array, masked)
