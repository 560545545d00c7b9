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
        worst: with the least lucky order of ties.
        expected: over all orders of ties, each as likely.
        best: with the luckiest.
    """

    worst: NDArray[np.float64]
    expected: NDArray[np.float64]
    best: NDArray[np.float64]


def average_precision(ranking: Levels, top: int | None = None, over: str = "possible") -> Bounds:
    """AP@R: the precision at the rank of each relevant item among the first R, averaged.

    For a level of n items at one distance, n+ of them relevant, after N items and N+ relevant ones,
    what its m first places add, expected over the orders of the level, is (McSherry and Najork,
    ECIR 2008; He et al., CVPR 2018)

      (n+ / n) sum_{t=1..m} (N+ + 1 + (t - 1) (n+ - 1) / (n - 1)) / (N + t)

    m is n, except for the level that R cuts. There the number h of relevant items that come in is
    hypergeometric; given h, the m places are a level of their own, and so the expectation, and the
    bounds, are exact for both denominators.

    Args:
        ranking: counts by distance, or by rank (`Levels` whose every level has one item).
        top: R, at least 1; None for the whole ranking.
        over: what the sum is divided by: "possible", the relevant items that R places could hold,
            min(R, all relevant); or "found", those among the first R, as most published code does:
            it falls as hits are lost, so that [hit, miss, miss] scores 1 and [hit, miss, hit] 5/6.
            For the whole ranking they are one.

    Returns:
        In [0, 1]; 0 where nothing is relevant, or found. With "found" the best order is not always
        that of the relevant first: the bounds are over all orders.

    Raises:
        ValueError: top < 1, or another denominator.
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
    """What lies within a radius of the queries; each float64, (bits + 1,), for radius 0..bits.

    Attributes:
        precision: share of relevant items within the radius, a mean over queries; an empty ball
            counts as 0 (the convention of DeepHash and others).
        pooled_precision: relevant items of all balls / items of all balls; NaN where all are empty.
        recall: share of the relevant items within the radius, a mean over queries; 0 for a query
            to which nothing is relevant.
        empty: share of the queries with nothing within the radius.
    """

    precision: NDArray[np.float64]
    pooled_precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    empty: NDArray[np.float64]


def by_radius(ranking: Levels) -> Ball:
    """Precision and recall within each radius; no order comes into it, so neither do ties."""
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
    """Mean average precision of a Hamming search, whole ranking, expected over orders of ties.

    Args:
        codes: (n, bits // 8).
        labels: as `is_relevant` takes them, n of them.
        queries: positions among the n.
        database: positions among the n, without those of the queries; None for all but the query.
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
    """The mean of `by_cosine`."""
    return float(by_cosine(values, labels, queries, database, top).mean())


def by_cosine(
    values: NDArray[np.float32],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
    top: int | None = None,
) -> NDArray[np.float64]:
    """AP@R of an order by cosine, over the relevant items that R places could hold: (queries,).

    Args:
        values: (n, d).
        labels: as `is_relevant` takes them, n of them.
        queries: positions among the n.
        database: positions among the n, without those of the queries.
        top: R; None for the whole ranking.
    """
    length = np.linalg.norm(values, axis=1, keepdims=True)
    unit = values / np.maximum(length, np.finfo(np.float32).tiny)
    others, labels_of_others = unit[database], labels[database]
    ranks = np.ones((1, len(database)), np.int64)  # distinct values: a level for each rank
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
    """Of one query: worst, expected, best."""
    possible = min(top, int(relevant.sum()))
    if possible == 0:
        return 0.0, 0.0, 0.0
    before = np.cumsum(items) - items
    hits_before = np.cumsum(relevant) - relevant
    whole = before + items <= top
    sums = _sums(before[whole], hits_before[whole], items[whole], relevant[whole], int(items.sum()))
    above = [part.sum() for part in sums]
    hits_above = relevant[whole].sum()
    cut = np.flatnonzero(~whole & (before < top))  # one level, or none
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
    """Sums of the precision at each hit of a level: hits last, expected, hits first.

    All three are sums of (a + b j) / (N + j) over j = 1..m, which is b m + (a - b N) times the sum
    of 1 / (N + j); and that is a difference of harmonic numbers.
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
    """How many relevant items the first places of a random order hold, and how likely each is."""
    _, log_factorial = _tables(items)

    def log_choose(n: int, k: NDArray[np.int64]) -> Any:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    hits = np.arange(max(0, places - items + relevant), min(places, relevant) + 1)
    likely = log_choose(relevant, hits) + log_choose(items - relevant, places - hits)
    chance = np.exp(likely - likely.max())
    return hits, chance / chance.sum()


@lru_cache(maxsize=8)
def _tables(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Harmonic numbers and logarithms of factorials, of 0..size."""
    numbers = np.arange(1, size + 1)
    sums = (np.cumsum(terms) for terms in (1 / numbers, np.log(numbers)))
    harmonic, log_factorial = (np.concatenate([[0.0], found]) for found in sums)
    return harmonic, log_factorial
