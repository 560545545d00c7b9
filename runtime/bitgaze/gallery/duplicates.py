"""Groups of near-duplicates: all pairs of a gallery's codes within a radius, joined.

Knows codes, items and the headers of image files. Changes and deletes nothing.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.images import dimensions
from bitgaze.errors import ImageError
from bitgaze.gallery.items import Item
from bitgaze.gallery.store import Store
from bitgaze.hamming import HammingIndex

# Queries at a time: enough for a batch to be fast, few enough for what it finds among near-copies
# (each at most all codes) to stay in memory.
_BLOCK = 256


@dataclass(frozen=True)
class Duplicate:
    """One member of a group.

    Attributes:
        key: of the item.
        distance: Hamming distance to the best copy's code.
        path: of the item's file, or None for an item added by hand.
        size: (width, height) of the image in pixels, as stored; None where it cannot be read.
        file_bytes: of the file; None where it is gone.
    """

    key: str
    distance: int
    path: str | None
    size: tuple[int, int] | None
    file_bytes: int | None


@dataclass(frozen=True)
class DuplicateGroup:
    """Images that are near to each other, or joined by others that are.

    Attributes:
        best: the copy to keep: the one of the most pixels; of these the largest file; then the
            oldest file; then the first that the gallery got. One without a readable file comes
            after all that have one.
        others: by ascending distance to the best one, then as for `best`.
    """

    best: Duplicate
    others: tuple[Duplicate, ...]


def default_radius(bits: int) -> int:
    """How many bits near-duplicates may differ in, where nobody says; see `Gallery.duplicates`.

    At 8 bits of 128 it would be 86 % of the smaller ones; at 12, five groups that are none.
    """
    return bits // 12


def find_duplicates(
    store: Store, radius: int, on_progress: Callable[[int, int], None] | None
) -> list[DuplicateGroup]:
    """The groups of a gallery, in the order of each group's first item.

    Args:
        store: the gallery's file; inside `reading`.
        radius: Hamming distance up to which two items are joined.
        on_progress: called with (done, total) codes.
    """
    groups = near_groups(store.index, radius, on_progress)
    return [_group([store.item(int(slot)) for slot in slots]) for slots in groups]


def near_groups(
    index: HammingIndex, radius: int, on_progress: Callable[[int, int], None] | None = None
) -> list[NDArray[np.int64]]:
    """Ids of codes that are joined by pairs within a radius; exact, every pair is looked at.

    Args:
        index: the codes.
        radius: Hamming distance, at least 0.
        on_progress: called with (done, total) different codes.

    Returns:
        Of each group of two and more its ids, ascending; groups by their first id.
    """
    codes, code_of = _different(index[:])
    # Parents of a forest; a root is the smallest of its tree.
    parent = np.arange(len(codes))
    before = HammingIndex(index.bits)
    before.reserve(len(codes))
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        before.add(block)  # each pair is met once, when the second of it comes
        lims, _, near = before.range_search(block, radius)
        ids = np.repeat(np.arange(start, start + len(block)), np.diff(lims))
        _join(parent, ids, near)
        if on_progress is not None:
            on_progress(start + len(block), len(codes))
    roots = _roots(parent, np.arange(len(codes)))[code_of]
    order = np.argsort(roots, kind="stable")
    starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
    groups = [group for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups, key=lambda group: int(group[0]))


def _different(codes: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Codes without repetition, and for each given one its row there.

    A thousand black frames are a thousand equal codes, and half a million pairs.
    """
    if not len(codes):
        return codes, np.zeros(0, np.int64)
    whole = codes.view(np.dtype((np.void, codes.shape[1])))[:, 0]
    _, first, code_of = np.unique(whole, return_index=True, return_inverse=True)
    return codes[first], code_of


def _join(parent: NDArray[np.int64], one: NDArray[np.int64], other: NDArray[np.int64]) -> None:
    """Join the trees of pairs."""
    while len(one):
        one, other = _roots(parent, one), _roots(parent, other)
        apart = one != other
        one, other = one[apart], other[apart]
        # The smaller root becomes the parent; where several do, one is taken and the rest stay for
        # the next round.
        parent[np.maximum(one, other)] = np.minimum(one, other)


def _roots(parent: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.int64]:
    roots = parent[ids]
    while True:
        above = parent[roots]
        if (above == roots).all():
            break
        roots = above
    parent[ids] = roots  # shorter next time
    return roots


def _group(items: list[Item]) -> DuplicateGroup:
    members = [(_facts(item), item) for item in items]
    ranked = sorted(range(len(items)), key=lambda n: _preference(*members[n]))
    best = items[ranked[0]]

    def member(n: int) -> Duplicate:
        facts, item = members[n]
        distance = int(np.unpackbits(item.code ^ best.code).sum())
        return Duplicate(item.key, distance, item.path, facts.size, facts.file_bytes)

    others = sorted((member(n) for n in ranked[1:]), key=lambda other: other.distance)
    return DuplicateGroup(member(ranked[0]), tuple(others))


@dataclass(frozen=True)
class _Facts:
    """What an image's file says of itself."""

    size: tuple[int, int] | None
    file_bytes: int | None
    mtime_ns: int


def _facts(item: Item) -> _Facts:
    if item.path is None:
        return _Facts(None, None, 0)
    try:
        status = os.stat(item.path)  # noqa: PTH116 (surrogates)
        return _Facts(dimensions(item.path), status.st_size, status.st_mtime_ns)
    except OSError:
        return _Facts(None, None, 0)
    except ImageError:
        return _Facts(None, status.st_size, status.st_mtime_ns)


def _preference(facts: _Facts, item: Item) -> tuple[bool, int, int, int]:
    """Smaller is better."""
    if facts.size is None:
        return True, 0, 0, 0
    width, height = facts.size
    return False, -width * height, -(facts.file_bytes or 0), facts.mtime_ns
