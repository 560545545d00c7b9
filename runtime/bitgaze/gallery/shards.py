"""Shards: one search over several galleries, with the hits of a single gallery of all their items.

Groups of galleries find candidates, wherever they are; the merge needs nothing else of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.likeness import SemanticEvidence
from bitgaze.encoding.properties import PROPERTIES
from bitgaze.errors import WhereError
from bitgaze.gallery.filters import KEY, Condition
from bitgaze.gallery.hits import (
    Hit,
    Likeness,
    chances_of,
    has_structure,
    likeness,
    make_hits,
    semantic_evidence,
)
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import AROUND, SearchParams, check_adaptation, within
from bitgaze.gallery.store import Store


class Nearest(NamedTuple):
    """The nearest items of one gallery, or of several.

    Attributes:
        distances: in bits, (n,), ascending.
        shards: number of each item's gallery, int64, (n,).
        slots: its slot there, int64, (n,).
        lacking: fields of conditions that no item has.
        mismatch: why a condition cannot be compared with any value, or None.
    """

    distances: NDArray[Any]
    shards: NDArray[np.int64]
    slots: NDArray[np.int64]
    lacking: frozenset[str]
    mismatch: str | None


@dataclass(frozen=True)
class Candidates:
    """What some galleries contribute to a search among more.

    Attributes:
        nearest: of their items, at least as many as are asked for.
        hits: the first of these, within the radius.
        likeness: of the nearest; None if structural codes are not compared.
        bits: length of a code.
        count: number of their items.
        evidence: of the model.
    """

    nearest: Nearest
    hits: list[Hit]
    likeness: Likeness | None
    bits: int
    count: int
    evidence: SemanticEvidence


@contextmanager
def reading(stores: Sequence[Store]) -> Iterator[None]:
    """A snapshot of each gallery."""

    @contextmanager
    def snapshot(store: Store) -> Iterator[None]:
        with store.reading():  # which is no context for an ExitStack
            yield

    with ExitStack() as snapshots:
        for store in stores:
            snapshots.enter_context(snapshot(store))
        yield


def candidates(stores: Sequence[Store], query: Query, params: SearchParams) -> Candidates:
    """The candidates of some galleries, whose codes are comparable; at least one.

    Args:
        stores: the galleries' files, in order; inside `reading` of all.
        query: the query.
        params: which hits to return.

    Raises:
        ValueError, FingerprintMismatch: the query's codes are not comparable with the galleries'.
    """
    query = replace(query, image=None)  # no file is read here: `merge` decides
    is_likeness_known = has_structure(stores[0], query)
    around = params
    if is_likeness_known:  # what is usual around the query does not end at the radius
        around = replace(params, k=max(params.k, AROUND), radius=None)
    found = [_nearest_of(store, query, around) for store in stores]
    counts = [len(store.index) for store in stores]
    nearest = _first(found, counts, around.k)
    end = min(params.k, len(nearest.slots))
    if params.radius is not None:
        end = min(end, int(np.searchsorted(nearest.distances, params.radius, side="right")))
    return Candidates(
        nearest,
        _hits(stores, query, nearest, end),
        _likeness(stores, query, nearest) if is_likeness_known else None,
        stores[0].index.bits,
        sum(counts),
        semantic_evidence(stores[0]),
    )


def _nearest_of(store: Store, query: Query, params: SearchParams) -> Nearest:
    check_adaptation(store, query)
    try:
        return _found(store, query, params, frozenset())
    except WhereError as error:
        known = {*store.fields(), *PROPERTIES, KEY}
        lacking = frozenset(c.field for c in params.conditions if c.field not in known)
        if not lacking:
            return _nothing(lacking, str(error))
    # Another gallery may have the field. In this one all items lack it: it equals None.
    of_absent = [c for c in params.conditions if c.field in lacking]
    if not all(map(_holds_of_none, of_absent)):
        return _nothing(lacking)
    kept = tuple(c for c in params.conditions if c.field not in lacking)
    try:
        return _found(store, query, replace(params, conditions=kept), lacking)
    except WhereError as error:
        return _nothing(lacking, str(error))


def _found(store: Store, query: Query, params: SearchParams, lacking: frozenset[str]) -> Nearest:
    _, distances, slots = within(store, query.views[None], params, params.k, None)
    return Nearest(distances, np.zeros(len(slots), np.int64), slots, lacking, None)


def _nothing(lacking: frozenset[str], mismatch: str | None = None) -> Nearest:
    none = np.empty(0, np.int64)
    return Nearest(np.empty(0), none, none, lacking, mismatch)


def _holds_of_none(condition: Condition) -> bool:
    if condition.operator == "!=":
        return condition.operand is not None
    return condition.operator == "in" and None in condition.operand


def _first(found: Sequence[Nearest], counts: Sequence[int], k: int) -> Nearest:
    """The k nearest items of galleries, of which `counts` are the numbers of items."""
    distances = np.concatenate([one.distances for one in found])
    slots = np.concatenate([one.slots for one in found])
    shards = np.repeat(np.arange(len(found)), [len(one.slots) for one in found])
    order = np.lexsort((slots, shards, distances))[:k]
    filled = [one for one, count in zip(found, counts, strict=True) if count]
    lacking = frozenset.intersection(*(one.lacking for one in filled or found))
    mismatches = [one.mismatch for one in filled if one.mismatch is not None]
    are_all_refused = all(one.lacking or one.mismatch for one in filled)
    mismatch = mismatches[0] if mismatches and are_all_refused else None
    return Nearest(distances[order], shards[order], slots[order], lacking, mismatch)


def _hits(stores: Sequence[Store], query: Query, nearest: Nearest, end: int) -> list[Hit]:
    """The first `end` of the nearest as hits."""
    hits: dict[int, Hit] = {}
    for number in np.unique(nearest.shards[:end]).tolist():
        rows = np.flatnonzero(nearest.shards[:end] == number)
        slots = nearest.slots[rows]
        # Whether they are the same image takes what is around among all items: see `merge`.
        made = make_hits(stores[number], query, slots, nearest.distances[rows], slots)
        hits.update(zip(rows.tolist(), made, strict=True))
    return [hits[row] for row in range(end)]


def _likeness(stores: Sequence[Store], query: Query, nearest: Nearest) -> Likeness:
    assert query.structure is not None
    count = len(nearest.slots)
    codes = np.zeros((count, len(query.structure)), np.uint8)
    semantic = np.zeros(count, np.int64)
    for number in np.unique(nearest.shards).tolist():
        rows = np.flatnonzero(nearest.shards == number)
        of_store = likeness(stores[number], query, nearest.slots[rows])
        codes[rows], semantic[rows] = of_store.codes, of_store.semantic
    return Likeness(query.structure, codes, semantic)


def merge(parts: Sequence[Candidates], params: SearchParams) -> list[Hit]:
    """The nearest items of all galleries, as one gallery of their items would answer.

    Except that no files are read: of parts of an image, `same_image` is below .9.

    Args:
        parts: of each group of galleries, in order: of items at the same distance, those of the
            earlier gallery come first, then those in the lower slot.
        params: which hits to return, as for `candidates`.

    Raises:
        WhereError: no gallery has a field of a condition, or its values are of another type in all
            that have it.
    """
    parts = [part for part in parts if part.count]
    if not parts:
        return []
    found, counts = [part.nearest for part in parts], [part.count for part in parts]
    nearest = _first(found, counts, max(params.k, AROUND))
    if nearest.lacking:
        names = " or ".join(map(repr, sorted(nearest.lacking)))
        raise WhereError(f"no item of any shard has a field {names}")
    if nearest.mismatch is not None:
        raise WhereError(nearest.mismatch)
    # Each part's nearest are in order, so the order of all takes the rows of each one by one.
    starts = np.cumsum([0, *(len(one.slots) for one in found)])[:-1]
    row = np.empty(len(nearest.slots), np.int64)
    for number in np.unique(nearest.shards).tolist():
        of_part = nearest.shards == number
        row[of_part] = np.arange(of_part.sum())
    is_hit = row < np.array([len(part.hits) for part in parts])[nearest.shards]
    best = np.flatnonzero(is_hit)[: params.k]
    hits = [parts[nearest.shards[at]].hits[row[at]] for at in best.tolist()]
    if not hits or any(part.likeness is None for part in parts):
        return hits
    known = [part.likeness for part in parts if part.likeness is not None]
    everything = Likeness(
        known[0].code,
        np.concatenate([one.codes for one in known]),
        np.concatenate([one.semantic for one in known]),
    )[starts[nearest.shards] + row]
    compared = np.union1d(best, np.arange(min(AROUND, len(row))))
    order = np.lexsort((nearest.slots[compared], nearest.shards[compared]))
    chances = chances_of(
        everything[compared[order]],
        np.argsort(order)[np.searchsorted(compared, best)],
        parts[0].bits,
        sum(counts),
        parts[0].evidence,
        lambda _: None,
    )
    return [
        hit if hit.same_image == 1 else replace(hit, same_image=chance)
        for hit, chance in zip(hits, chances, strict=True)
    ]
