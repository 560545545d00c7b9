"""Every search of HammingIndex against tests/oracle.py: layouts, tables, threads, concurrency."""

import copy
import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pickle import dumps, loads

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from bitgaze import hamming
from bitgaze.hamming import HammingIndex
from codes import FIXED, clustered_codes, filled, random_codes

MODES = ["scan", "view", "mih", "chosen"]


def index_of(mode, codes):
    """An index of these codes, and the method to search it with."""
    if mode == "view":
        return HammingIndex.view(codes), None
    index = filled(8 * codes.shape[1], codes)
    if mode != "scan":
        index.build_tables(threads=2)
    return index, mode if mode != "chosen" else None


def ragged(found):
    lims, distances, ids = found
    assert (lims.dtype, distances.dtype, ids.dtype) == (np.int64, np.int32, np.int64)
    assert lims[0] == 0
    assert len(distances) == len(ids) == lims[-1]
    pairs = list(zip(distances.tolist(), ids.tolist(), strict=True))
    return [pairs[lims[q] : lims[q + 1]] for q in range(len(lims) - 1)]


def padded(expected, columns, bits):
    rows = [row[:columns] + [(bits + 1, -1)] * (columns - len(row)) for row in expected]
    return np.array(rows, np.int64).reshape(len(expected), columns, 2)


@st.composite
def cases(draw):
    code_bytes = draw(st.sampled_from([1, 3, 5, 8, 9, 16, 17, 24, 32, 64, 100, 128]))
    n = draw(st.one_of(st.integers(0, 70), st.integers(0, 700)))
    q = draw(st.integers(0, 4))
    seed = draw(st.integers(0, 2**32))
    make = draw(st.sampled_from([clustered_codes, lambda n, b, seed: random_codes((n, b), seed)]))
    codes = make(n + q, code_bytes, seed=seed)
    random = np.random.default_rng(seed)
    share = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]))
    allowed = None if share is None else random.random(draw(st.integers(0, n))) < share
    exclude = random.integers(-1, n, q) if draw(st.booleans()) else None
    return {
        "codes": codes[:n],
        "queries": codes[n:],
        "k": draw(st.integers(1, 60)),
        "radius": draw(st.integers(0, 8 * code_bytes)),
        "allowed": allowed,
        "exclude": exclude,
        "packed": draw(st.booleans()),
        "threads": draw(st.integers(1, 3)),
    }


@pytest.mark.parametrize("mode", MODES)
@settings(FIXED, max_examples=200)
@given(case=cases())
def test_every_search_equals_the_oracle(mode, case):
    codes, queries, k, radius = (case[name] for name in ("codes", "queries", "k", "radius"))
    allowed, exclude = case["allowed"], case["exclude"]
    index, method = index_of(mode, codes)
    filter = allowed
    if allowed is not None and case["packed"]:
        filter = np.packbits(allowed, bitorder="little")
    options = {"filter": filter, "exclude": exclude, "threads": case["threads"]}
    conditions = {"allowed": allowed, "exclude": exclude}

    expected = oracle.range_search(codes, queries, radius, **conditions)
    assert ragged(index.range_search(queries, radius, method=method, **options)) == expected
    counts = index.range_count(queries, radius, **options)
    assert counts.tolist() == [len(row) for row in expected]
    nearest = oracle.range_search(codes, queries, radius, k, **conditions)
    assert ragged(index.range_search(queries, radius, k=k, method=method, **options)) == nearest

    distances, ids = index.search(queries, k, method=method, **options)
    columns = min(k, len(codes) if allowed is None else int(allowed.sum()))
    every = oracle.range_search(codes, queries, index.bits, k, **conditions)
    np.testing.assert_array_equal(
        np.stack([distances, ids], axis=-1), padded(every, columns, index.bits)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("code_bytes", [5, 8, 16, 32])
def test_many_codes_and_threads(mode, code_bytes):
    """Enough codes that threads share one query, and so few that they share the queries instead."""
    codes = clustered_codes(150_000, code_bytes)
    index, method = index_of(mode, codes)
    for q, k, n in ((1, 10, 150_000), (40, 100, 150_000), (300, 3, 4000)):
        queries = codes[:q]
        if n < len(codes):
            index, method = index_of(mode, codes[:n])
        alone = index.search(queries, k, threads=1, method=method)
        expected = oracle.search(codes[:n], queries[:2], k)
        for found, wanted in zip(alone, expected, strict=True):
            np.testing.assert_array_equal(found[:2], wanted)
        for threads in (2, 3, 16):
            together = index.search(queries, k, threads=threads, method=method)
            for found, wanted in zip(together, alone, strict=True):
                np.testing.assert_array_equal(found, wanted)
        lims = index.range_search(queries, code_bytes, threads=4, method=method)[0]
        counts = index.range_count(queries, code_bytes, threads=4)
        np.testing.assert_array_equal(np.diff(lims), counts)


@pytest.mark.parametrize("mode", MODES)
def test_more_ties_than_results(mode):
    codes = np.repeat(random_codes((3, 8)), 5000, axis=0)
    index, method = index_of(mode, codes)
    distances, ids = index.search(codes[:1], 7000, method=method)
    expected = oracle.search(codes, codes[:1], 7000)
    np.testing.assert_array_equal(distances, expected[0])
    np.testing.assert_array_equal(ids, expected[1])


def test_exclude_finds_the_neighbours_of_stored_codes():
    codes = clustered_codes(500, 16)
    index = filled(128, codes)
    ids = np.array([3, 499, 0])
    found = index.search(index[ids], 499, exclude=ids)[1]
    for own, row in zip(ids, found, strict=True):
        assert sorted(row) == sorted(set(range(500)) - {own})
    distances, short = index.search(index[ids], 500, exclude=np.array([3, -1, 0]))
    assert (short[0][-1], distances[0][-1]) == (-1, 129)
    assert -1 not in short[1]


def test_a_filter_may_reject_every_code():
    index = filled(64, random_codes((300, 8)))
    none = np.zeros(300, bool)
    assert index.search(random_codes((2, 8)), 5, filter=none)[0].shape == (2, 0)
    assert index.range_search(random_codes((2, 8)), 64, filter=none)[0].tolist() == [0, 0, 0]
    assert index.range_count(random_codes((2, 8)), 64, filter=none).tolist() == [0, 0]


@FIXED
@given(
    bits=st.sampled_from([40, 64, 128]),
    changes=st.lists(
        st.tuples(st.sampled_from(["add", "replace", "remove"]), st.integers(0, 400)), max_size=30
    ),
)
def test_tables_follow_every_change(bits, changes):
    codes = clustered_codes(300, bits // 8)
    index = filled(bits, codes)
    index.build_tables()
    for step, (change, number) in enumerate(changes):
        fresh = clustered_codes(number % 7 + 1, bits // 8, seed=0 if step % 2 else step)
        if change == "add":
            index.add(fresh)
        elif number < len(index):
            index.replace(number, fresh[0]) if change == "replace" else index.remove(number)
    now = index[:]
    queries = np.concatenate([now[:2], codes[:2], now[-2:]])
    expected = oracle.range_search(now, queries, bits // 8)
    assert ragged(index.range_search(queries, bits // 8, method="mih")) == expected
    distances, ids = index.search(queries, 20, method="mih")
    for found, wanted in zip((distances, ids), oracle.search(now, queries, 20), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_tables_are_rebuilt_after_many_changes():
    index = filled(64, clustered_codes(5000, 8))
    index.build_tables()
    first = index.table_bytes
    assert first > 5000 * 12
    index.add(clustered_codes(70_000, 8, seed=1))
    assert index.table_bytes > 10 * first
    for slot in range(5000):
        index.replace(slot, index[74_000 - slot])
    now = index[:]
    found = index.search(now[:3], 10, method="mih")
    for part, wanted in zip(found, oracle.search(now, now[:3], 10), strict=True):
        np.testing.assert_array_equal(part, wanted)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_change_survives_a_failed_rebuild_of_the_tables(monkeypatch, error):
    codes = clustered_codes(5000, 8)
    index = filled(64, codes)
    index.build_tables()
    fresh = random_codes((4097, 8), seed=1)
    for slot in range(4096):
        index.replace(slot, fresh[slot])

    def fail(*_):
        raise error

    monkeypatch.setattr(hamming._hamming, "MultiIndex", fail)
    if error is MemoryError:
        with pytest.warns(RuntimeWarning, match="not enough memory to rebuild the tables"):
            index.replace(4500, fresh[4096])
        assert index.table_bytes == 0
    else:
        with pytest.raises(error):
            index.replace(4500, fresh[4096])
        assert index.table_bytes > 0
    now = np.concatenate([fresh[:4096], codes[4096:]])
    now[4500] = fresh[4096]
    queries = np.concatenate([fresh[4096:], codes[4500:4501], now[:2]])
    for found, wanted in zip(index.search(queries, 5), oracle.search(now, queries, 5), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda i: loads(dumps(i))])
@pytest.mark.parametrize("bits", [64, 128])
def test_a_copy_has_its_own_codes(duplicate, bits):
    codes = random_codes((300, bits // 8))
    index = filled(bits, codes)
    index.build_tables()
    other = duplicate(index)
    assert other.table_bytes == index.table_bytes
    other.add(codes[:1])
    other.replace(0, codes[1])
    index.add(codes[5:6])
    np.testing.assert_array_equal(index[:], np.concatenate([codes, codes[5:6]]))
    np.testing.assert_array_equal(other[:], np.concatenate([codes[1:2], codes[1:], codes[:1]]))


def test_python_ends_while_a_daemon_thread_searches():
    code = (
        "import threading, time\n"
        "import numpy as np\n"
        "from bitgaze import HammingIndex\n"
        "index = HammingIndex(64)\n"
        "index.add(np.random.default_rng(0).integers(0, 256, (400_000, 8), dtype=np.uint8))\n"
        "def run():\n"
        "    while True:\n"
        "        index.search(index[:50], 10)\n"
        "threading.Thread(target=run, daemon=True).start()\n"
        "time.sleep(0.3)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_mih_requires_tables():
    index = filled(64, random_codes((10, 8)))
    assert index.table_bytes == 0
    with pytest.raises(ValueError, match=r'method "mih" needs tables: call build_tables\(\) first'):
        index.search(random_codes((1, 8)), method="mih")
    empty = HammingIndex(64)
    empty.build_tables()
    assert empty.search(random_codes((1, 8)), method="mih")[0].shape == (1, 0)


# Bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "hnsw"}, ValueError, 'method must be "scan", "mih" or None, got \'hnsw\''),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"threads": 1.5}, TypeError, "threads must be an integer, got float"),
        ({"threads": True}, TypeError, "threads must be an integer, got bool"),
        ({"k": True}, TypeError, "k must be an integer, got bool"),
        ({"filter": np.ones(11, bool)}, ValueError, r"m at most 10 for 10 codes, got \(11,\)"),
        ({"filter": np.ones(3, np.uint8)}, ValueError, r"m at most 2 for 10 codes, got \(3,\)"),
        ({"filter": np.ones((1, 2), bool)}, ValueError, r"m at most 10 for 10 codes"),
        ({"filter": np.ones(4, np.uint8)[::2]}, ValueError, "filter must be C-contiguous"),
        ({"filter": [True]}, TypeError, "filter must be a bool array or .* got list"),
        ({"filter": np.ones(2, np.int64)}, TypeError, "filter must be a bool array .* got int64"),
        ({"exclude": np.array([1])}, ValueError, r"shape \(2,\), got \(1,\)"),
        ({"filter": np.ma.masked_all(3, bool)}, TypeError, "filter must be .* got MaskedArray"),
        ({"exclude": np.ma.array([1, 2])}, TypeError, "exclude must be .* got MaskedArray"),
        ({"method": ["scan"]}, ValueError, r"method must be .* got \['scan'\]"),
        ({"exclude": [1, 2]}, TypeError, "exclude must be an integer array, got list"),
        ({"exclude": np.array([1.0, 2.0])}, TypeError, "exclude must be integers, got dtype f"),
        ({"exclude": np.array([1, 10])}, IndexError, "no id 10: this index holds 10 codes"),
        ({"exclude": np.array([1, -2])}, IndexError, "no id -2: this index holds 10 codes"),
    ],
)
def test_bad_options_are_rejected(options, error, message):
    index = filled(64, random_codes((10, 8)))
    queries = random_codes((2, 8))
    with pytest.raises(error, match=message):
        index.search(queries, **options)
    with pytest.raises(error, match=message):
        index.range_search(queries, 3, **options)


@pytest.mark.parametrize(
    ("radius", "error", "message"),
    [(-1, ValueError, "at least 0, got -1"), (1.0, TypeError, "must be an integer, got float")],
)
def test_a_bad_radius_is_rejected(radius, error, message):
    index = filled(64, random_codes((10, 8)))
    for search in (index.range_search, index.range_count):
        with pytest.raises(error, match=f"radius {message}|radius must be {message}"):
            search(random_codes((2, 8)), radius)


def test_a_radius_beyond_every_code_finds_all():
    index = filled(64, random_codes((10, 8)))
    assert index.range_count(random_codes((1, 8)), 10**30).tolist() == [10]
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        index.range_search(random_codes((1, 8)), 3, k=0)


# Threads


def test_search_releases_the_gil():
    index = filled(1024, random_codes((50_000, 128)))
    queries = random_codes((64, 128), seed=1)
    started, progressed = threading.Event(), threading.Event()

    def progress():
        started.wait()
        progressed.set()

    thread = threading.Thread(target=progress)
    thread.start()
    interval = sys.getswitchinterval()
    # No thread is forced to release the GIL: only the search can let the other one run.
    sys.setswitchinterval(1000)
    try:
        started.set()
        for _ in range(100):
            index.search(queries)
            if progressed.is_set():
                break
        released = progressed.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert released


def test_searches_while_another_thread_adds():
    codes = random_codes((60, 50, 8))
    every, queries = codes.reshape(-1, 8), random_codes((2, 8), seed=1)
    expected = [oracle.search(every[:n], queries, 5) for n in range(0, 3001, 50)]
    index = HammingIndex(64)

    def add():
        for part in codes:
            index.add(part)

    def search():
        seen = 0
        while seen < len(every):
            before = len(index)
            distances, ids = index.search(queries, k=5)
            seen = len(index)
            assert any(
                np.array_equal(distances, expected[n // 50][0])
                and np.array_equal(ids, expected[n // 50][1])
                for n in range(before, seen + 1, 50)
            )

    with ThreadPoolExecutor(4) as pool:
        searching = [pool.submit(search) for _ in range(3)]
        pool.submit(add).result()
        for search_done in searching:
            search_done.result()


def test_several_threads_add():
    index = HammingIndex(64)
    codes = random_codes((400, 8))

    def add(part):
        for code in part:
            index.add(code[None])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, np.split(codes, 4)))
    assert sorted(map(bytes, index[:])) == sorted(map(bytes, codes))


def test_searches_from_many_threads_share_the_pool():
    codes = clustered_codes(100_000, 16)
    index = filled(128, codes)
    index.build_tables()
    expected = index.search(codes[:20], 10, threads=1)

    def search(number):
        method = ("scan", "mih", None)[number % 3]
        return index.search(codes[:20], 10, threads=1 + number % 4, method=method)

    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(search, range(60)):
            for part, wanted in zip(found, expected, strict=True):
                np.testing.assert_array_equal(part, wanted)


def _search_in_child(index, queries, connection):
    connection.send([part.tolist() for part in index.search(queries, 5, threads=2)])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_searches_with_its_own_threads():
    index = filled(64, random_codes((600_000, 8)))
    queries = random_codes((3, 8), seed=1)
    here = [part.tolist() for part in index.search(queries, 5, threads=2)]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_search_in_child, args=(index, queries, sender))
    child.start()
    assert receiver.poll(60)
    assert receiver.recv() == here
    child.join(60)
    assert child.exitcode == 0
