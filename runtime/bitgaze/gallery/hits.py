"""Hits: items found by a search, with what their distances mean and where they match.

Copies of the query come first, however far: the structural code knows them (likeness.py), where
blur or a filter has changed what the network sees.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.calibration import Calibration, at_odds
from bitgaze.encoding.images import Box
from bitgaze.encoding.likeness import COPY, SETTLED, SemanticEvidence, chances, decided
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.gallery.distances import code_distances, nearest_pairs
from bitgaze.gallery.items import Item
from bitgaze.gallery.overlap import Overlap, image_of_source
from bitgaze.gallery.query import Query
from bitgaze.gallery.store import Store

# In the example images, with 25 subjects, one image in twenty has the same subject as a given one.
_KIND_ODDS = 1 / 19
# Below this, whether an image is the same is not said: what was counted there is too little.
_LEAST_SAME = 0.5
# Only files that are identical are certain to be.
_MOST_SAME = 1 - 1e-9
# Of 40 images that have nothing to do with a query, one is as near as this or nearer; from here on
# seven hits in eight are of another kind, by the general model's calibration.
UNRELATED_RATE = 1 / 40
UNRELATED = "from here on probably unrelated: 1 in 40 other images is as near"
# Of models whose distances of copies are not known: structure alone.
_UNKNOWN_COPIES = SemanticEvidence(limit=0)


@dataclass(frozen=True)
class Hit:
    """One result of a search: an item, its distance, and the probability that it matches.

    `same_kind` is that of `Gallery.calibration` at this distance, converted to the odds of a
    search: one item in twenty is of the same kind. For other odds, start from
    `Gallery.calibration`.

    Attributes:
        key: the item's key.
        distance: number of bits that differ from the query's code, 0..bits. Of a gallery with
            looks, the mean number over the codes of both, each compared with the nearest of the
            other (see `ViewIndex`).
        same_kind: probability that query and hit show the same kind of thing, in [0, 1]; None if
            the model was calibrated without labels, or for a search by other codes than those of
            whole images with the gallery's number of looks.
        same_image: probability that they are the same image, possibly resized, compressed, cropped
            or otherwise altered, in [0.5, 1]; exactly 1 if their files are identical. None if it is
            lower, or not known: structural codes decide, which need the image itself. Of a part,
            such as a crop, below .9 unless both images can be read and compared.
        metadata: the item's metadata.
        path: path of the item's file, ready for `open`; None for an item added by hand.
        box: left, top, right, bottom of the part of the item's image that matches best, in [0, 1]
            of the upright image; None if that is the whole image.
        query_box: the part of the query that it matches; None for the whole image.
        alike: keys of hits that a search with `fold` left out as copies of this one.
    """

    key: str
    distance: float
    same_kind: float | None
    same_image: float | None
    metadata: dict[str, Any]
    path: str | None
    box: Box | None = None
    query_box: Box | None = None
    alike: tuple[str, ...] = ()

    @property
    def is_copy(self) -> bool:
        """Whether it is called a copy of the query: `same_image` is .9 or more."""
        return is_copy(self.same_image)

    @property
    def chances(self) -> dict[str, str]:
        """The known probabilities, formatted for people: label to percentage.

        "same kind", and of a hit that may be the same image "identical file", "a copy" (from 90 %
        on) or "maybe a copy". A copy is of the same kind, too, although its distance may be large.
        """
        same = self.same_image or 0
        kind = self.same_kind
        if kind is not None and self.is_copy:
            kind = max(kind, same)
        copy = "identical file" if same == 1 else "a copy" if self.is_copy else "maybe a copy"
        known = {"same kind": kind, copy: self.same_image}
        texts = {words: percent(chance) for words, chance in known.items() if chance is not None}
        return texts | ({copy: "100%"} if same == 1 else {})

    @property
    def probability(self) -> float | None:
        """Deprecated: use `same_kind`."""
        warnings.warn("use Hit.same_kind", DeprecationWarning, stacklevel=2)
        return self.same_kind

    @property
    def duplicate(self) -> float | None:
        """Deprecated: use `same_image`."""
        warnings.warn("use Hit.same_image", DeprecationWarning, stacklevel=2)
        return self.same_image


def in_bits(distance: float) -> str:
    """A distance in words: one decimal place, where it is no whole number."""
    return f"{distance:g}" if float(distance).is_integer() else f"{distance:.1f}"


def percent(chance: float) -> str:
    """A probability in words: never 0% or 100%, which would claim certainty."""
    if chance < 0.01:
        return "<1%"
    return ">99%" if chance > 0.99 else f"{chance:.0%}"


def make_hits(
    store: Store,
    query: Query,
    slots: NDArray[np.int64],
    distances: NDArray[np.float64] | NDArray[np.int32],
    around: NDArray[np.int64],
    k: int | None = None,
    *,
    fold: bool = False,
) -> list[Hit]:
    """The best of some items as hits of a query: copies of it first, otherwise in their order.

    Args:
        store: the gallery's file; inside `reading`.
        query: the query.
        slots: of the items, best first, int64, (n,).
        distances: (n,), from the query, in bits.
        around: slots of the items that are nearest to the query, as far as known: what is usual
            around it is no evidence for the same image. See `bitgaze.encoding.likeness`.
        k: maximum number of hits; None for all.
        fold: leave out copies of an item before them: `first_copies`.
    """
    read = cache(store.item)
    said = _said(store, query, slots, around, read)
    rows = copies_first(said)[:k]
    items = [read(slot) for slot in slots[rows].tolist()]
    found = zip(
        hits_of(store, query, slots[rows], distances[rows], items),
        [said[row] for row in rows],
        strict=True,
    )
    hits = [with_chance(hit, chance) for hit, chance in found]
    order = copies_first([hit.same_image for hit in hits])  # identical files are known by now
    hits = [hits[row] for row in order]
    return _folded(hits, [items[row] for row in order]) if fold else hits


def hits_of(
    store: Store,
    query: Query,
    slots: NDArray[np.int64],
    distances: NDArray[np.float64] | NDArray[np.int32],
    items: Sequence[Item],
) -> list[Hit]:
    """Items as hits, in their order; `same_image` is 1 of identical files, otherwise None.

    Args:
        store: the gallery's file; inside `reading`.
        query: the query.
        slots: of the items, int64, (n,).
        distances: (n,), from the query, in bits.
        items: n.
    """
    boxes = _boxes(store, query, slots, items)
    is_calibrated = len(query.views) == 1 + store.info["looks"] and query.boxes[0] is None
    calibration = store.calibration if is_calibrated else None
    return [
        Hit(
            item.key,
            distance,
            same_kind(calibration, distance),
            1.0 if query.content and item.file and item.file.content == query.content else None,
            item.metadata,
            item.path,
            *pair,
        )
        for item, distance, pair in zip(items, distances.tolist(), boxes, strict=True)
    ]


def with_chance(hit: Hit, said: float | None) -> Hit:
    """A hit with the probability that it is the same image; that of identical files stays 1."""
    return hit if hit.same_image == 1 else replace(hit, same_image=said)


def is_copy(same_image: float | None) -> bool:
    """Whether an image of this probability is called a copy."""
    return same_image is not None and same_image >= COPY


def copies_first(same: Sequence[float | None]) -> list[int]:
    """Rows in the order of a search, from `same_image` of each: copies first, then the others."""
    return sorted(range(len(same)), key=lambda row: not is_copy(same[row]))


def unrelated_from(calibration: Calibration | None) -> int | None:
    """The distance, in bits, beyond which hits are probably unrelated; None if not known."""
    if calibration is None or calibration.false_match[0] > UNRELATED_RATE:
        return None
    return calibration.radius(UNRELATED_RATE)


def _folded(hits: list[Hit], items: list[Item]) -> list[Hit]:
    """Hits without those that are copies of one before them, which names them."""
    codes = np.zeros((len(items), STRUCTURE_BITS // 8), np.uint8)
    for row, item in enumerate(items):
        if item.structure is not None:
            codes[row] = item.structure
    contents = [item.file.content if item.file else None for item in items]
    copies = first_copies(codes, contents)
    alike: dict[int, list[str]] = {row: [] for row, first in enumerate(copies) if first is None}
    for hit, first in zip(hits, copies, strict=True):
        if first is not None:
            alike[first].append(hit.key)
    return [replace(hits[row], alike=tuple(keys)) for row, keys in alike.items()]


def first_copies(codes: NDArray[np.uint8], contents: Sequence[bytes | None]) -> list[int | None]:
    """For each image, the row of the first that it is a copy of; None for one that is no copy.

    Copies are identical files, and images within 16 bits of structural distance. What is a copy
    itself has none.

    Args:
        codes: structural codes, uint8, (n, 32); zeros where not known.
        contents: digests of the files' bytes, (n,); None where not known.
    """
    copies: list[int | None] = []
    firsts: list[int] = []
    of_content: dict[bytes, int] = {}
    for row, (code, content) in enumerate(zip(codes, contents, strict=True)):
        found = [of_content[content]] if content is not None and content in of_content else []
        if code.any():
            near = np.flatnonzero(code_distances(code, codes[firsts]) <= SETTLED)
            found += [firsts[place] for place in near[:1].tolist()]
        copies.append(min(found, default=None))
        if not found:
            firsts.append(row)
            if content is not None:
                of_content[content] = row
    return copies


def same_kind(calibration: Calibration | None, distance: float) -> float | None:
    """`Hit.same_kind` at a distance in bits; None without a calibration of kinds."""
    if calibration is None or not calibration.kind:
        return None
    return at_odds(calibration.kind[round(distance)], _KIND_ODDS)


def _said(
    store: Store,
    query: Query,
    slots: NDArray[np.int64],
    around: NDArray[np.int64],
    read: Callable[[int], Item],
) -> list[float | None]:
    """`Hit.same_image` of items, of which `read` returns one by slot; of identical files as well.

    Those that may be parts of the query, or it of them, are read, four at most.
    """
    if not has_structure(store, query) or not len(slots):
        return [None] * len(slots)
    compared = np.union1d(slots, around)
    return chances_of(
        likeness(store, query, compared),
        np.searchsorted(compared, slots),
        store.index.bits,
        len(store.index),
        semantic_evidence(store),
        _part_test(query, lambda row: read(int(slots[row]))),
    )


@dataclass(frozen=True)
class Likeness:
    """What codes say of whether each of n items is the query's image, altered.

    Attributes:
        code: structural code of the query, uint8, (32,).
        codes: those of the items, uint8, (n, 32); zeros where not known.
        semantic: distances of the codes of whole images, int64, (n,).
    """

    code: NDArray[np.uint8]
    codes: NDArray[np.uint8]
    semantic: NDArray[np.int64]

    def __getitem__(self, rows: NDArray[np.integer]) -> "Likeness":
        return Likeness(self.code, self.codes[rows], self.semantic[rows])


def likeness(store: Store, query: Query, slots: NDArray[np.int64]) -> Likeness:
    """The likeness of the items in some slots; inside `reading`, if `has_structure`."""
    assert query.structure is not None
    semantic = code_distances(query.views[0], store.index[slots])
    return Likeness(query.structure, store.structural_codes(slots), semantic)


def chances_of(
    compared: Likeness,
    rows: NDArray[np.integer],
    bits: int,
    count: int,
    evidence: SemanticEvidence,
    is_part: Callable[[int], bool | None],
) -> list[float | None]:
    """`Hit.same_image` of hits whose files are not identical with the query's.

    Args:
        compared: of the hits, and of the items nearest to the query, in the order of their slots.
        rows: where the hits are among these, (n,).
        bits: length of a code.
        count: number of items that were searched.
        evidence: of the model.
        is_part: whether a hit, by number, and the query are parts of each other by their pixels;
            None if that cannot be known.
    """
    is_known: NDArray[np.bool_] = np.asarray(compared.codes.any(axis=1))
    if not is_known.any():
        return [None] * len(rows)
    known = compared[np.flatnonzero(is_known)]
    whole, part = chances(known.code, known.codes, known.semantic, bits, count, evidence)
    place = (np.cumsum(is_known) - 1)[rows]
    whole, part = (np.where(is_known[rows], said[place], 0) for said in (whole, part))
    return [
        min(chance, _MOST_SAME) if chance >= _LEAST_SAME else None
        for chance in decided(whole, part, is_part).tolist()
    ]


def _part_test(query: Query, read: Callable[[int], Item]) -> Callable[[int], bool | None]:
    """A function that compares the query with an item, by number, by their pixels."""
    overlap = Overlap(turned=True)

    @cache
    def image() -> Image.Image | None:
        return None if query.image is None else image_of_source(query.image)

    def is_part(number: int) -> bool | None:
        item = read(number)
        if query.structure is None or item.structure is None or image() is None:
            return None
        other = overlap.of_file(item.file)
        return overlap.is_part(image(), other, (query.structure, item.structure))

    return is_part


def has_structure(store: Store, query: Query) -> bool:
    """Whether structural codes of query and items can be compared; inside `reading`."""
    is_kept = bool(store.info["structure"])
    return is_kept and query.structure is not None and bool(query.structure.any())


def semantic_evidence(store: Store) -> SemanticEvidence:
    """What semantic distances in a gallery say of copies; inside `reading`.

    Only a model that was fitted so that altering an image changes few bits has a calibration.
    Trained models and adapted galleries have other distances of copies, which are not known.
    """
    is_known = store.info["calibration"] is not None and store.info["adaptation"] is None
    return SemanticEvidence() if is_known else _UNKNOWN_COPIES


def _boxes(
    store: Store, query: Query, slots: NDArray[np.int64], items: Sequence[Item]
) -> list[tuple[Box | None, Box | None]]:
    """The boxes of item and query where each hit matches best."""
    if store.views is None or not len(slots):
        return [(None, query.boxes[0])] * len(items)
    of_query, of_items = nearest_pairs(query.views, store.views[slots])
    return [
        (_box_of(item, view), query.boxes[query_view])
        for item, view, query_view in zip(items, of_items.tolist(), of_query.tolist(), strict=True)
    ]


def _box_of(item: Item, view: int) -> Box | None:
    """Where a view of an item is; free places repeat the whole image."""
    if not 1 <= view <= len(item.boxes):
        return None
    left, top, right, bottom = map(float, item.boxes[view - 1])
    return left, top, right, bottom
