"""The search of a gallery: codes to hits, by distance or by hash values.

Knows the open file and what distances mean. Does not know images or models (gallery.py does).
"""

import warnings
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import hit_count, radius_within
from bitgaze.encoding.calibration import Calibration, at_odds
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.store import Store
from bitgaze.hamming import pack

# Of the nearest by Hamming distance, so many times k are ranked by hash values, and never fewer
# than the second number. On CIFAR-10 and Fashion-MNIST with k = 10, 100 of 4,100 items gave the
# precision of all of them to .002, 30 to .005.
_CANDIDATES_PER_HIT, _FEWEST_CANDIDATES = 10, 100
# Among the 25 subjects of the example images, one image in twenty shares a given one's subject.
_KIND_ODDS = 1 / 19
_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    The probabilities are those of `bitgaze.encoding.calibration.Calibration` at this distance, at
    the odds of a search: even odds that the gallery contains the same image, and one item in twenty
    shows the same kind of thing. For other odds start from `Gallery.calibration`.

    Attributes:
        key: of the item.
        distance: Hamming distance to the query's code, 0..bits.
        same_kind: probability that query and hit show the same kind of thing; None where the model
            was not calibrated with labels.
        same_image: probability that they are the same image, altered (resized, compressed, cropped,
            ...); None where nothing was calibrated.
        metadata: of the item.
        path: of the item's file, ready for `open`; None for an item added by hand.
    """

    key: str
    distance: int
    same_kind: float | None
    same_image: float | None
    metadata: dict[str, Any]
    path: str | None

    @property
    def chances(self) -> dict[str, str]:
        """The known probabilities as they are shown to people: words to a percentage."""
        known = {"same kind": self.same_kind, "same image": self.same_image}
        return {words: percent(chance) for words, chance in known.items() if chance is not None}

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


def percent(chance: float) -> str:
    """A probability in words: never 0% or 100%, which would claim certainty."""
    if chance < 0.01:
        return "<1%"
    return ">99%" if chance > 0.99 else f"{chance:.0%}"


@dataclass(frozen=True)
class SearchParams:
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
        hit_count(self.k)
        if self.radius is not None:
            radius_within(self.radius)


def nearest(
    store: Store, codes: NDArray[np.uint8], params: SearchParams, exclude_slot: int | None = None
) -> list[list[Hit]]:
    """The hits of each code, by distance, then slot.

    Args:
        store: the gallery's file; inside `reading`.
        codes: uint8, (q, bits // 8).
        params: how many of which.
        exclude_slot: a slot that is none, or None.
    """
    lims, distances, slots = _within(store, codes, params, params.k, exclude_slot)
    hits = _hits(store, slots, distances)
    return [hits[start:end] for start, end in pairwise(lims.tolist())]


def ranked(
    store: Store,
    code: NDArray[np.uint8],
    values: NDArray[np.float32],
    params: SearchParams,
    exclude_slot: int | None,
) -> list[Hit]:
    """The k best by asymmetric score among candidates by Hamming distance.

    Args:
        store: the gallery's file; inside `reading`.
        code: uint8, (bits // 8,).
        values: the query's hash values, float32, (bits,).
        params: how many of which.
        exclude_slot: a slot that is none, or None.
    """
    count = None
    if params.radius is None:
        count = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_HIT * params.k)
    _, distances, slots = _within(store, code[None], params, count, exclude_slot)
    # Candidates come by distance, then slot; a stable sort keeps that where scores are equal.
    best = np.argsort(asymmetric_scores(values, store.index[slots]), kind="stable")[: params.k]
    return _hits(store, slots[best], distances[best])


def _within(
    store: Store,
    codes: NDArray[np.uint8],
    params: SearchParams,
    count: int | None,
    exclude_slot: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    return store.index.range_search(
        codes,
        store.index.bits if params.radius is None else params.radius,
        k=count,
        filter=store.allowed(params.conditions) if params.conditions else None,
        exclude=None if exclude_slot is None else np.full(len(codes), exclude_slot),
    )


def _hits(store: Store, slots: NDArray[np.int64], distances: NDArray[np.int32]) -> list[Hit]:
    calibration = store.calibration
    pairs = zip(slots.tolist(), distances.tolist(), strict=True)
    return [hit(store, slot, distance, calibration) for slot, distance in pairs]


def hit(store: Store, slot: int, distance: int, calibration: Calibration | None) -> Hit:
    """The item in a slot as a hit at this distance."""
    item = store.item(slot)
    same_kind = same_image = None
    if calibration is not None:
        same_image = at_odds(calibration.duplicate[distance], 1 / len(store.index))
        if calibration.kind:
            same_kind = at_odds(calibration.kind[distance], _KIND_ODDS)
    return Hit(item.key, distance, same_kind, same_image, item.metadata, item.path)


def asymmetric_scores(values: NDArray[np.float32], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far codes are from an image whose hash values are known; its code is their signs.

    A bit that differs counts as much as the value is away from 0: one that nearly fell the other
    way counts little. Stored codes need nothing beside them for that.

    Args:
        values: float32, (bits,), of the query.
        codes: uint8, (n, bits // 8).

    Returns:
        float64, (n,): sum of |value| over the bits where code and query differ. Equal codes have
        equal scores, to the last bit, wherever they stand.
    """
    differing = codes ^ pack(values[None])
    weights = np.abs(values).astype(np.float64).reshape(-1, 8)
    scores = np.zeros(len(codes))
    # Byte by byte, always in this order: a matrix product may round equal rows unequally.
    for byte, byte_weights in zip(differing.T, weights, strict=True):
        table = np.zeros(256)
        for bit, weight in enumerate(byte_weights):
            table += _BITS_OF_BYTES[:, bit] * weight
        scores += table[byte]
    return scores
