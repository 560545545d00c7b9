"""Retrieval quality from counts by distance, in which ties have no order.

Hamming distances tie by the hundred, and how a sort breaks ties is luck, or worse, the order in
which a set was stored. So every figure comes as its expectation over all orders of ties, with the
worst and the best that an order can make of it. The counts come from distance_counts.py.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.labels import Labels, is_relevant
from attention_hashing.evaluation.distance_counts import Levels, levels_among


class Bounds(NamedTuple):
    """A figure for each query: float64, (queries,).

    Attributes:
        worst: over all orders of ties.
        expected: over all orders of ties, which are equally likely.
        best: over all orders of ties.
    """

    worst: NDArray[np.float64]
    expected: NDArray[np.float64]
    best: NDArray[np.float64]


def average_precision(ranking: Levels, top: int | None = None, over: str = "possible") -> Bounds:
    """AP@R: the mean precision at the ranks of the relevant items among the first R.

    Take a level of n items at one distance, n+ of them relevant, preceded by N items of which N+
    are relevant. Over all orders of the level, its first m places are expected to add (McSherry and
    Najork, ECIR 2008; He et al., CVPR 2018)

      (n+ / n) sum_{t=1..m} (N+ + 1 + (t - 1) (n+ - 1) / (n - 1)) / (N + t)

    m is n, except in the level that R cuts. There the number h of relevant items among the first m
    is hypergeometric; given h, the m places form a level of their own. Expectation and bounds are
    therefore exact for both denominators.

    Args:
        ranking: counts by distance, or by rank (`Levels` with one item per level).
        top: R, at least 1; None for the whole ranking.
        over: the denominator: "possible" for the relevant items that R places can hold,
            min(R, all relevant); or "found" for those among the first R, as in most published
            code. "found" falls as hits are lost: [hit, miss, miss] scores 1, [hit, miss, hit] 5/6.
            For the whole ranking the two are equal.

    Returns:
        In [0, 1]; 0 if nothing is relevant, or nothing is found. With "found" the best order does
        not always put relevant items first; the bounds are over all orders.

    Raises:
        ValueError: top < 1, or an unknown denominator.
    """
    if over not in ("possible", "found"):
        raise ValueError(f'over is {over!r}, expected "possible" or "found"')
    top = _first(ranking, top)
    rows = [_average_precision(n, hits, top, over) for n, hits in zip(*ranking, strict=True)]
    return Bounds(*np.array(rows, np.float64).reshape(-1, 3).T)


def precision_among_first(ranking: Levels, top: int) -> Bounds:
    """P@N: the share of relevant items among the first N, or among all if there are fewer.

    Raises:
        ValueError: top < 1.
    """
    top = _first(ranking, top)
    before = np.cumsum(ranking.items, axis=1) - ranking.items
    places = np.clip(top - before, 0, ranking.items)
    misses = ranking.items - ranking.relevant
    share = ranking.relevant / np.maximum(ranking.items, 1)
    taken = (np.maximum(places - misses, 0), places * share, np.minimum(places, ranking.relevant))
    size = np.minimum(ranking.items.sum(1), top)
    return Bounds(*(hits.sum(1) / np.maximum(size, 1) for hits in taken))


class Ball(NamedTuple):
    """Figures within each radius 0..bits of the queries; each float64, (bits + 1,).

    Attributes:
        precision: mean over queries of the share of relevant items within the radius; an empty
            ball counts as 0 (the convention of DeepHash and others).
        pooled_precision: relevant items of all balls / items of all balls; NaN if all are empty.
        recall: mean over queries of the share of relevant items that lie within the radius; 0 for
            a query without relevant items.
        empty: share of the queries with nothing within the radius.
    """

    precision: NDArray[np.float64]
    pooled_precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    empty: NDArray[np.float64]


def by_radius(ranking: Levels) -> Ball:
    """Precision and recall within each radius; they do not depend on an order, nor on ties."""
    items, hits = (np.cumsum(counts, axis=1) for counts in ranking)
    total, pooled = hits[:, -1:], items.sum(0)
    return Ball(
        precision=(hits / np.maximum(items, 1)).mean(0),
        pooled_precision=np.divide(
            hits.sum(0), pooled, out=np.full(len(pooled), np.nan), where=pooled > 0
        ),
        recall=(hits / np.maximum(total, 1)).mean(0),
        empty=(items == 0).mean(0),
    )


def mean_by_code(
    codes: NDArray[np.uint8],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp] | None = None,
) -> float:
    """Mean average precision of a Hamming search over the whole ranking, expected over ties.

    Args: as for `levels_among`.
    """
    found = levels_among(codes, labels, queries, database)
    return float(average_precision(found).expected.mean())


def mean_by_cosine(
    values: NDArray[np.float32],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
    top: int | None = None,
) -> float:
    """Mean average precision of a ranking by cosine; see `by_cosine`."""
    return float(by_cosine(values, labels, queries, database, top).mean())


def by_cosine(
    values: NDArray[np.float32],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
    top: int | None = None,
) -> NDArray[np.float64]:
    """AP@R of a ranking by cosine, over the relevant items that R places can hold: (queries,).

    Args:
        values: (n, d).
        labels: n of them, as for `is_relevant`.
        queries: positions among the n.
        database: positions among the n, none of them a query.
        top: R; None for the whole ranking.
    """
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.maximum(length, np.finfo(np.float32).tiny)
    others, labels_of_others = unit[database], labels[database]
    ranks = np.ones((1, len(database)), np.int64)  # values are distinct: one level per rank
    found = []
    for query in queries:
        order = np.argsort(-(others @ unit[query]), kind="stable")
        right = is_relevant(labels[query][None], labels_of_others)[:, order].astype(np.int64)
        found.append(average_precision(Levels(ranks, right), top).expected[0])
    return np.array(found)


def _first(ranking: Levels, top: int | None) -> int:
    if top is None:
        return int(ranking.items.sum(1).max(initial=1))
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    return top


def _average_precision(
    items: NDArray[np.int64], relevant: NDArray[np.int64], top: int, over: str
) -> tuple[float, float, float]:
    """Worst, expected and best figure of one query."""
    possible = min(top, int(relevant.sum()))
    if possible == 0:
        return 0.0, 0.0, 0.0
    before = np.cumsum(items) - items
    hits_before = np.cumsum(relevant) - relevant
    whole = before + items <= top
    sums = _sums(before[whole], hits_before[whole], items[whole], relevant[whole], int(items.sum()))
    above = [part.sum() for part in sums]
    hits_above = relevant[whole].sum()
    cut = np.flatnonzero(~whole & (before < top))  # at most one level
    if not len(cut):
        divisor = possible if over == "possible" else max(hits_above, 1)
        worst, expected, best = (float(part / divisor) for part in above)
        return worst, expected, best
    (level,) = cut
    places = top - before[level]
    hits, chance = _hypergeometric(int(items[level]), int(relevant[level]), int(places))
    inside = _sums(before[level], hits_before[level], places, hits, int(items.sum()))
    divisor = possible if over == "possible" else np.maximum(hits_above + hits, 1)
    worst, expected, best = (
        (one + other) / divisor for one, other in zip(above, inside, strict=True)
    )
    return float(worst.min()), float(expected @ chance), float(best.max())


def _sums(
    before: NDArray[np.int64],
    hits_before: NDArray[np.int64],
    items: NDArray[np.int64],
    hits: NDArray[np.int64],
    size: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the precision at each hit of a level: with hits last, expected, with hits first.

    All three are sums of (a + b j) / (N + j) over j = 1..m. Such a sum is b m + (a - b N) times the
    sum of 1 / (N + j), which is a difference of harmonic numbers.
    """
    harmonic, _ = _tables(size)

    def total(a: Any, b: Any, n: NDArray[np.int64], m: NDArray[np.int64]) -> Any:
        return b * m + (a - b * n) * (harmonic[n + m] - harmonic[n])

    slope = np.where(items > 1, (hits - 1) / np.maximum(items - 1, 1), 0.0)
    share = hits / np.maximum(items, 1)
    one = np.ones(())
    return (
        total(hits_before, one, before + items - hits, hits),
        share * total(hits_before + 1 - slope, slope, before, items),
        total(hits_before, one, before, hits),
    )


def _hypergeometric(
    items: int, relevant: int, places: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Possible numbers of relevant items in the first places, and their probabilities."""
    _, log_factorial = _tables(items)

    def log_choose(n: int, k: NDArray[np.int64]) -> Any:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    hits = np.arange(max(0, places - items + relevant), min(places, relevant) + 1)
    likely = log_choose(relevant, hits) + log_choose(items - relevant, places - hits)
    chance = np.exp(likely - likely.max())
    return hits, chance / chance.sum()


@lru_cache(maxsize=8)
def _tables(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Harmonic numbers, and logarithms of factorials, of 0..size."""
    numbers = np.arange(1, size + 1)
    sums = (np.cumsum(terms) for terms in (1 / numbers, np.log(numbers)))
    harmonic, log_factorial = (np.concatenate([[0.0], found]) for found in sums)
    return harmonic, log_factorial
