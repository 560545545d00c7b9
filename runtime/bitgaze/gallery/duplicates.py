"""Duplicates: groups of copies of one image, each joined to the best of them; look-alikes if asked.

copies.py finds copies; look-alikes are those within a radius of semantic codes, of which every pair
is compared. Reads image files to choose the best copy; changes and deletes nothing.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.images import Header, header, with_upright
from bitgaze.encoding.originals import coefficients, was_saved_from
from bitgaze.errors import ImageError
from bitgaze.gallery.copies import Copies, near_pairs
from bitgaze.gallery.distances import code_distances
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.items import ImageRef
from bitgaze.gallery.store import Store

Tier: TypeAlias = Literal["identical", "copy", "look-alike"]

_TIERS: tuple[Tier, ...] = get_args(Tier)
_IDENTICAL, _COPIED, _ALIKE, _APART = range(4)
# Larger than any image: it is decoded in full.
_FULL_SIDE = 1 << 30


@dataclass(frozen=True)
class Duplicate:
    """One member of a group of duplicates.

    Attributes:
        key: the item's key.
        distance: Hamming distance to the code of the best copy; 0 for the best copy.
        path: path of the item's file; None for an item added by hand.
        size: (width, height) of the image in the file, in pixels; None if it cannot be read.
        file_bytes: size of the file; None if the file is missing.
        tier: what it is to the best copy: "identical" (a file with the same bytes), "copy" (the
            same image, resized, compressed or otherwise altered) or "look-alike"; None for the
            best copy.
    """

    key: str
    distance: int
    path: str | None
    size: tuple[int, int] | None
    file_bytes: int | None
    tier: Tier | None = None


@dataclass(frozen=True)
class DuplicateGroup:
    """An image and its duplicates; each was compared with the best copy itself.

    Attributes:
        best: the copy to keep: the one with the most pixels; then the least compressed, by JPEG's
            quantisation tables, where one that was saved from another comes after it; then one with
            EXIF data, one that is upright without them, the oldest file, the first in the gallery.
            Items without a readable file come last.
        others: the other members, by tier, then by distance of their structural codes to the best,
            then as for `best`.
    """

    best: Duplicate
    others: tuple[Duplicate, ...]


def default_radius(bits: int) -> int:
    """The default radius of look-alikes in `Gallery.duplicates` for codes of this length.

    Of 128 bits: a radius of 8 finds only 86 % of the resized copies; 12 makes five wrong groups.
    """
    return bits // 12


def find_duplicates(
    store: Store,
    radius: int | None,
    conditions: Sequence[Condition] = (),
    reference: bytes | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    *,
    rotated: bool = False,
) -> list[DuplicateGroup]:
    """The groups of duplicates in a gallery, ordered by their first item.

    Args:
        store: the gallery's file; inside `reading`.
        radius: maximum Hamming distance of look-alikes; None to leave them out.
        conditions: an item must meet all of them.
        reference: absolute path of a folder: the best copies are those of files in it, and the
            others are those elsewhere.
        on_progress: called with (done, total), from the start for each comparison; then of groups,
            whose files are read.
        rotated: whether a turned or mirrored image is a copy.
    """
    slots = np.flatnonzero(store.allowed(conditions)) if conditions else np.arange(len(store.index))
    refs = store.image_refs()
    chosen = [refs[slot] for slot in slots.tolist()]
    pairs = _Pairs(store, slots, chosen, radius, rotated=rotated)
    files = _Files(chosen, reference)
    groups: list[tuple[int, DuplicateGroup]] = []
    components = list(pairs.components(on_progress))
    for done, rows in enumerate(components, start=1):
        groups += _groups(pairs, files, rows)
        if on_progress is not None:
            on_progress(done, len(components))
    return [group for _, group in sorted(groups, key=lambda found: found[0])]


class _Pairs:
    """What is known of pairs of images.

    Args:
        store: the gallery's file; inside `reading`.
        slots: of the images; they are known by their row in here.
        refs: of each.
        radius: as for `find_duplicates`.
        rotated: as for `find_duplicates`.
    """

    def __init__(
        self,
        store: Store,
        slots: NDArray[np.int64],
        refs: list[ImageRef],
        radius: int | None,
        *,
        rotated: bool,
    ) -> None:
        self._radius = radius
        self._identities = [ref.identity for ref in refs]
        self._copies = Copies(store, slots, [ref.file for ref in refs], rotated=rotated)
        self._distinct = store.distinct_pairs()

    def components(
        self, on_progress: Callable[[int, int], None] | None
    ) -> Iterator[NDArray[np.int64]]:
        """Rows that pairs join, directly or through others: ascending, at least two."""
        # A forest as parent pointers; each root is the smallest row of its tree.
        parent = np.arange(len(self._identities))
        first: dict[bytes, int] = {}
        same = [first.setdefault(name, row) for row, name in enumerate(self._identities)]
        _join(parent, np.arange(len(parent)), np.array(same, np.int64))
        for one, other in self._copies.pairs(on_progress):
            _join(parent, one, other)
        if self._radius is not None:
            for one, other, _ in near_pairs(self._copies.semantic, self._radius, on_progress):
                _join(parent, one, other)
        roots = _roots(parent, np.arange(len(parent)))
        order = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[order], prepend=-1))
        return (rows for rows in np.split(order, starts[1:]) if len(rows) > 1)

    def compare(
        self, row: int, others: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Compare an image with others.

        Returns:
            int64, (n,) each: tiers, by number, `_APART` if they are no duplicates; structural
            distances; semantic distances.
        """
        structure, codes = self._copies.structure, self._copies.semantic
        semantic = code_distances(codes[row], codes[others])
        structural = code_distances(structure[row], structure[others])
        tiers = np.full(len(others), _APART)
        if self._radius is not None:
            tiers[semantic <= self._radius] = _ALIKE
        tiers[self._copies.are_copies(np.full(len(others), row), others)] = _COPIED
        own = self._identities[row]
        tiers[[self._identities[other] == own for other in others.tolist()]] = _IDENTICAL
        return tiers, structural, semantic

    def are_distinct(self, row: int, others: Sequence[int]) -> bool:
        """Whether a person called an image distinct from any of some others."""
        if not self._distinct:
            return False
        one = self._identities[row]
        names = [self._identities[other] for other in others]
        return any((min(one, name), max(one, name)) in self._distinct for name in names)


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


def _groups(
    pairs: _Pairs, files: "_Files", rows: NDArray[np.int64]
) -> Iterator[tuple[int, DuplicateGroup]]:
    """The groups in a component, each with its first row.

    The best of all takes those that are its duplicates; the best of those left takes its own, and
    so on. Nothing is in a group through another member alone.
    """
    left = sorted(rows.tolist(), key=files.preference)
    while len(left) > 1:
        best = _original(pairs, files, left)
        left.remove(best)
        others = np.array(left)
        tiers, structural, semantic = pairs.compare(best, others)
        members: list[int] = []
        found: list[Duplicate] = []
        for place in np.lexsort((structural, tiers)).tolist():
            row = left[place]
            if tiers[place] == _APART:
                break
            if pairs.are_distinct(row, [best, *members]):
                continue
            members.append(row)
            if files.may_go(row):
                tier: Tier = _TIERS[tiers[place]]
                found.append(files.member(row, int(semantic[place]), tier))
        taken = set(members)
        left = [row for row in left if row not in taken]
        if found and files.may_stay(best):
            group = DuplicateGroup(files.member(best, 0, None), tuple(found))
            yield min([best, *members]), group


def _original(pairs: _Pairs, files: "_Files", rows: list[int]) -> int:
    """The best of some images, of which the first is preferred by what headers say."""
    best = rows[0]
    equals = [row for row in rows if files.rank(row) == files.rank(best)]
    tiers, _, _ = pairs.compare(best, np.array(equals))
    equals = [row for row, tier in zip(equals, tiers, strict=True) if tier <= _COPIED]
    # The finest table first; it counts only if the image is not one of the others saved again.
    for place, row in enumerate(equals):
        if not any(files.was_saved_from(row, other) for other in equals[place + 1 :]):
            return row
    return best


class _File(NamedTuple):
    """What is known of an item's image file."""

    header: Header | None
    file_bytes: int | None
    mtime_ns: int


class _Files:
    """The image files of items, read when asked for.

    Args:
        refs: of the items.
        reference: as for `find_duplicates`.
    """

    def __init__(self, refs: list[ImageRef], reference: bytes | None) -> None:
        self._refs = refs
        self._prefix = None if reference is None else os.path.join(reference, b"")  # noqa: PTH118
        self._files: dict[int, _File] = {}

    def may_stay(self, row: int) -> bool:
        """Whether an item may be the best of a group."""
        return self._prefix is None or self._is_in_reference(row)

    def may_go(self, row: int) -> bool:
        """Whether an item may be one of the others."""
        return self._prefix is None or not self._is_in_reference(row)

    def rank(self, row: int) -> tuple[bool, int]:
        """What decides first, the least before others: reference, pixels."""
        found = self._file(row).header
        pixels = 0 if found is None else found.size[0] * found.size[1]
        return not self.may_stay(row), -pixels

    def preference(self, row: int) -> tuple[float, ...]:
        """Sort key: the best copy first, as far as headers tell."""
        file = self._file(row)
        found = file.header
        if found is None:
            return *self.rank(row), 0, 0, 0, 0, 0, row
        step = np.inf if found.steps is None else sum(found.steps) / len(found.steps)
        by_past = not found.is_jpeg, not found.has_exif, found.is_turned, file.mtime_ns
        return *self.rank(row), float(step), *by_past, row

    def was_saved_from(self, row: int, other: int) -> bool:
        """Whether an image is just what its compression makes of another with coarser steps."""
        one, two = self._file(row).header, self._file(other).header
        if one is None or two is None or one.size != two.size or min(one.size) < 8:
            return False
        if one.steps is None or not two.is_jpeg or one.steps == two.steps:
            return False
        if one.is_turned or two.is_turned:  # whose blocks lie elsewhere
            return False
        copy, original = self._decoded(row), self._decoded(other)
        return (
            copy is not None and original is not None and was_saved_from(copy, original, one.steps)
        )

    def member(self, row: int, distance: int, tier: Tier | None) -> Duplicate:
        """An item as a member of a group."""
        file, ref = self._file(row), self._refs[row]
        size = None if file.header is None else file.header.size
        path = None if ref.file is None else os.fsdecode(ref.file.path)
        return Duplicate(ref.key, distance, path, size, file.file_bytes, tier)

    def _is_in_reference(self, row: int) -> bool:
        file = self._refs[row].file
        return file is not None and self._prefix is not None and file.path.startswith(self._prefix)

    def _file(self, row: int) -> _File:
        if row not in self._files:
            self._files[row] = _read_file(self._refs[row])
        return self._files[row]

    def _decoded(self, row: int) -> NDArray[np.float64] | None:
        file = self._refs[row].file
        if file is None:
            return None
        try:
            return with_upright(os.fsdecode(file.path), _FULL_SIDE, coefficients)
        except ImageError:
            return None


def _read_file(ref: ImageRef) -> _File:
    if ref.file is None:
        return _File(None, None, 0)
    try:
        status = os.stat(ref.file.path)  # noqa: PTH116 (bytes)
        return _File(header(os.fsdecode(ref.file.path)), status.st_size, status.st_mtime_ns)
    except OSError:
        return _File(None, None, 0)
    except ImageError:
        return _File(None, status.st_size, status.st_mtime_ns)
