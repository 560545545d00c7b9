"""Shards: one search over several galleries, with the hits of a single gallery of all their items.

Groups of galleries find candidates, wherever they are; the merge needs nothing else of them.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.likeness import MOST_MOVED, SemanticEvidence
from bitgaze.encoding.properties import PROPERTIES
from bitgaze.errors import WhereError
from bitgaze.gallery.filters import KEY, Condition
from bitgaze.gallery.hits import (
    Hit,
    Likeness,
    chances_of,
    copies_first,
    has_structure,
    hits_of,
    likeness,
    semantic_evidence,
    with_chance,
)
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import (
    AROUND,
    Scope,
    SearchParams,
    alike,
    check_adaptation,
    distances_to,
    within,
)
from bitgaze.gallery.store import Store


@dataclass(frozen=True)
class Found:
    """Items that may be hits.

    Attributes:
        distances: in bits, (n,).
        shards: number of each item's gallery, int64, (n,).
        slots: its slot there, int64, (n,).
        likeness: of the items; None if structural codes are not compared.
    """

    distances: NDArray[Any]
    shards: NDArray[np.int64]
    slots: NDArray[np.int64]
    likeness: Likeness | None

    def __len__(self) -> int:
        return len(self.slots)

    def __getitem__(self, rows: NDArray[np.integer]) -> "Found":
        of_rows = None if self.likeness is None else self.likeness[rows]
        return Found(self.distances[rows], self.shards[rows], self.slots[rows], of_rows)


class Refusal(NamedTuple):
    """Why galleries have nothing that meets the conditions.

    Attributes:
        lacking: fields of conditions that no item has.
        mismatch: why a condition cannot be compared with any value, or None.
    """

    lacking: frozenset[str] = frozenset()
    mismatch: str | None = None


@dataclass(frozen=True)
class Candidates:
    """What some galleries contribute to a search among more.

    Attributes:
        found: their items that may be hits, or say what is usual around the query.
        hits: those of `found` that may be hits, by row.
        refusal: of all of them.
        galleries: number of galleries.
        bits: length of a code.
        count: number of their items.
        evidence: of the model.
    """

    found: Found
    hits: dict[int, Hit]
    refusal: Refusal
    galleries: int
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
    answers = [_found_in(store, query, params) for store in stores]
    counts = [len(store.index) for store in stores]
    found = _best(_joined([found for found, _ in answers], [1] * len(stores)), params.k)
    return Candidates(
        found,
        _hits(stores, query, found, params),
        _common([refusal for _, refusal in answers], counts),
        len(stores),
        stores[0].index.bits,
        sum(counts),
        semantic_evidence(stores[0]),
    )


def _found_in(store: Store, query: Query, params: SearchParams) -> tuple[Found, Refusal]:
    check_adaptation(store, query)
    kept = params.conditions
    lacking: frozenset[str] = frozenset()
    try:
        scope = Scope.of(store, kept)
    except WhereError as error:
        known = {*store.fields(), *PROPERTIES, KEY}
        lacking = frozenset(c.field for c in kept if c.field not in known)
        if not lacking:
            return _nothing(store, query), Refusal(lacking, str(error))
        # Another gallery may have the field. In this one all items lack it: it equals None.
        if not all(_holds_of_none(c) for c in kept if c.field in lacking):
            return _nothing(store, query), Refusal(lacking)
        try:
            scope = Scope.of(store, tuple(c for c in kept if c.field not in lacking))
        except WhereError as error:
            return _nothing(store, query), Refusal(lacking, str(error))
    return _within_scope(store, query, params, scope), Refusal(lacking)


def _within_scope(store: Store, query: Query, params: SearchParams, scope: Scope) -> Found:
    if not has_structure(store, query):
        _, distances, slots = within(store, query.views[None], params.radius, params.k, scope)
        return Found(distances, np.zeros(len(slots), np.int64), slots, None)
    # What is usual around the query does not end at the radius.
    count = max(params.k, AROUND)
    _, distances, slots = within(store, query.views[None], None, count, scope)
    added = np.setdiff1d(alike(store, query, count, scope), slots)
    distances = np.concatenate([distances, distances_to(store, query, added)])
    slots = np.concatenate([slots, added])
    of_slots = likeness(store, query, slots)
    return Found(distances, np.zeros(len(slots), np.int64), slots, of_slots)


def _nothing(store: Store, query: Query) -> Found:
    none = np.empty(0, np.int64)
    of_none = likeness(store, query, none) if has_structure(store, query) else None
    return Found(np.empty(0), none, none, of_none)


def _holds_of_none(condition: Condition) -> bool:
    if condition.operator == "!=":
        return condition.operand is not None
    return condition.operator == "in" and None in condition.operand


def _joined(found: Sequence[Found], galleries: Sequence[int]) -> Found:
    """Items of groups, each of which numbers its own galleries, of so many."""
    before = np.cumsum([0, *galleries])[:-1].tolist()
    of_all = [one.likeness for one in found if one.likeness is not None]
    return Found(
        np.concatenate([one.distances for one in found]),
        np.concatenate([one.shards + number for one, number in zip(found, before, strict=True)]),
        np.concatenate([one.slots for one in found]),
        Likeness(
            of_all[0].code,
            of_all[0].inside,
            np.concatenate([one.codes for one in of_all]),
            np.concatenate([one.semantic for one in of_all]),
        )
        if len(of_all) == len(found)
        else None,
    )


def _best(found: Found, k: int) -> Found:
    """What a search for k hits has to know of: the nearest items in order, by either code."""
    order = np.lexsort((found.slots, found.shards, found.distances))
    if found.likeness is None:
        return found[order[:k]]
    count = max(k, AROUND)
    structural = found.likeness.structural
    by_structure = np.lexsort((found.slots, found.shards, structural))[:count]
    is_kept = np.zeros(len(found), bool)
    is_kept[order[:count]] = True
    is_kept[by_structure[structural[by_structure] <= MOST_MOVED]] = True
    return found[order[is_kept[order]]]


def _common(refusals: Sequence[Refusal], counts: Sequence[int]) -> Refusal:
    """What galleries refuse together, of which `counts` are the numbers of items."""
    filled = [one for one, count in zip(refusals, counts, strict=True) if count]
    lacking = frozenset.intersection(*(one.lacking for one in filled or refusals))
    mismatches = [one.mismatch for one in filled if one.mismatch is not None]
    are_all_refused = all(one.lacking or one.mismatch for one in filled)
    return Refusal(lacking, mismatches[0] if mismatches and are_all_refused else None)


def _hits(
    stores: Sequence[Store], query: Query, found: Found, params: SearchParams
) -> dict[int, Hit]:
    """Those of the items, which are in order, that may be hits: the nearest, and copies."""
    may_be = np.arange(len(found)) < params.k
    if found.likeness is not None:
        may_be |= found.likeness.structural <= MOST_MOVED
    rows = np.flatnonzero(may_be & _is_within(found, params))
    hits: dict[int, Hit] = {}
    for number in np.unique(found.shards[rows]).tolist():
        own = rows[found.shards[rows] == number]
        store, slots = stores[number], found.slots[own]
        items = [store.item(slot) for slot in slots.tolist()]
        made = hits_of(store, query, slots, found.distances[own], items)
        hits.update(zip(own.tolist(), made, strict=True))
    return hits


def _is_within(found: Found, params: SearchParams) -> NDArray[np.bool_]:
    if params.radius is None:
        return np.ones(len(found), bool)
    return np.asarray(found.distances <= params.radius)


def merge(parts: Sequence[Candidates], params: SearchParams) -> list[Hit]:
    """The best items of all galleries, as one gallery of their items would answer.

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
    lacking, mismatch = _common([part.refusal for part in parts], [part.count for part in parts])
    if lacking:
        names = " or ".join(map(repr, sorted(lacking)))
        raise WhereError(f"no item of any shard has a field {names}")
    if mismatch is not None:
        raise WhereError(mismatch)
    everything = _joined([part.found for part in parts], [part.galleries for part in parts])
    starts = np.cumsum([0, *(len(part.found) for part in parts)]).tolist()
    made = {
        (int(everything.shards[start + row]), int(everything.slots[start + row])): hit
        for start, part in zip(starts, parts, strict=False)
        for row, hit in part.hits.items()
    }
    found = _best(everything, params.k)
    is_within = _is_within(found, params)
    rows = np.flatnonzero(is_within)
    said = _said(found, rows, parts)
    best = rows[copies_first(said)[: params.k]]
    chance_of = dict(zip(rows.tolist(), said, strict=True))
    hits = [
        with_chance(made[int(found.shards[row]), int(found.slots[row])], chance_of[row])
        for row in best.tolist()
    ]
    return [hits[row] for row in copies_first([hit.same_image for hit in hits])]


def _said(found: Found, rows: NDArray[np.int64], parts: Sequence[Candidates]) -> list[float | None]:
    """`Hit.same_image` of some of the items, which are in order."""
    if found.likeness is None or not len(rows):
        return [None] * len(rows)
    compared = np.union1d(rows, np.arange(min(AROUND, len(found))))
    # As a gallery of all would have them: by slot.
    compared = compared[np.lexsort((found.slots[compared], found.shards[compared]))]
    place = np.empty(len(found), np.int64)
    place[compared] = np.arange(len(compared))
    return chances_of(
        found.likeness[compared],
        place[rows],
        parts[0].bits,
        sum(part.count for part in parts),
        parts[0].evidence,
        lambda _: None,
    )
