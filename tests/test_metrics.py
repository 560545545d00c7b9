import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_hashing.metrics import average_precision


def plain(relevant):
    """Average precision of one order, by its definition."""
    hits, total = 0, 0.0
    for rank, is_relevant in enumerate(relevant, start=1):
        if is_relevant:
            hits += 1
            total += hits / rank
    return total / hits if hits else 0.0


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_it_is_the_mean_over_all_orders_of_ties(items):
    orders = [
        order
        for order in itertools.permutations(items)
        if all(a[0] <= b[0] for a, b in itertools.pairwise(order))
    ]
    expected = np.mean([plain([relevant for _, relevant in order]) for order in orders])
    distances, relevant = map(np.array, zip(*items, strict=True))
    assert average_precision(distances, relevant) == pytest.approx(expected)


def test_by_hand():
    ranking = np.arange(3)
    assert average_precision(ranking, np.array([True, False, True])) == pytest.approx(5 / 6)
    assert average_precision(np.zeros(3, int), np.array([False] * 3)) == 0
    assert average_precision(np.full(4, 9), np.array([True] * 4)) == pytest.approx(1)
