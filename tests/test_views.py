"""ViewIndex: every search against tests/oracle.py on every kernel; contents, changes, bad input."""

import copy
import pickle
import re
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from bitgaze import HammingIndex, ViewIndex, _hamming
from codes import FIXED, clustered_codes, random_codes

KERNELS = _hamming.kernels()
on_every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def clustered_items(n, views, code_bytes, seed=0, clusters=40):
    return clustered_codes(n * views, code_bytes, seed, clusters).reshape(n, views, code_bytes)


def filled(items):
    index = ViewIndex(8 * items.shape[2], items.shape[1])
    index.add(items)
    return index


def ragged(found):
    lims, distances, ids = found
    assert (lims.dtype, distances.dtype, ids.dtype) == (np.int64, np.int32, np.int64)
    pairs = list(zip(distances.tolist(), ids.tolist(), strict=True))
    assert lims[-1] == len(pairs)
    return [pairs[lims[q] : lims[q + 1]] for q in range(len(lims) - 1)]


def force(patch, kernel):
    """Makes ViewIndex search with this kernel."""
    request = _hamming.ViewRequest
    patch.setattr(_hamming, "ViewRequest", lambda *a, **o: request(*a, **o, kernel=kernel))


@pytest.fixture
def forced(monkeypatch):
    return lambda kernel: force(monkeypatch, kernel)


# Searches


def test_the_distance_by_hand():
    items = np.array([[[0b0], [0b111]], [[0b1], [0b1]]], np.uint8)
    index = filled(items)
    # To item 0: the query's view is 1 from 0b0 and 2 from 0b111. To item 1: it is both views.
    distances, ids = index.search(np.array([[[0b1]]], np.uint8), k=2)
    assert index.unit(1) == 4
    assert ids.tolist() == [[1, 0]]
    assert distances.tolist() == [[0, 2 * 1 + (1 + 2)]]
    # Two views, 0b1 and 0b1111. To item 0: 1 and 1; its views: 1 and 1. To item 1: 0 and 3; 0, 0.
    distances, ids = index.search(np.array([[[0b1], [0b1111]]], np.uint8), k=2)
    assert index.unit(2) == 4
    assert ids.tolist() == [[1, 0]]
    assert distances.tolist() == [[3, 4]]


def test_one_view_is_twice_the_hamming_distance():
    codes = random_codes((500, 16))
    index, plain = filled(codes[:, None]), HammingIndex(128)
    plain.add(codes)
    distances, ids = index.search(codes[:5, None], k=20)
    expected_distances, expected_ids = plain.search(codes[:5], k=20)
    assert index.unit(1) == 2
    np.testing.assert_array_equal(distances, 2 * expected_distances)
    np.testing.assert_array_equal(ids, expected_ids)


@st.composite
def cases(draw):
    code_bytes = draw(st.sampled_from([1, 2, 3, 5, 8, 9, 16, 17, 24, 32, 64, 100, 128]))
    views, query_views = draw(st.integers(1, 8)), draw(st.integers(1, 8))
    n = draw(st.one_of(st.integers(0, 70), st.integers(0, 400)))
    q = draw(st.integers(0, 3))
    seed = draw(st.integers(0, 2**32))
    random = np.random.default_rng(seed)
    share = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]))
    clusters = draw(st.sampled_from([1, 5, 10_000]))
    return {
        "items": clustered_items(n, views, code_bytes, seed, clusters),
        "queries": clustered_items(q, query_views, code_bytes, seed, clusters),
        "k": draw(st.integers(1, 60)),
        "share": draw(st.floats(0, 0.6)),
        "allowed": None if share is None else random.random(draw(st.integers(0, n))) < share,
        "exclude": random.integers(-1, n, q) if draw(st.booleans()) else None,
        "packed": draw(st.booleans()),
        "threads": draw(st.integers(1, 3)),
    }


@on_every_kernel
@settings(FIXED, max_examples=80)
@given(case=cases())
def test_every_search_equals_the_oracle(kernel, case):
    items, queries, k = case["items"], case["queries"], case["k"]
    allowed, exclude = case["allowed"], case["exclude"]
    index = filled(items)
    farthest = index.unit(queries.shape[1]) * index.bits
    radius = int(case["share"] * farthest)
    filter = allowed
    if allowed is not None and case["packed"]:
        filter = np.packbits(allowed, bitorder="little")
    options = {"filter": filter, "exclude": exclude, "threads": case["threads"]}
    conditions = {"allowed": allowed, "exclude": exclude}
    with pytest.MonkeyPatch.context() as patch:
        force(patch, kernel)
        within = ragged(index.range_search(queries, radius, **options))
        nearest = ragged(index.range_search(queries, radius, k=k, **options))
        distances, ids = index.search(queries, k, **options)
    assert within == oracle.range_search(items, queries, radius, **conditions)
    assert nearest == oracle.range_search(items, queries, radius, k, **conditions)
    assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
    columns = min(k, len(items) if allowed is None else int(allowed.sum()))
    every = oracle.range_search(items, queries, farthest, k, **conditions)
    padded = [row[:columns] + [(farthest + 1, -1)] * (columns - len(row)) for row in every]
    found = [
        list(zip(*row, strict=True)) for row in zip(distances.tolist(), ids.tolist(), strict=True)
    ]
    assert found == padded


@on_every_kernel
@pytest.mark.parametrize("code_bytes", range(1, 129))
def test_every_width(kernel, code_bytes, forced):
    forced(kernel)
    items = random_codes((67, 2 + code_bytes % 3, code_bytes))
    queries = random_codes((2, 3, code_bytes), seed=1)
    found = filled(items).search(queries, 70)
    for part, expected in zip(found, oracle.search(items, queries, 70), strict=True):
        np.testing.assert_array_equal(part, expected)


@on_every_kernel
@pytest.mark.parametrize("views", range(1, 9))
@pytest.mark.parametrize("query_views", range(1, 9))
def test_every_number_of_views(kernel, views, query_views, forced):
    forced(kernel)
    items = random_codes((40, views, 8))
    queries = random_codes((2, query_views, 8), seed=1)
    found = filled(items).search(queries, 40)
    for part, expected in zip(found, oracle.search(items, queries, 40), strict=True):
        np.testing.assert_array_equal(part, expected)
    # The greatest distance, beyond 16 bits where the numbers of views have no common factor.
    index = filled(np.zeros((33, views, 128), np.uint8))
    opposite = np.full((1, query_views, 128), 255, np.uint8)
    farthest = 1024 * index.unit(query_views)
    assert index.search(opposite, 1)[0].tolist() == [[farthest]]
    assert len(index.range_search(opposite, farthest)[1]) == 33
    assert len(index.range_search(opposite, farthest - 1)[1]) == 0


@on_every_kernel
@pytest.mark.parametrize("code_bytes", [8, 16, 24])
@pytest.mark.parametrize("q", [1, 3])
def test_items_that_screening_rules_out(kernel, code_bytes, q, forced):
    forced(kernel)
    items = clustered_items(9000 + 77, 3, code_bytes)
    # Half equal to others, so that the lower id must win.
    items[1::2] = items[:-1:2]
    index = filled(items)
    for k in (1, 10, 500):
        found = index.search(items[:q, :2].copy(), k, threads=1)
        expected = oracle.search(items, items[:q, :2].copy(), k)
        for part, wanted in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(("q", "n"), [(1, 150_000), (40, 3000), (300, 500)])
def test_threads_do_not_show_in_the_results(q, n):
    items = clustered_items(n, 2, 8)
    index = filled(items)
    alone = index.search(items[:q], 10, threads=1)
    for part, wanted in zip(alone, oracle.search(items, items[:2], 10), strict=True):
        np.testing.assert_array_equal(part[:2], wanted[: min(q, 2)])
    for threads in (2, 3, 16):
        for part, wanted in zip(index.search(items[:q], 10, threads=threads), alone, strict=True):
            np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize(
    ("n", "q", "k", "shape"),
    [(0, 3, 10, (3, 0)), (5, 0, 10, (0, 5)), (0, 0, 1, (0, 0)), (5, 2, 10**30, (2, 5))],
)
def test_shapes_of_results(n, q, k, shape):
    distances, ids = filled(random_codes((n, 3, 8))).search(random_codes((q, 2, 8)), k=k)
    assert (distances.shape, distances.dtype) == (shape, np.int32)
    assert (ids.shape, ids.dtype) == (shape, np.int64)


def test_exclude_finds_the_neighbours_of_stored_items():
    items = random_codes((100, 3, 16))
    items[60] = items[7]
    index = filled(items)
    ids = np.array([7, 60, 3])
    assert index.search(index[ids], 1)[1].ravel().tolist() == [7, 7, 3]
    assert index.search(index[ids], 1, exclude=ids)[1].ravel().tolist()[:2] == [60, 7]


# Contents and changes


@pytest.mark.parametrize("bits", [8, 40, 64, 128])
def test_items_come_back_as_copies(bits):
    items = random_codes((1000, 3, bits // 8))
    index = filled(items)
    assert (len(index), index.bits, index.views) == (1000, bits, 3)
    for key in (0, np.int64(999), slice(None), slice(30, 40), slice(-3, None), slice(9, 2)):
        np.testing.assert_array_equal(index[key], items[key])
    ids = np.array([999, 0, 32, 0])
    np.testing.assert_array_equal(index[ids], items[ids])
    assert index[ids[:0]].shape == (0, 3, bits // 8)
    index[:][:] = 0
    np.testing.assert_array_equal(index[:], items)


@settings(FIXED, max_examples=60)
@given(
    bits=st.sampled_from([8, 24, 64]),
    changes=st.lists(st.tuples(st.sampled_from("arxv"), st.integers(0, 10**6)), max_size=25),
)
def test_any_sequence_of_changes(bits, changes):
    random = np.random.default_rng(0)
    index, model = ViewIndex(bits, 2), np.empty((0, 2, bits // 8), np.uint8)
    for change, number in changes:
        if change == "a":
            items = random.integers(0, 256, (number % 70, 2, bits // 8), np.uint8)
            index.add(items)
            model = np.concatenate([model, items])
        elif change == "v":
            index.reserve(number % 200)
        elif len(model) and change == "r":
            item = random.integers(0, 256, (2, bits // 8), np.uint8)
            index.replace(number % len(model), item)
            model[number % len(model)] = item
        elif len(model):
            index.remove(number % len(model))
            model[number % len(model)] = model[-1]
            model = model[:-1]
        assert len(index) == len(model)
        np.testing.assert_array_equal(index[:], model)
    queries = random_codes((2, 3, bits // 8))
    for part, wanted in zip(
        index.search(queries, 5), oracle.search(model, queries, 5), strict=True
    ):
        np.testing.assert_array_equal(part, wanted)


def test_an_index_can_be_added_to_itself():
    items = random_codes((50, 2, 8))
    index = filled(items)
    index.add(index[:])
    np.testing.assert_array_equal(index[:], np.concatenate([items, items]))


def test_growth_is_amortised():
    index = ViewIndex(64, 2)
    copies = []
    before = index._state.groups
    for _ in range(2000):
        index.add(np.zeros((1, 2, 8), np.uint8))
        if index._state.groups is not before:
            before = index._state.groups
            copies.append(len(index))
    assert sum(copies) < 4 * 2000


def test_memory_is_that_of_the_codes_and_one_percent():
    tracemalloc.start()
    try:
        index = ViewIndex(128, 4)
        index.reserve(100_000)
        index.add(np.zeros((100_000, 4, 16), np.uint8))
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= 1.01 * 64 * 100_000


@pytest.mark.parametrize("bits", [64, 128, 1024])
def test_columns_stay_on_cache_lines_while_the_index_grows(bits):
    index = ViewIndex(bits, 3)
    for _ in range(20):
        index.add(random_codes((100, 3, bits // 8)))
        assert index._state.groups.ctypes.data % 64 == 0


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda i: pickle.loads(pickle.dumps(i))]
)
def test_a_copy_has_its_own_items(duplicate):
    items = random_codes((100, 2, 5))
    index = filled(items)
    other = duplicate(index)
    other.replace(0, np.zeros((2, 5), np.uint8))
    other.add(items[:1])
    np.testing.assert_array_equal(index[:], items)
    assert (other.bits, other.views, len(other)) == (40, 2, 101)


def test_searches_while_another_thread_adds():
    items = clustered_items(4000, 3, 16)
    index = filled(items[:1000])
    queries = items[:4]
    stop = threading.Event()

    def add():
        for start in range(1000, 4000, 7):
            index.add(items[start : start + 7])
        stop.set()

    writer = threading.Thread(target=add)
    writer.start()
    sizes = set()
    while not stop.is_set():
        before = len(index)
        lims, distances, ids = index.range_search(queries, index.unit(3) * 128, threads=1)
        seen = int(lims[1])
        sizes.add(seen)
        assert before <= seen <= len(index)
        assert sorted(ids[: lims[1]].tolist()) == list(range(seen))
        expected = oracle.view_distances(items[: min(seen, 50)], queries[:1])[0]
        found = dict(zip(ids[: lims[1]].tolist(), distances[: lims[1]].tolist(), strict=True))
        assert [found[i] for i in range(len(expected))] == expected.tolist()
    writer.join()
    assert len(index) == 4000
    np.testing.assert_array_equal(index[:], items)


# Bad input


@pytest.mark.parametrize(
    ("bits", "views", "error", "message"),
    [
        (0, 1, ValueError, "bits must be a multiple of 8 from 8 to 1024, got 0"),
        (64, 0, ValueError, "views must be 1 to 8, got 0"),
        (64, 9, ValueError, "views must be 1 to 8, got 9"),
        (64, 2.0, TypeError, "views must be an integer, got float"),
        (64, True, TypeError, "views must be an integer, got bool"),
    ],
)
def test_bad_sizes_are_rejected(bits, views, error, message):
    with pytest.raises(error, match=re.escape(message)):
        ViewIndex(bits, views)


NINE = np.zeros((1, 9, 8), np.uint8)


@pytest.mark.parametrize(
    ("method", "array", "error", "message"),
    [
        ("add", [[[0] * 8] * 2], TypeError, "items must be a uint8 array, got list"),
        (
            "add",
            np.zeros((1, 2, 8), "i1"),
            TypeError,
            "items must be a uint8 array, got dtype int8",
        ),
        (
            "add",
            np.zeros((2, 8), "u1"),
            ValueError,
            "items must have shape (n, views, 8), got (2, 8)",
        ),
        (
            "add",
            np.zeros((1, 2, 7), "u1"),
            ValueError,
            "items have 7 bytes per code, but this index",
        ),
        (
            "add",
            np.zeros((1, 3, 8), "u1"),
            ValueError,
            "items have 3 views, but those of this index",
        ),
        ("add", np.zeros((4, 2, 8), "u1")[::2], ValueError, "items must be C-contiguous"),
        ("search", NINE, ValueError, "queries must have 1 to 8 views, got 9"),
        ("search", NINE[:, :0], ValueError, "queries must have 1 to 8 views, got 0"),
        ("search", NINE[0], ValueError, "queries must have shape (n, views, 8), got (9, 8)"),
    ],
)
def test_bad_arrays_are_rejected(method, array, error, message):
    index = filled(random_codes((5, 2, 8)))
    with pytest.raises(error, match=re.escape(message)):
        getattr(index, method)(array)
    assert len(index) == 5


def test_bad_arguments_are_rejected():
    index = filled(random_codes((5, 2, 8)))
    queries = random_codes((2, 2, 8))
    item = queries[0]
    for call, error, message in [
        (lambda: index.search(queries, 0), ValueError, "k must be at least 1"),
        (lambda: index.search(queries, threads=0), ValueError, "threads must be at least 1"),
        (lambda: index.search(queries, filter=np.ones(6, bool)), ValueError, "m at most 5"),
        (lambda: index.search(queries, exclude=np.array([5, 0])), IndexError, "no id 5"),
        (lambda: index.range_search(queries, -1), ValueError, "radius must be at least 0"),
        (lambda: index.range_search(queries, 1.5), TypeError, "radius must be an integer"),
        (lambda: index.replace(5, item), IndexError, "no slot 5"),
        (lambda: index.replace(0, item[:1]), ValueError, "item must have shape (2, 8), got (1, 8)"),
        (lambda: index.replace(0, item.tolist()), TypeError, "item must be a uint8 array"),
        (lambda: index.remove(-1), IndexError, "no slot -1"),
        (lambda: ViewIndex(8, 1).remove(0), IndexError, "no slot 0: this index holds 0"),
        (lambda: index[5], IndexError, "no id 5"),
        (lambda: index.unit(9), ValueError, "views must be 1 to 8, got 9"),
        (lambda: index.reserve(-1), ValueError, "count must be at least 0"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            call()


GROUPS = np.zeros((1, 2, 4, 32), np.uint16)
QUERY = np.zeros((1, 2, 8), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"groups": GROUPS.astype(np.uint32)}, TypeError, "groups must be C-contiguous: uint16"),
        ({"groups": GROUPS[..., :16]}, TypeError, "groups must be C-contiguous: uint16"),
        ({"groups": np.zeros((1, 9, 4, 32), "u2")}, ValueError, "items must have 1 to 8 views"),
        ({"count": 33}, ValueError, "groups have no room for 33"),
        ({"count": -1}, ValueError, "groups have no room for -1"),
        ({"queries": QUERY[..., :5].copy()}, ValueError, "groups do not hold codes of 5 bytes"),
        ({"queries": NINE}, ValueError, "queries must have shape"),
        ({"queries": QUERY[0]}, ValueError, "queries must have shape"),
        ({"k": 0}, ValueError, "k must be at least 1"),
        ({"radius": -1}, ValueError, "radius must be at least 0"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"exclude": np.zeros(2, np.int64)}, ValueError, "exclude must have an id for each query"),
        ({"kernel": "sse9"}, ValueError, "kernel is 'sse9', expected one of"),
    ],
)
def test_the_extension_rejects_what_could_crash_it(arguments, error, message):
    good = {"groups": GROUPS, "count": 32, "queries": QUERY, "k": 1, "radius": 5, "threads": 1}
    _hamming.ViewRequest(**good)
    with pytest.raises(error, match=re.escape(message)):
        _hamming.ViewRequest(**(good | arguments))


def test_groups_are_written_only_where_there_is_room():
    rows = np.zeros((2, 2, 8), np.uint8)
    for first, bad, message in [
        (31, rows, "groups have no room for 33"),
        (-1, rows, "rows must have shape"),
        (0, rows[:, :1].copy(), "the same number of views"),
        (0, rows[..., :2].copy(), "groups do not hold codes of 2 bytes"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            _hamming.write_groups(GROUPS, first, bad)
    frozen = GROUPS.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _hamming.write_groups(frozen, 0, rows)
