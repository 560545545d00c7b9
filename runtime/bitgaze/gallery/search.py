"""Search: nearest neighbours of a query -> ranked hits with probabilities."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import hit_count, radius_within
from bitgaze.encoding.calibration import Calibration, at_odds
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import Source
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.store import Store
from bitgaze.hamming import pack

Ranking = Literal["hamming", "asymmetric"]

# An asymmetric ranking scores this many of the nearest codes per hit, and at least 100. On CIFAR-10
# and Fashion-MNIST with k = 10, scoring 100 of 4,100 items reached the precision of scoring all of
# them to .002, and 30 to .005.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 10, 100
# In the example images, with 25 subjects, one image in twenty has the same subject as a given one.
_KIND_ODDS = 1 / 19
_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)


@dataclass(frozen=True)
class Hit:
    """One result of a search: an item, its distance, and the probability that it matches.

    The probabilities are those of `Gallery.calibration` at this distance, converted to the odds of
    a search: even odds that the gallery contains the query's image, and one item in twenty of the
    same kind. For other odds, start from `Gallery.calibration`.

    Attributes:
        key: the item's key.
        distance: Hamming distance to the query's code, 0..bits.
        same_kind: probability that query and hit show the same kind of thing, in [0, 1]; None if
            the model was calibrated without labels.
        same_image: probability that they are the same image, possibly resized, compressed, cropped
            or otherwise altered, in [0, 1]; None without a calibration.
        metadata: the item's metadata.
        path: path of the item's file, ready for `open`; None for an item added by hand.
    """

    key: str
    distance: int
    same_kind: float | None
    same_image: float | None
    metadata: dict[str, Any]
    path: str | None

    @property
    def chances(self) -> dict[str, str]:
        """The known probabilities, formatted for people: label to percentage."""
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
    """What a search returns: how many hits, within which distance, of which items.

    Attributes:
        k: maximum number of hits, at least 1.
        radius: maximum Hamming distance, at least 0; None for no limit.
        conditions: an item must meet all of them.

    Raises:
        TypeError: k or radius is not an integer.
        ValueError: k or radius is out of range.
    """

    k: int
    radius: int | None
    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        hit_count(self.k)
        if self.radius is not None:
            radius_within(self.radius)


def search(
    store: Store,
    encoder: Callable[[], Encoder],
    query: Source,
    params: SearchParams,
    *,
    ranking: Ranking,
    exclude_self: bool,
) -> list[Hit]:
    """The hits of an image or a key; see `Gallery.search`.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model; called only to encode an image.
        query: an image, or the key of an item.
        params: which hits to return.
        ranking: "hamming" or "asymmetric".
        exclude_self: leave out the item with the key `query`, or made from the file `query`.
    """
    if ranking not in get_args(Ranking):
        raise ValueError(f"ranking is {ranking!r}, expected one of {get_args(Ranking)}")
    if isinstance(query, str):
        with store.reading():  # one snapshot, so that code and gallery have one adaptation
            if store.find(query) is not None:
                return _search_key(store, query, params, ranking, exclude_self)
    if exclude_self and not isinstance(query, str | os.PathLike):
        raise ValueError(
            f"exclude_self requires a key or a path, got {type(query).__name__}: bytes and arrays "
            "do not identify an item"
        )
    encoded = encode_one(encoder().encode, query)
    with store.reading():
        encoded = adapted(encoded, store.info["adaptation"], encoder())
        path = query if exclude_self and isinstance(query, str | os.PathLike) else None
        exclude_slot = None if path is None else _slot_of_file(store, path)
        hits = _find(store, encoded, params, ranking, exclude_slot)
        if path is not None and exclude_slot is None:
            exclude_slot = _slot_of_same_file(store, path, hits)
            if exclude_slot is not None:
                hits = _find(store, encoded, params, ranking, exclude_slot)
        return hits


def _find(
    store: Store,
    encoded: Encoded,
    params: SearchParams,
    ranking: Ranking,
    exclude_slot: int | None,
) -> list[Hit]:
    if ranking == "hamming":
        return nearest(store, encoded.codes, params, exclude_slot)[0]
    return _ranked(store, encoded.codes[0], encoded.hashes[0], params, exclude_slot)


def _search_key(
    store: Store, key: str, params: SearchParams, ranking: Ranking, exclude_self: bool
) -> list[Hit]:
    if ranking == "asymmetric":
        raise ValueError(
            f"{key!r} is a key: ranking 'asymmetric' requires hash values, and a gallery stores "
            "only codes; pass the image, or use ranking 'hamming'"
        )
    slot = store.slot(key)
    codes = store.item(slot).code[None]
    return nearest(store, codes, params, slot if exclude_self else None)[0]


def encode_one(encode: Callable[[list[Source]], Encoded], image: Source) -> Encoded:
    """Encode a single image.

    Raises:
        ImageError: the image cannot be read.
    """
    encoded = encode([image])
    if encoded.errors:
        raise encoded.errors[0]
    return encoded


def _slot_of_file(store: Store, path: str | os.PathLike[str]) -> int | None:
    """The slot of the item that sync made from a file, or None."""
    # Sync keeps the names of links; the path may also lead to the file through other links.
    for absolute in (os.path.abspath, os.path.realpath):
        item = store.item_of_file(absolute(os.fsencode(path)))
        if item is not None:
            return store.slot(item.key)
    return None


def _slot_of_same_file(
    store: Store, path: str | os.PathLike[str], hits: Sequence[Hit]
) -> int | None:
    """The slot of a hit whose path leads to the file by other links, or None."""
    for found in hits:
        try:
            if found.path is not None and Path(found.path).samefile(path):
                return store.slot(found.key)
        except OSError:
            continue  # its file is gone
    return None


def nearest(
    store: Store, codes: NDArray[np.uint8], params: SearchParams, exclude_slot: int | None = None
) -> list[list[Hit]]:
    """The hits of each code, by ascending distance; ties by slot.

    Args:
        store: the gallery's file; inside `reading`.
        codes: uint8, (q, bits // 8).
        params: which hits to return.
        exclude_slot: slot to leave out, or None.
    """
    lims, distances, slots = _within(store, codes, params, params.k, exclude_slot)
    hits = _hits(store, slots, distances)
    return [hits[start:end] for start, end in pairwise(lims.tolist())]


def _ranked(
    store: Store,
    code: NDArray[np.uint8],
    values: NDArray[np.float32],
    params: SearchParams,
    exclude_slot: int | None,
) -> list[Hit]:
    """The k best by asymmetric score among the nearest codes; ties by distance, then slot.

    Args:
        store: the gallery's file; inside `reading`.
        code: uint8, (bits // 8,).
        values: the query's hash values, float32, (bits,).
        params: which hits to return.
        exclude_slot: slot to leave out, or None.
    """
    count = None
    if params.radius is None:
        count = max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * params.k)
    _, distances, slots = _within(store, code[None], params, count, exclude_slot)
    # Candidates are sorted by distance, then slot; a stable sort keeps that order among ties.
    best = np.argsort(asymmetric_scores(values, store.index[slots]), kind="stable")[: params.k]
    return _hits(store, slots[best], distances[best])


def _within(
    store: Store,
    codes: NDArray[np.uint8],
    params: SearchParams,
    count: int | None,
    exclude_slot: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """The `count` nearest (None: all) within the radius, as `HammingIndex.range_search`."""
    return store.index.range_search(
        codes,
        store.index.bits if params.radius is None else params.radius,
        k=count,
        filter=store.allowed(params.conditions) if params.conditions else None,
        exclude=None if exclude_slot is None else np.full(len(codes), exclude_slot),
    )


def _hits(store: Store, slots: NDArray[np.int64], distances: NDArray[np.int32]) -> list[Hit]:
    pairs = zip(slots.tolist(), distances.tolist(), strict=True)
    calibration = store.calibration
    return [hit(store, slot, distance, calibration) for slot, distance in pairs]


def hit(store: Store, slot: int, distance: int, calibration: Calibration | None) -> Hit:
    """The item in a slot as a hit at a distance, with probabilities by `calibration`."""
    item = store.item(slot)
    same_kind = same_image = None
    if calibration is not None:
        same_image = at_odds(calibration.duplicate[distance], 1 / len(store.index))
        if calibration.kind:
            same_kind = at_odds(calibration.kind[distance], _KIND_ODDS)
    return Hit(item.key, distance, same_kind, same_image, item.metadata, item.path)


def code_distances(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of codes, pair by pair; for many pairs, `HammingIndex` is faster.

    Args:
        codes: uint8, (..., bits // 8).
        others: uint8, of a shape that broadcasts with that of `codes`.

    Returns:
        int64, (...).
    """
    differing: NDArray[np.uint8] = np.unpackbits(codes ^ others, axis=-1)
    return np.asarray(differing.sum(axis=-1, dtype=np.int64))


def asymmetric_scores(values: NDArray[np.float32], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Distances of codes to a query whose hash values are known; its code is their signs.

    Each differing bit counts as much as the query's hash value is away from 0, so a bit that was
    close to flipping counts little. The stored codes need no extra data.

    Args:
        values: the query's hash values, float32, (bits,).
        codes: uint8, (n, bits // 8).

    Returns:
        float64, (n,): the sum of |value| over the bits that differ. Equal codes have exactly equal
        scores, at any position.
    """
    differing = codes ^ pack(values[None])
    weights = np.abs(values).astype(np.float64).reshape(-1, 8)
    scores = np.zeros(len(codes))
    # Byte by byte, in this order: a matrix product can round equal rows differently.
    for byte, byte_weights in zip(differing.T, weights, strict=True):
        table = np.zeros(256)
        for bit, weight in enumerate(byte_weights):
            table += _BITS_OF_BYTES[:, bit] * weight
        scores += table[byte]
    return scores
