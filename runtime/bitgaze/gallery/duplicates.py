"""Duplicates: groups of items joined by pairs of codes within a radius, by exact comparison.

Reads image files' headers to choose the best copy; changes and deletes nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.images import dimensions
from bitgaze.errors import ImageError
from bitgaze.gallery.distances import code_distances
from bitgaze.gallery.items import Item
from bitgaze.gallery.store import Store
from bitgaze.hamming import HammingIndex

# Queries per batch: enough to be fast, few enough to hold their results in memory, which among
# near-copies can be all codes for each query.
_BLOCK = 256


@dataclass(frozen=True)
class Duplicate:
    """One member of a group of near-duplicates.

    Attributes:
        key: the item's key.
        distance: Hamming distance to the code of the best copy; 0 for the best copy.
        path: path of the item's file; None for an item added by hand.
        size: (width, height) of the image in the file, in pixels; None if it cannot be read.
        file_bytes: size of the file; None if the file is missing.
    """

    key: str
    distance: int
    path: str | None
    size: tuple[int, int] | None
    file_bytes: int | None


@dataclass(frozen=True)
class DuplicateGroup:
    """Near-duplicates: each is within the radius of at least one other member.

    Attributes:
        best: the copy to keep: the one with the most pixels; ties by largest file, then oldest
            file, then order in the gallery. Items without a readable file come last.
        others: the other members, by ascending distance to the best; ties as for `best`.
    """

    best: Duplicate
    others: tuple[Duplicate, ...]


def default_radius(bits: int) -> int:
    """The default radius of `Gallery.duplicates` for codes of this length.

    Of 128 bits: a radius of 8 finds only 86 % of the resized copies; 12 makes five wrong groups.
    """
    return bits // 12


def find_duplicates(
    store: Store, radius: int, on_progress: Callable[[int, int], None] | None
) -> list[DuplicateGroup]:
    """The groups of near-duplicates in a gallery, ordered by their first item.

    Args:
        store: the gallery's file; inside `reading`.
        radius: maximum Hamming distance of two items that are joined.
        on_progress: called with (done, total) distinct codes.
    """
    groups = near_groups(store.index, radius, on_progress)
    return [_group([store.item(int(slot)) for slot in slots]) for slots in groups]


def near_groups(
    index: HammingIndex, radius: int, on_progress: Callable[[int, int], None] | None = None
) -> list[NDArray[np.int64]]:
    """Connected components of codes, joined by pairs within a radius; compares every pair.

    Args:
        index: the codes.
        radius: maximum Hamming distance of a pair, at least 0.
        on_progress: called with (done, total) distinct codes.

    Returns:
        The ids of each group of at least two, int64, ascending; groups by their first id.
    """
    codes, code_of = _distinct(index[:])
    # A forest as parent pointers; each root is the smallest id of its tree.
    parent = np.arange(len(codes))
    searched = HammingIndex(index.bits)
    searched.reserve(len(codes))
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        searched.add(block)  # finds each pair once, when its second code is added
        lims, _, near = searched.range_search(block, radius)
        ids = np.repeat(np.arange(start, start + len(block)), np.diff(lims))
        _join(parent, ids, near)
        if on_progress is not None:
            on_progress(start + len(block), len(codes))
    roots = _roots(parent, np.arange(len(codes)))[code_of]
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def _distinct(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The distinct codes, and the row of each given code among them.

    A thousand black frames would be half a million pairs of equal codes.
    """
    if not len(codes):
        return codes, np.zeros(0, np.int64)
    as_scalars = codes.view(np.dtype((np.void, codes.shape[1])))[:, 0]
    _, first, code_of = np.unique(as_scalars, return_index=True, return_inverse=True)
    return codes[first], code_of


def _join(parent: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Join the trees of each pair."""
    while len(one):
        one, other = _roots(parent, one), _roots(parent, other)
        apart = one != other
        one, other = one[apart], other[apart]
        # The smaller root becomes the parent. If a root has several pairs, one assignment wins, and
        # the others are left for the next round.
        parent[np.maximum(one, other)] = np.minimum(one, other)


def _roots(parent: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    roots = parent[ids]
    while True:
        above = parent[roots]
        if (above == roots).all():
            break
        roots = above
    parent[ids] = roots  # path compression
    return roots


def _group(items: list[Item]) -> DuplicateGroup:
    candidates = sorted(((_file_info(item), item) for item in items), key=_preference)
    best = candidates[0][1]
    distances = code_distances(np.array([item.code for _, item in candidates]), best.code)
    members = [
        Duplicate(item.key, distance, item.path, info.size, info.file_bytes)
        for distance, (info, item) in zip(distances.tolist(), candidates, strict=True)
    ]
    others = sorted(members[1:], key=lambda member: member.distance)
    return DuplicateGroup(members[0], tuple(others))


@dataclass(frozen=True)
class _FileInfo:
    """What is known of an item's image file."""

    size: tuple[int, int] | None
    file_bytes: int | None
    mtime_ns: int


def _file_info(item: Item) -> _FileInfo:
    if item.path is None:
        return _FileInfo(None, None, 0)
    try:
        status = os.stat(item.path)  # noqa: PTH116 (surrogates)
        return _FileInfo(dimensions(item.path), status.st_size, status.st_mtime_ns)
    except OSError:
        return _FileInfo(None, None, 0)
    except ImageError:
        return _FileInfo(None, status.st_size, status.st_mtime_ns)


def _preference(candidate: tuple[_FileInfo, Item]) -> tuple[bool, int, int, int]:
    """Sort key: the best copy first."""
    info, _ = candidate
    if info.size is None:
        return True, 0, 0, 0
    width, height = info.size
    return False, -width * height, -(info.file_bytes or 0), info.mtime_ns
