"""Shards: one search over several galleries, with the hits of a single gallery of all their items.

Each gallery finds its candidates, wherever it is; the merge needs nothing else of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Candidates:
    """What one gallery of several contributes to a search.

    Attributes:
        hits: its nearest items, as many as are asked for.
        distances: to its n nearest items, in bits, of which the hits are the first: (n,).
        slots: of these items, int64, (n,).
        likeness: of these items; None if structural codes are not compared.
        bits: length of a code.
        count: number of its items.
        evidence: of the model.
        lacking: fields of conditions that none of its items has.
        mismatch: why a condition cannot be compared with its values, or None.
    """

    hits: list[Hit]
    distances: NDArray[np.float64] | NDArray[np.int32]
    slots: NDArray[np.int64]
    likeness: Likeness | None
    bits: int
    count: int
    evidence: SemanticEvidence
    lacking: frozenset[str] = frozenset()
    mismatch: str | None = None


def candidates(store: Store, query: Query, params: SearchParams) -> Candidates:
    """The candidates of one gallery.

    Args:
        store: the gallery's file; inside `reading`.
        query: the query.
        params: which hits to return.

    Raises:
        ValueError, FingerprintMismatch: the query's codes are not comparable with the gallery's.
    """
    check_adaptation(store, query)
    lacking: frozenset[str] = frozenset()
    try:
        return _found(store, query, params, lacking)
    except WhereError as error:
        known = {*store.fields(), *PROPERTIES, KEY}
        lacking = frozenset(c.field for c in params.conditions if c.field not in known)
        if not lacking:
            return _none(store, lacking, str(error))
    # Another shard may have the field. Here it is absent everywhere: it equals None.
    of_absent = [c for c in params.conditions if c.field in lacking]
    if not all(map(_holds_of_none, of_absent)):
        return _none(store, lacking)
    kept = tuple(c for c in params.conditions if c.field not in lacking)
    try:
        return _found(store, query, replace(params, conditions=kept), lacking)
    except WhereError as error:
        return _none(store, lacking, str(error))


def _holds_of_none(condition: Condition) -> bool:
    if condition.operator == "!=":
        return condition.operand is not None
    return condition.operator == "in" and None in condition.operand


def _none(store: Store, lacking: frozenset[str], mismatch: str | None = None) -> Candidates:
    nothing, evidence = np.empty(0, np.int64), semantic_evidence(store)
    distances, bits, count = np.empty(0), store.index.bits, len(store.index)
    return Candidates([], distances, nothing, None, bits, count, evidence, lacking, mismatch)


def _found(store: Store, query: Query, params: SearchParams, lacking: frozenset[str]) -> Candidates:
    around = params
    has_likeness = has_structure(store, query)
    if has_likeness:  # what is usual around the query does not end at the radius
        around = replace(params, k=max(params.k, AROUND), radius=None)
    _, distances, slots = within(store, query.views[None], around, around.k, None)
    count = min(params.k, len(slots))
    if params.radius is not None:
        count = min(count, int(np.searchsorted(distances, params.radius, side="right")))
    return Candidates(
        make_hits(store, query, slots[:count], distances[:count], slots[:AROUND]),
        distances,
        slots,
        likeness(store, query, slots) if has_likeness else None,
        store.index.bits,
        len(store.index),
        semantic_evidence(store),
        lacking,
    )


def merge(parts: Sequence[Candidates], k: int) -> list[Hit]:
    """The k nearest items of all galleries, as one gallery of their items would answer.

    Args:
        parts: of each gallery, in the order of the galleries: of items at the same distance, those
            of the earlier gallery come first, then those in the lower slot.
        k: maximum number of hits.

    Raises:
        WhereError: no gallery has a field of a condition, or its values are of another type in all
            that have it.
    """
    filled = [part for part in parts if part.count]
    if not filled:
        return []
    lacking = frozenset.intersection(*(part.lacking for part in filled))
    if lacking:
        names = " or ".join(map(repr, sorted(lacking)))
        raise WhereError(f"no item of any shard has a field {names}")
    mismatches = [part.mismatch for part in filled if part.mismatch is not None]
    if mismatches and all(part.lacking or part.mismatch for part in filled):
        raise WhereError(mismatches[0])
    filled = [part for part in filled if len(part.slots)]
    if not filled:
        return []
    distances = np.concatenate([part.distances for part in filled])
    slots = np.concatenate([part.slots for part in filled])
    sizes = [len(part.slots) for part in filled]
    shard = np.repeat(np.arange(len(filled)), sizes)
    row = np.concatenate([np.arange(size) for size in sizes])
    order = np.lexsort((slots, shard, distances))
    is_hit = row < np.repeat([len(part.hits) for part in filled], sizes)
    best = order[is_hit[order]][:k]
    hits = [filled[shard[at]].hits[row[at]] for at in best.tolist()]
    likenesses = [part.likeness for part in filled if part.likeness is not None]
    if len(likenesses) < len(filled) or not hits:
        return hits
    everything = Likeness(
        np.concatenate([one.structural for one in likenesses]),
        np.concatenate([one.semantic for one in likenesses]),
        np.concatenate([one.is_known for one in likenesses]),
    )
    count = sum(part.count for part in parts)
    around, evidence = everything[order[:AROUND]], filled[0].evidence
    chances = chances_of(everything[best], around, filled[0].bits, count, evidence)
    return [
        hit if hit.same_image == 1 else replace(hit, same_image=chance)
        for hit, chance in zip(hits, chances, strict=True)
    ]
