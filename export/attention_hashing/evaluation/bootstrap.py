"""Whether one way is better than another, given what each scores on the same queries."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1_000_000  # numbers drawn in one go


class Difference(NamedTuple):
    """What the first is better by.

    Attributes:
        mean: over the queries.
        low: end of the interval that holds 95 % of the resampled means.
        high: the other end. An interval without 0 is what "better" or "worse" takes.
        not_better: share of the resamples in which the first is no better than the second.
    """

    mean: float
    low: float
    high: float
    not_better: float


def paired_bootstrap(
    first: NDArray[np.float64], second: NDArray[np.float64], resamples: int = 10_000, seed: int = 0
) -> Difference:
    """Resample the queries, with replacement, and look how the mean difference moves.

    Percentile interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, ch. 13). It
    says what other queries of the same kind would change; not what other training seeds, another
    set, or a query that looks like another would.

    Args:
        first: scores, (queries,), such as the average precision of each query.
        second: of the same queries in the same order.
        resamples: at least 1.
        seed: the same one gives the same interval.

    Raises:
        ValueError: no queries, another number of them, or resamples < 1.
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
