"""Retrieval quality from distances and relevance. Knows neither models nor pictures."""

import numpy as np
from numpy.typing import NDArray


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
