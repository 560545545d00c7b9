"""The search of a gallery: codes to hits, by distance or by hash values.

Knows the open file and what distances mean. Does not know pictures or models (gallery.py does).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import integer
from bitgaze.calibration import Calibration, at_odds
from bitgaze.ranking import asymmetric_scores
from bitgaze.store import Store
from bitgaze.where import Condition

# Of the nearest by Hamming distance, so many times k are ranked by hash values, and never fewer
# than the second number. On CIFAR-10 and Fashion-MNIST with k = 10, 100 of 4,100 items gave the
# precision of all of them to .002, 30 to .005.
_CANDIDATES_PER_HIT, _FEWEST_CANDIDATES = 10, 100
# Of the example pictures' 25 subjects, a picture shares its own with one in twenty others.
_KIND_ODDS = 1 / 19


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    The probabilities are those of `bitgaze.calibration.Calibration` at this distance, at the odds
    of a search: that one item of the gallery is the same picture is as likely as that none is, and
    one item in twenty shows the same kind of thing. For other odds start from
    `Gallery.calibration`.

    Attributes:
        key: of the item.
        distance: Hamming distance to the query's code, 0..bits.
        probability: that query and hit show the same kind of thing, or None where the model was not
            calibrated with labels.
        duplicate: that they are the same picture, altered: resized, compressed, cropped, ...; or
            None where nothing was calibrated.
        metadata: of the item.
        path: of the item's file, fit for `open`, or None for an item added by hand.
    """

    key: str
    distance: int
    probability: float | None
    duplicate: float | None
    metadata: dict[str, Any]
    path: str | None


@dataclass(frozen=True)
class Wanted:
    """What a search asks for, beside its query.

    Attributes:
        k: at most so many hits, at least 1.
        radius: largest Hamming distance, at least 0; None: any.
        conditions: what an item must fulfil, all of it.

    Raises:
        TypeError, ValueError: k or radius is none.
    """

    k: int
    radius: int | None
    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        if integer(self.k, "k") < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")
        if self.radius is not None and integer(self.radius, "radius") < 0:
            raise ValueError(f"radius is {self.radius}, expected at least 0")


def nearest(
    store: Store, codes: NDArray[np.uint8], wanted: Wanted, itself: int | None = None
) -> list[list[Hit]]:
    """The hits of each code, by distance, then slot.

    Args:
        store: the gallery's file; inside `reading`.
        codes: uint8, (q, bits // 8).
        wanted: how many of which.
        itself: a slot that is none, or None.
    """
    lims, distances, slots = _within(store, codes, wanted, wanted.k, itself)
    hits = _hits(store, slots, distances)
    return [hits[start:end] for start, end in pairwise(lims.tolist())]


def ranked(
    store: Store,
    code: NDArray[np.uint8],
    values: NDArray[np.float32],
    wanted: Wanted,
    itself: int | None,
) -> list[Hit]:
    """The k best by asymmetric score among candidates by Hamming distance.

    Args:
        store: the gallery's file; inside `reading`.
        code: uint8, (bits // 8,).
        values: the query's hash values, float32, (bits,).
        wanted: how many of which.
        itself: a slot that is none, or None.
    """
    count = None
    if wanted.radius is None:
        count = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_HIT * wanted.k)
    _, distances, slots = _within(store, code[None], wanted, count, itself)
    # Candidates come by distance, then slot; a stable sort keeps that where scores are equal.
    best = np.argsort(asymmetric_scores(values, store.index[slots]), kind="stable")[: wanted.k]
    return _hits(store, slots[best], distances[best])


def _within(
    store: Store,
    codes: NDArray[np.uint8],
    wanted: Wanted,
    count: int | None,
    itself: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    return store.index.range_search(
        codes,
        store.index.bits if wanted.radius is None else wanted.radius,
        k=count,
        filter=store.allowed(wanted.conditions) if wanted.conditions else None,
        exclude=None if itself is None else np.full(len(codes), itself),
    )


def _hits(store: Store, slots: NDArray[np.int64], distances: NDArray[np.int32]) -> list[Hit]:
    calibration = store.calibration
    pairs = zip(slots.tolist(), distances.tolist(), strict=True)
    return [hit(store, slot, distance, calibration) for slot, distance in pairs]


def hit(store: Store, slot: int, distance: int, calibration: Calibration | None) -> Hit:
    """The item in a slot as a hit at this distance."""
    item = store.item(slot)
    kind = duplicate = None
    if calibration is not None:
        duplicate = at_odds(calibration.duplicate[distance], 1 / len(store.index))
        if calibration.kind:
            kind = at_odds(calibration.kind[distance], _KIND_ODDS)
    return Hit(item.key, distance, kind, duplicate, item.metadata, item.path)
