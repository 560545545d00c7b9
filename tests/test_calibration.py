import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgaze.encoding.calibration import Calibration, at_odds
from galleries import calibrate

PAIRS = st.lists(st.integers(0, 16), min_size=1, max_size=60)


def test_probabilities_are_the_shares_of_pairs_at_even_odds():
    # Distance 0: a quarter of the duplicates, no other pair. Distance 2 occurs among duplicates
    # only, but the nearer distance 1 has a lower share: pooled, (.5 + .25) / (.5 + .25 + .5).
    table = calibrate([0, 1, 1, 2], [], [1] * 5000 + [3] * 5000, bits=8)
    assert table.duplicate == pytest.approx([1, 0.6, 0.6, 0, 0, 0, 0, 0, 0], abs=1e-3)
    assert table.kind == ()


def test_kinds_have_their_own_table():
    table = calibrate([0], [4, 4], [4, 8] * 1000, bits=8)
    assert table.kind == pytest.approx([2 / 3] * 8 + [0], abs=1e-3)
    assert table.duplicate[0] > 0.999
    assert table.duplicate[4] == 0


@given(PAIRS, PAIRS, PAIRS)
def test_probabilities_fall_and_false_match_rates_rise(duplicates, kinds, unrelated):
    table = calibrate(duplicates, kinds, unrelated, bits=16)
    assert table.bits == 16
    for probabilities in (table.duplicate, table.kind):
        assert len(probabilities) == 17
        assert list(probabilities) == sorted(probabilities, reverse=True)
        assert 0 <= probabilities[-1] <= probabilities[0] <= 1
    assert list(table.false_match) == sorted(table.false_match)
    assert table.false_match[-1] == 1


@given(PAIRS, PAIRS)
def test_isotonic_regression_is_the_best_falling_function(duplicates, unrelated):
    """Against the min-max formula, an independent definition."""
    match = np.bincount(duplicates, minlength=17) / len(duplicates)
    counts = np.bincount(unrelated, minlength=17).astype(float)
    # One more unrelated pair below the nearest, halving every half bit (16 / 32).
    if nearest := min(unrelated):
        more = np.array([0.5 ** (2 * (nearest - d)) for d in range(nearest)])
        counts[:nearest] = more / more.sum()
    other = counts / counts.sum()
    share = calibrate(duplicates, [], unrelated, bits=16).duplicate

    def mean(first, last):
        weight = (match + other)[first : last + 1].sum()
        return match[first : last + 1].sum() / weight if weight else None

    for d in np.flatnonzero(match + other):
        lows = []
        for last in range(d, 17):
            values = [mean(first, last) for first in range(d + 1)]
            lows.append(min(v for v in values if v is not None))
        assert share[d] == pytest.approx(max(lows), abs=1e-5)


@pytest.mark.parametrize(
    ("even", "odds", "expected"),
    [(0.5, 1, 0.5), (0.5, 0.25, 0.2), (0.9, 1 / 9, 0.5), (1.0, 1e-9, 1.0), (0.0, 5.0, 0.0)],
)
def test_probabilities_at_other_odds(even, odds, expected):
    assert at_odds(even, odds) == pytest.approx(expected)


def test_probabilities_rise_below_the_nearest_unrelated_pair_but_never_reach_1():
    spread = [d for d in range(41) for _ in range(100)]
    table = calibrate(spread, [], [40] * 1000, bits=128)
    assert 1 > table.duplicate[5] > table.duplicate[20] > table.duplicate[38] > 0.9


def test_the_radius_for_a_false_match_rate():
    table = calibrate([0], [], [2] * 9 + [5] * 90, bits=8)
    # One pair more is spread over the distances 0 and 1: half as many every 8 / 32 bits.
    assert table.false_match[0] == pytest.approx(0.01 / 17)
    assert table.false_match[1:6] == (0.01, 0.1, 0.1, 0.1, 1.0)
    assert table.radius(0.001) == 0
    assert table.radius(0.01) == 1
    assert table.radius(0.05) == 1
    assert table.radius(0.1) == 4
    assert table.radius(0.999) == 4
    with pytest.raises(ValueError, match="smallest that this calibration can resolve is 0.00059"):
        table.radius(0.0005)
    for rate in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="expected above 0 and below 1"):
            table.radius(rate)


def test_bad_distances_and_tables_are_rejected():
    with pytest.raises(ValueError, match=r"distances are in 0\.\.9, expected 0\.\.8"):
        calibrate([0, 9], [], [1], bits=8)
    with pytest.raises(ValueError, match="duplicate is not all numbers"):
        Calibration((1, 0), (), (0.0, 1.0))
