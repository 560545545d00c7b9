"""Distances of codes and of views, on arrays alone; for many codes, the indexes are faster."""

import numpy as np
from numpy.typing import NDArray

from bitgaze.hamming import pack

_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)


def code_distances(codes: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of codes, pair by pair.

    Args:
        codes: uint8, (..., bits // 8).
        others: uint8, of a shape that broadcasts with that of `codes`.

    Returns:
        int64, (...).
    """
    differing: NDArray[np.uint8] = np.unpackbits(codes ^ others, axis=-1)
    return np.asarray(differing.sum(axis=-1, dtype=np.int64))


def view_distances(views: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean numbers of bits by which views differ, pair by pair, by the rule of `ViewIndex`.

    Args:
        views: uint8, (n, q, bits // 8).
        others: uint8, (n, v, bits // 8).

    Returns:
        float64, (n,).
    """
    distances = code_distances(views[:, :, None], others[:, None])
    return np.asarray((distances.min(2).mean(1) + distances.min(1).mean(1)) / 2)


def nearest_pairs(
    views: NDArray[np.uint8], items: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which view of a query and which of each item are nearest to each other.

    Args:
        views: uint8, (q, bits // 8), of the query.
        items: uint8, (n, v, bits // 8).

    Returns:
        The views of the query and those of the items, int64, (n,) each. Of equally near pairs the
        first, by the query's views, then by the item's.
    """
    count, places = items.shape[:2]
    distances = code_distances(views[None, :, None], items[:, None])
    best = distances.reshape(count, -1).argmin(axis=1)
    return best // places, best % places


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


def asymmetric_view_scores(
    values: NDArray[np.float32], items: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Distances of items to a query by all views: `ViewIndex`'s rule over `asymmetric_scores`.

    Args:
        values: hash values of the query's views, float32, (q, bits).
        items: codes of the items' views, uint8, (n, v, bits // 8).

    Returns:
        float64, (n,): the mean of both directions, each the mean over the views of one side of the
        score with the nearest view of the other.
    """
    count, places, width = items.shape
    codes = np.ascontiguousarray(items).reshape(count * places, width)
    scores = np.stack([asymmetric_scores(view, codes).reshape(count, places) for view in values], 1)
    return np.asarray((scores.min(axis=2).mean(axis=1) + scores.min(axis=1).mean(axis=1)) / 2)
