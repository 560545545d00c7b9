"""Retrieval quality from distances and relevance. Knows neither models nor pictures."""

import numpy as np
from numpy.typing import NDArray

from bitgaze import HammingIndex


def average_precision(distances: NDArray[np.int32], relevant: NDArray[np.bool_]) -> float:
    """Average precision over the whole ranking, expected over random orders of ties.

    Hamming distances tie by the hundred, and a sort's order among them would be luck. For a level
    of n items at one distance, n+ of them relevant, after N items and N+ relevant ones before it:

      AP = (1 / R) sum over levels of
           (n+ / n) sum_{t=1..n} (N+ + 1 + (t - 1) (n+ - 1) / (n - 1)) / (N + t)

    (McSherry and Najork, ECIR 2008; He et al., CVPR 2018).

    Args:
        distances: (n,), not negative integers, in any order.
        relevant: (n,).

    Returns:
        In [0, 1]; 0 where nothing is relevant.
    """
    total = int(relevant.sum())
    if total == 0:
        return 0.0
    size = np.bincount(distances)
    hits = np.bincount(distances, weights=relevant, minlength=len(size))
    before = np.cumsum(size) - size
    hits_before = np.cumsum(hits) - hits
    level = np.repeat(np.arange(len(size)), size)  # (n,): of each rank
    rank = np.arange(1, len(level) + 1)
    others = np.divide(hits - 1, size - 1, out=np.zeros(len(size)), where=size > 1)
    place = rank - before[level] - 1  # t - 1
    expected_hits = hits_before[level] + 1 + place * others[level]
    share = (hits / np.maximum(size, 1))[level]
    return float((share * expected_hits / rank).sum() / total)


def mean_by_code(
    codes: NDArray[np.uint8],
    labels: NDArray[np.int64],
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
) -> float:
    """Mean average precision of a Hamming search.

    Args:
        codes: (n, bits // 8).
        labels: (n,).
        queries: positions among the n.
        database: positions among the n, without those of the queries.
    """
    index = HammingIndex(8 * codes.shape[1])
    index.add(codes[database])
    distances, ids = index.search(codes[queries], len(database))
    right = labels[database][ids] == labels[queries][:, None]
    return float(np.mean([average_precision(d, r) for d, r in zip(distances, right, strict=True)]))


def mean_by_cosine(
    values: NDArray[np.float32],
    labels: NDArray[np.int64],
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
) -> float:
    """Mean average precision of an order by cosine; values (n, d), the rest as `mean_by_code`."""
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    ranks = np.arange(len(database), dtype=np.int32)  # distinct values: a distance for each rank
    found = []
    for query in queries:
        order = np.argsort(-(unit[database] @ unit[query]), kind="stable")
        found.append(average_precision(ranks, labels[database[order]] == labels[query]))
    return float(np.mean(found))
