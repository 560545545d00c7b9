"""Which images of a gallery are copies of each other, by what is stored of them.

Structural codes find candidates among all pairs, and parts among images that are near in meaning;
`bitgaze.encoding.likeness` decides, seen from both images of a pair. Of parts it only says which
are likely; the pixels of both images decide, read from their files.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.likeness import (
    COPY,
    MOST_MOVED,
    PARTS_COMPARED,
    SETTLED,
    WORTH_READING,
    Surroundings,
    same_image,
    same_part,
    surroundings,
)
from bitgaze.encoding.parts import agreements, agreements_with_parts
from bitgaze.encoding.structure import turned_versions
from bitgaze.gallery.distances import code_distances
from bitgaze.gallery.hits import semantic_evidence
from bitgaze.gallery.items import FileState
from bitgaze.gallery.overlap import Overlap
from bitgaze.gallery.store import Store
from bitgaze.hamming import HammingIndex

Progress: TypeAlias = Callable[[int, int], None]
Rows: TypeAlias = NDArray[np.int64]

# Turned images of which little else is changed. Their codes are known to about 6 bits.
_TURNED = 31
# Images whose parts are compared: this many, the nearest in meaning, within this share of the
# bits. Of 3,000 crops, borders and turns by 5 degrees, 99 % are within .22.
_NEIGHBOURS, _LEAST_ALIKE = 8, 0.25
# Images around each that say what is usual there.
_AROUND = 50
# Queries per batch: enough to be fast, few enough to hold their results in memory, which among
# near-copies can be all codes for each query.
_BLOCK = 256


class _View(NamedTuple):
    """What is around an image: the surroundings, and semantic distances of the nearest, (k,)."""

    around: Surroundings
    meanings: Rows


class Copies:
    """Finds and judges pairs of copies.

    Args:
        store: the gallery's file; inside `reading`.
        slots: of the images; they are known by their row in here.
        files: of each; None of an item without one.
        rotated: whether a turned or mirrored image is a copy.
    """

    def __init__(
        self, store: Store, slots: Rows, files: Sequence[FileState | None], *, rotated: bool
    ) -> None:
        self.semantic = store.index[slots]
        self.structure = store.structural_codes(slots)
        self._files = files
        self._overlap = Overlap(turned=rotated)
        self._parts: set[tuple[int, int]] = set()  # both ways
        self._refused: set[tuple[int, int]] = set()  # by their pixels; both ways
        self._rotated = rotated
        known: NDArray[np.bool_] = np.asarray(self.structure.any(axis=1))
        self._known = known
        self._rows = np.flatnonzero(known)
        self._place = np.cumsum(known) - 1  # of a row in the index
        self._evidence = semantic_evidence(store)
        self._index = HammingIndex(store.index.bits)
        self._index.add(self.semantic[known])
        self._views: dict[int, Surroundings] = {}
        self._views_with_parts: dict[int, _View] = {}

    def pairs(self, on_progress: Progress | None) -> Iterator[tuple[Rows, Rows]]:
        """Batches of pairs that are copies: two rows each; of equal images those with the first."""
        codes = self.structure[self._rows]
        for rows, near, _ in near_pairs(codes, MOST_MOVED, on_progress):
            one, other = self._rows[rows], self._rows[near]
            found = self.are_copies(one, other)
            yield one[found], other[found]
        candidates = [self._part_candidates(on_progress)]
        if self._rotated:
            candidates.append(_turned_pairs(codes, _TURNED, on_progress))
        for rows, near in chain(*candidates):
            one, other = self._rows[rows], self._rows[near]
            found = self.are_copies(one, other)
            for place in np.flatnonzero(~found).tolist():
                pair = int(one[place]), int(other[place])
                found[place] = self._are_parts(*pair)
                if found[place]:
                    self._parts |= {pair, pair[::-1]}
            yield one[found], other[found]

    def are_copies(self, one: Rows, other: Rows) -> NDArray[np.bool_]:
        """Which pairs are copies, seen from both images; none without a structural code.

        Of parts only those that `pairs` has found.
        """
        structural = code_distances(self.structure[one], self.structure[other])
        semantic = code_distances(self.semantic[one], self.semantic[other])
        both = self._known[one] & self._known[other]
        found = both & (structural <= SETTLED)
        # Where the surroundings are most favourable, which leaves few.
        free = self._chances(structural, semantic, Surroundings())
        left = both & ~found & (structural <= MOST_MOVED)
        for pair in np.flatnonzero(left & (free >= COPY)).tolist():
            found[pair] = all(
                self._chances(structural[pair], semantic[pair], self._view(end)) >= COPY
                for end in (int(one[pair]), int(other[pair]))
            )
        pairs = zip(one.tolist(), other.tolist(), strict=True)
        found |= np.array([pair in self._parts for pair in pairs], bool)
        return found

    def _are_parts(self, one: int, other: int) -> bool:
        """Whether one of two images is a part of the other: likely from both, and by pixels."""
        if (one, other) in self._refused:
            return False
        semantic = int(code_distances(self.semantic[one], self.semantic[other]))
        agreement = self._agreements(one, np.array([other]))
        for end in (one, other):
            view = self._view_with_parts(end)
            nearer = np.searchsorted(view.meanings, semantic)
            if self._part_chances(agreement, semantic, nearer, view.around)[0] < WORTH_READING:
                return False
        images = [self._overlap.of_file(self._files[row]) for row in (one, other)]
        codes = self.structure[one], self.structure[other]
        if self._overlap.is_part(images[0], images[1], codes):
            return True
        self._refused |= {(one, other), (other, one)}
        return False

    def _agreements(self, row: int, others: Rows) -> NDArray[np.float64]:
        codes = self.structure[others]
        return agreements(self.structure[row], codes, turned=self._rotated)

    def _chances(
        self, structural: Rows, semantic: Rows, around: Surroundings
    ) -> NDArray[np.float64]:
        bits, count = self._index.bits, len(self._index)
        return same_image(structural, semantic, bits, count, around, self._evidence)

    def _part_chances(
        self,
        agreement: NDArray[np.float64],
        semantic: Rows | int,
        nearer: Rows | np.integer | int,
        around: Surroundings,
    ) -> NDArray[np.float64]:
        bits = self._index.bits
        return same_part(agreement, semantic, bits, nearer, around, self._evidence)

    def _part_candidates(self, on_progress: Progress | None) -> Iterator[tuple[Rows, Rows]]:
        """Pairs in the index of which one may be a part of the other.

        Of an image and one that it is near to, both compare their parts with the other.
        """
        one, other = self._neighbours(on_progress)
        starts = np.flatnonzero(np.diff(one, prepend=-1))
        for done, near in enumerate(np.split(other, starts[1:]) if len(one) else [], start=1):
            place = int(one[starts[done - 1]])
            row, others = int(self._rows[place]), self._rows[near]
            codes = self.structure[others]
            agreement = agreements_with_parts(self.structure[row], codes, turned=self._rotated)
            semantic = code_distances(self.semantic[row], self.semantic[others])
            likely = self._part_chances(agreement, semantic, 0, Surroundings()) >= WORTH_READING
            if likely.any():
                yield np.full(np.count_nonzero(likely), place), near[likely]
            if on_progress is not None and (done % _BLOCK == 0 or done == len(starts)):
                on_progress(done, len(starts))

    def _neighbours(self, on_progress: Progress | None) -> tuple[Rows, Rows]:
        """Images and those near to them in meaning, in order, each pair both ways.

        Both by place in the index.
        """
        found = []
        radius = int(_LEAST_ALIKE * self._index.bits)
        for start in range(0, len(self._rows), _BLOCK):
            places = np.arange(start, min(start + _BLOCK, len(self._rows)))
            lims, _, near = self._index.range_search(
                self.semantic[self._rows[places]], radius, k=_NEIGHBOURS, exclude=places
            )
            pairs = np.stack([np.repeat(places, np.diff(lims)), near])
            # Equal ones have been joined.
            codes = self.structure[self._rows[pairs]]
            moved = code_distances(codes[0], codes[1]) > SETTLED
            found.append(pairs[:, moved])
            if on_progress is not None:
                on_progress(start + len(places), len(self._rows))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        pairs = np.concatenate([*found, *(pair[::-1] for pair in found)], axis=1)
        one, other = np.unique(pairs, axis=1)
        return one, other

    def _view(self, row: int) -> Surroundings:
        """What is around an image, as a search for it would see it."""
        if row not in self._views:
            _, structural, semantic = self._around(row)
            self._views[row] = surroundings(structural, semantic, self._index.bits)
        return self._views[row]

    def _view_with_parts(self, row: int) -> _View:
        """The same, with what agreement of parts is usual there, and the distances in meaning."""
        if row not in self._views_with_parts:
            near, structural, semantic = self._around(row)
            parts = self._agreements(row, near[:PARTS_COMPARED])
            around = surroundings(structural, semantic, self._index.bits, parts)
            self._views_with_parts[row] = _View(around, semantic)
        return self._views_with_parts[row]

    def _around(self, row: int) -> tuple[Rows, Rows, Rows]:
        """The images nearest in meaning, nearest first; their structural and semantic distances."""
        code = self.semantic[row : row + 1]
        place = self._place[row : row + 1]
        _, ids = self._index.search(code, _AROUND, exclude=place)
        near = np.asarray(self._rows[ids[0][ids[0] >= 0]])
        structural = code_distances(self.structure[row], self.structure[near])
        return near, structural, code_distances(self.semantic[row], self.semantic[near])


def near_pairs(
    codes: NDArray[np.uint8],
    radius: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of codes within a radius, of equal codes only those with the first; exact.

    A thousand black frames would be half a million pairs of equal codes.

    Args:
        codes: uint8, (n, bytes).
        radius: maximum Hamming distance of a pair, at least 0.
        on_progress: called with (done, total) distinct codes.

    Yields:
        Batches of pairs: two rows and their distance, int64, (m,) each.
    """
    if not codes.size:
        return
    as_scalars = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1])))[:, 0]
    _, first, code_of = np.unique(as_scalars, return_index=True, return_inverse=True)
    equal = first[code_of]
    yield np.arange(len(codes)), equal, np.zeros(len(codes), np.int64)
    searched = HammingIndex(8 * codes.shape[1])
    searched.reserve(len(first))
    for start in range(0, len(first), _BLOCK):
        block = codes[first[start : start + _BLOCK]]
        searched.add(block)  # finds each pair once, when its second code is added
        lims, distances, near = searched.range_search(block, radius)
        ids = np.repeat(np.arange(start, start + len(block)), np.diff(lims))
        is_pair = near < ids
        yield first[ids[is_pair]], first[near[is_pair]], distances[is_pair].astype(np.int64)
        if on_progress is not None:
            on_progress(start + len(block), len(first))


def _turned_pairs(
    codes: NDArray[np.uint8], radius: int, on_progress: Progress | None
) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of codes of which one, turned or mirrored, is within a radius of the other."""
    if not codes.size:
        return
    searched = HammingIndex(8 * codes.shape[1])
    for start in range(0, len(codes), _BLOCK):
        block = codes[start : start + _BLOCK]
        searched.add(block)
        for turned in np.moveaxis(turned_versions(block)[:, 1:], 1, 0):
            lims, _, near = searched.range_search(np.ascontiguousarray(turned), radius)
            ids = np.repeat(np.arange(start, start + len(block)), np.diff(lims))
            is_pair = near < ids
            yield ids[is_pair], near[is_pair]
        if on_progress is not None:
            on_progress(start + len(block), len(codes))
