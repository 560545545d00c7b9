"""Metrics compared with all orders of ties, and with values computed by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_hashing.data.labels import is_relevant
from attention_hashing.evaluation import distance_counts, metrics
from attention_hashing.evaluation.bootstrap import paired_bootstrap
from attention_hashing.evaluation.code_statistics import code_statistics
from attention_hashing.evaluation.distance_counts import Levels, levels, unordered
from attention_hashing.evaluation.metrics import average_precision, precision_among_first

# Up to 6 items, each with a distance and whether it is relevant.
ITEMS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6)


def counted(items):
    """Levels of one query."""
    distances, relevant = map(np.array, zip(*items, strict=True))
    return Levels(np.bincount(distances)[None], np.bincount(distances, relevant)[None].astype(int))


def orders(items):
    """Relevance in every order that the distances allow, with the multiplicity of ties."""
    for order in itertools.permutations(items):
        if all(a[0] <= b[0] for a, b in itertools.pairwise(order)):
            yield [is_relevant for _, is_relevant in order]


def plain(relevant, top, over):
    """AP@R of one order, by its definition."""
    hits, total = 0, 0.0
    for rank, is_hit in enumerate(relevant[:top], start=1):
        if is_hit:
            hits += 1
            total += hits / rank
    divisor = hits if over == "found" else min(top, sum(relevant))
    return total / divisor if divisor else 0.0


def check(bounds, values):
    assert bounds.worst == pytest.approx(min(values))
    assert bounds.expected == pytest.approx(np.mean(values))
    assert bounds.best == pytest.approx(max(values))


@pytest.mark.parametrize("over", ["possible", "found"])
@given(items=ITEMS, top=st.integers(1, 8))
def test_average_precision_is_that_of_all_orders_of_ties(over, items, top):
    values = [plain(relevant, top, over) for relevant in orders(items)]
    check(average_precision(counted(items), top, over), values)


@given(items=ITEMS)
def test_over_found_equals_over_possible_for_the_whole_ranking(items):
    found = average_precision(counted(items))
    check(found, [plain(relevant, len(items), "possible") for relevant in orders(items)])
    assert average_precision(counted(items), over="found") == found


@given(items=ITEMS, top=st.integers(1, 8))
def test_precision_among_the_first_is_that_of_all_orders_of_ties(items, top):
    values = [np.mean(relevant[:top]) for relevant in orders(items)]
    check(precision_among_first(counted(items), top), values)


def test_metrics_of_a_worked_example():
    ranks = np.ones((1, 3), int)
    hit_miss_hit = Levels(ranks, np.array([[1, 0, 1]]))
    hit_miss_miss = Levels(ranks, np.array([[1, 0, 0]]))
    hit_miss_then_hit = Levels(np.array([[1, 1, 1, 1]]), np.array([[1, 0, 0, 1]]))
    assert average_precision(hit_miss_hit).expected == pytest.approx(5 / 6)
    assert average_precision(hit_miss_miss).expected == pytest.approx(1)
    # The first three places contain one of two relevant items.
    assert average_precision(hit_miss_then_hit, 3, "found").expected == pytest.approx(1)
    assert average_precision(hit_miss_then_hit, 3).expected == pytest.approx(1 / 2)
    # Two items are tied, and one is relevant: first (1) or second (1 / 2).
    (tie,) = zip(*average_precision(Levels(np.array([[2]]), np.array([[1]]))), strict=True)
    assert tie == pytest.approx((0.5, 0.75, 1))
    # One place for those two.
    (cut,) = zip(*average_precision(Levels(np.array([[2]]), np.array([[1]])), 1), strict=True)
    assert cut == pytest.approx((0, 0.5, 1))


@pytest.mark.parametrize(
    ("items", "relevant", "expected"),
    [
        ([5, 3], [0, 0], 0),  # nothing is relevant
        ([5, 3], [5, 3], 1),  # everything is
        ([0, 0, 1], [0, 0, 1], 1),  # one item
        ([0, 0, 1], [0, 0, 0], 0),
        ([0], [0], 0),  # no item
    ],
)
@pytest.mark.parametrize("over", ["possible", "found"])
@pytest.mark.parametrize("top", [1, 4, None])
def test_rankings_with_a_trivial_result(items, relevant, expected, over, top):
    ranking = Levels(np.array([items]), np.array([relevant]))
    assert np.ravel(average_precision(ranking, top, over)) == pytest.approx([expected] * 3)
    if top:
        assert np.ravel(precision_among_first(ranking, top)) == pytest.approx([expected] * 3)


def test_large_levels_stay_exact_and_ordered():
    generator = np.random.default_rng(0)
    items = generator.integers(0, 2000, (50, 65))
    ranking = Levels(items, generator.binomial(items, generator.random((50, 65)) * 0.2))
    for top, over in ((None, "possible"), (5000, "possible"), (5000, "found"), (10, "found")):
        worst, expected, best = average_precision(ranking, top, over)
        assert (worst <= expected).all()
        assert (expected <= best).all()
        assert (worst < best).all()
    # The sum of the closed form, term by term.
    expected = average_precision(ranking).expected
    n, hits = (counts[0].astype(float) for counts in ranking)
    total, before, hits_before = 0.0, 0, 0
    for size, right in zip(n, hits, strict=True):
        if size:
            t = np.arange(1, size + 1)
            slope = (right - 1) / (size - 1) if size > 1 else 0
            total += right / size * ((hits_before + 1 + (t - 1) * slope) / (before + t)).sum()
        before, hits_before = before + size, hits_before + right
    assert expected[0] == pytest.approx(total / hits.sum(), rel=1e-12)


def test_invalid_arguments():
    ranking = Levels(np.ones((1, 3), int), np.ones((1, 3), int))
    with pytest.raises(ValueError, match="top is 0, expected at least 1"):
        average_precision(ranking, 0)
    with pytest.raises(ValueError, match="top is -1, expected at least 1"):
        precision_among_first(ranking, -1)
    with pytest.raises(ValueError, match='over is \'hits\', expected "possible" or "found"'):
        average_precision(ranking, 2, "hits")


def test_within_a_radius():
    # Two queries; the second has nothing at distance 0, and no relevant items.
    items = np.array([[1, 2, 1], [0, 1, 3]])
    relevant = np.array([[1, 1, 0], [0, 0, 0]])
    ball = metrics.by_radius(Levels(items, relevant))
    assert ball.precision == pytest.approx([1 / 2, (2 / 3) / 2, (2 / 4) / 2])
    assert ball.pooled_precision == pytest.approx([1, 2 / 4, 2 / 8])
    assert ball.recall == pytest.approx([1 / 4, 1 / 2, 1 / 2])
    assert ball.empty == pytest.approx([1 / 2, 0, 0])
    nothing = metrics.by_radius(Levels(np.array([[0, 1]]), np.array([[0, 1]])))
    assert np.isnan(nothing.pooled_precision[0])
    assert nothing.empty.tolist() == [1, 0]


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_levels_are_counts_by_distance(several, block, monkeypatch):
    monkeypatch.setattr(distance_counts, "_BLOCK_PAIRS", block)
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (60, 2), np.uint8)
    labels = generator.random((60, 5)) < 0.3 if several else generator.integers(0, 3, 60)
    queries = np.arange(0, 60, 4)
    found = levels(codes[queries], labels[queries], codes, labels)
    alone = levels(codes[queries], labels[queries], codes, labels, exclude=queries)
    bits = np.unpackbits(codes, axis=1)
    for row, query in enumerate(queries):
        distances = (bits != bits[query]).sum(1)
        right = (labels & labels[query]).any(1) if several else labels == labels[query]
        assert found.items[row].tolist() == np.bincount(distances, minlength=17).tolist()
        assert found.relevant[row].tolist() == np.bincount(distances[right], minlength=17).tolist()
        others = np.arange(60) != query
        assert alone.items[row].tolist() == np.bincount(distances[others], minlength=17).tolist()
        right &= others
        assert alone.relevant[row].tolist() == np.bincount(distances[right], minlength=17).tolist()
    assert found.relevant.sum() > 0


def test_labels_must_have_the_same_form():
    with pytest.raises(ValueError, match=r"shape \(2,\), database labels \(3, 4\)"):
        is_relevant(np.zeros(2, int), np.zeros((3, 4), bool))
    with pytest.raises(ValueError, match=r"shape \(2, 3\), database labels \(3, 4\)"):
        is_relevant(np.zeros((2, 3), bool), np.zeros((3, 4), bool))
    one = np.zeros((1, 1), np.uint8)
    with pytest.raises(ValueError, match="the database is empty"):
        levels(one, np.zeros(1, int), one[:0], np.zeros(0, int))


def test_equal_codes_are_a_random_order():
    codes, labels = np.zeros((9, 1), np.uint8), np.array([0, 0, 0, 1, 1, 1, 1, 1, 1])
    queries, database = np.array([0]), np.arange(1, 9)
    found = levels(codes[queries], labels[queries], codes[database], labels[database])
    items = [(0, bool(label == 0)) for label in labels[1:]]
    expected = np.mean([plain(order, 8, "possible") for order in orders(items)])
    assert metrics.mean_by_code(codes, labels, queries, database) == pytest.approx(expected)
    assert average_precision(unordered(found)).expected == pytest.approx(expected)
    # Each against all others, without the query itself.
    assert metrics.mean_by_code(codes, labels, queries) == pytest.approx(expected)


def test_cosine_orders_by_angle():
    values = np.array([[1, 0], [2, 0.2], [0, 3], [1, 1], [0, 0]], np.float32)
    labels = np.array([0, 0, 0, 1, 1])
    queries, database = np.array([0]), np.arange(1, 5)
    # In order: 1 (relevant), 3, then 2 (relevant) and 4, both at a right angle, by position.
    found = metrics.mean_by_cosine(values, labels, queries, database)
    assert found == pytest.approx((1 + 2 / 3) / 2)
    assert metrics.mean_by_cosine(values, labels, queries, database, 1) == pytest.approx(1)
    assert metrics.mean_by_cosine(values, labels, queries, database, 2) == pytest.approx(1 / 2)


def test_code_statistics():
    # Four codes of 8 bits: the first bit halves them, the second equals it, the third is its
    # opposite, the fourth is set in one code, the others in none.
    codes = np.array([[0b11010000], [0b11000000], [0b00100000], [0b00100000]], np.uint8)
    found = code_statistics(codes)
    assert found.unique == 3 / 4
    assert found.most_common == 2 / 4
    assert found.constant == 4
    assert (found.least_set, found.most_set) == (0, 1 / 2)
    assert found.balance == pytest.approx((0.25 + 4 * 0.5) / 8)
    # Correlation of the fourth with each of the others: (1/4 - 1/2 * 1/4) / sqrt(1/4 * 3/16).
    fourth = (1 / 8) / np.sqrt(3 / 64)
    assert found.correlation == pytest.approx((3 * 1 + 3 * fourth) / 6, rel=1e-6)
    assert found.largest_correlation == pytest.approx(1)


def test_constant_codes():
    found = code_statistics(np.full((5, 2), 255, np.uint8))
    assert found == (1 / 5, 1, 0.5, 1, 1, 16, 0, 0)
    assert code_statistics(np.zeros((1, 1), np.uint8)).unique == 1
    with pytest.raises(ValueError, match="no codes to describe"):
        code_statistics(np.zeros((0, 2), np.uint8))


def test_random_codes_are_balanced_and_hardly_correlated():
    codes = np.random.default_rng(0).integers(0, 256, (4000, 8), np.uint8)
    found = code_statistics(codes)
    assert found.unique == 1
    assert found.balance < 0.02
    assert found.correlation == pytest.approx(0.8 / np.sqrt(4000), rel=0.1)
    assert found.constant == 0


def test_the_bootstrap_distinguishes_a_difference_from_noise():
    generator = np.random.default_rng(0)
    second = generator.random(200)
    better = paired_bootstrap(second + generator.normal(0.05, 0.1, 200), second, 2000)
    assert 0 < better.low < better.mean < better.high
    assert better.not_better == 0
    # The interval of a mean is about 1.96 standard errors to each side.
    assert better.high - better.low == pytest.approx(2 * 1.96 * 0.1 / np.sqrt(200), rel=0.15)
    noise = paired_bootstrap(second + generator.normal(0, 0.1, 200), second, 2000)
    assert noise.low < 0 < noise.high
    assert 0.025 < noise.not_better < 0.975


def test_the_bootstrap_is_paired_and_repeatable(monkeypatch):
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 50))
    found = paired_bootstrap(first, second, 999, seed=3)
    assert paired_bootstrap(first, second, 999, seed=3) == found
    assert paired_bootstrap(first, second, 999, seed=4) != found
    order = generator.permutation(50)
    assert paired_bootstrap(first[order], second[order]).mean == pytest.approx(found.mean)
    assert paired_bootstrap(first, first) == (0, 0, 0, 1)
    assert paired_bootstrap(first + 0.1, first).low == pytest.approx(0.1)  # always better by .1
    monkeypatch.setattr("attention_hashing.evaluation.bootstrap._BLOCK", 1)
    assert paired_bootstrap(first, second, 999, seed=3) == pytest.approx(found)
    with pytest.raises(ValueError, match=r"shapes \(50,\) and \(49,\)"):
        paired_bootstrap(first, second[1:])
    with pytest.raises(ValueError, match=r"shapes \(0,\) and \(0,\)"):
        paired_bootstrap(first[:0], second[:0])
    with pytest.raises(ValueError, match="resamples is 0, expected at least 1"):
        paired_bootstrap(first, second, 0)
