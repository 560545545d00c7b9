"""Whether one method is better than another, from their scores on the same queries."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1_000_000  # random numbers per block


class Difference(NamedTuple):
    """The difference of two mean scores, first minus second.

    Attributes:
        mean: over the queries.
        low: lower end of the interval with 95 % of the resampled means.
        high: its upper end. "Better" or "worse" requires an interval without 0.
        not_better: share of resamples in which the first is not better than the second.
    """

    mean: float
    low: float
    high: float
    not_better: float


def paired_bootstrap(
    first: NDArray[np.float64], second: NDArray[np.float64], resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Resample the queries with replacement, and find an interval for the mean difference.

    The interval is the percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13). It covers other queries of the same kind. It does not cover other training seeds
    or another data set, and assumes that queries do not resemble each other.

    Args:
        first: scores, (queries,), such as the average precision of each query.
        second: scores of the same queries in the same order.
        resamples: at least 1.
        seed: of the resampling.

    Raises:
        ValueError: there are no queries, the shapes differ, or resamples < 1.
    """
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"scores have shapes {first.shape} and {second.shape}, expected (queries,) twice"
        )
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected at least 1")
    difference = first - second
    generator = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(difference))
    means = np.concatenate(
        [
            difference[generator.integers(len(difference), size=(rows, len(difference)))].mean(1)
            for rows in (min(step, resamples - start) for start in range(0, resamples, step))
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(difference.mean()), float(low), float(high), float((means <= 0).mean()))
