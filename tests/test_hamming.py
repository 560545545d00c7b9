"""HammingIndex and the extension below it, against tests/oracle.py, on every kernel there is."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from bitgaze import _hamming
from bitgaze.hamming import HammingIndex, simd

FIXED = settings(derandomize=True, deadline=None, database=None, max_examples=150)
KERNELS = _hamming.kernels()
ALL_KERNELS = ["portable", "avx2", "avx512", "neon"]
ABSENT_KERNELS = sorted(set(ALL_KERNELS) - set(KERNELS))

on_every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def random_codes(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def filled(bits, codes):
    index = HammingIndex(bits)
    index.add(codes)
    return index


def assert_search(codes, queries, k, kernel=None):
    distances, ids = _hamming.search(codes, queries, k, kernel)
    expected_distances, expected_ids = oracle.search(codes, queries, k)
    assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
    np.testing.assert_array_equal(distances, expected_distances)
    np.testing.assert_array_equal(ids, expected_ids)


@st.composite
def searches(draw):
    """Codes, queries and k: of any width, with few different bytes so that many distances tie."""
    code_bytes = draw(st.integers(1, 128))
    n = draw(st.one_of(st.integers(0, 40), st.integers(0, 300)))
    q = draw(st.integers(0, 4))
    k = draw(st.integers(1, 320))
    values = np.array(draw(st.lists(st.integers(0, 255), min_size=1, max_size=3)), np.uint8)
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    alphabet = draw(st.sampled_from([values, np.arange(256, dtype=np.uint8)]))
    return random.choice(alphabet, (n, code_bytes)), random.choice(alphabet, (q, code_bytes)), k


# The kernels


@on_every_kernel
@FIXED
@given(case=searches())
def test_search_equals_the_oracle(kernel, case):
    assert_search(*case, kernel)


@on_every_kernel
@pytest.mark.parametrize("code_bytes", range(1, 129))
def test_every_width(kernel, code_bytes):
    queries = random_codes((2, code_bytes), seed=1)
    assert_search(random_codes((67, code_bytes)), queries, 70, kernel)


@on_every_kernel
@pytest.mark.parametrize("code_bytes", [1, 8, 16, 31, 32, 33, 64, 128])
@pytest.mark.parametrize("k", [1, 5, 3000])
def test_all_equal_codes_tie_and_the_lower_id_wins(kernel, code_bytes, k):
    for code in (0, 255, 0x5A):
        for query in (0, 255):
            codes = np.full((2500, code_bytes), code, np.uint8)
            queries = np.full((1, code_bytes), query, np.uint8)
            assert_search(codes, queries, k, kernel)


@on_every_kernel
@pytest.mark.parametrize("code_bytes", [8, 16, 24, 128])
def test_many_blocks(kernel, code_bytes):
    codes = random_codes((5000, code_bytes))
    codes[1::2] = codes[::2]
    for k in (1, 10, 100, 2049, 5000):
        assert_search(codes, codes[:3], k, kernel)


@on_every_kernel
@pytest.mark.parametrize("code_bytes", [5, 8, 16, 24, 32, 64, 128])
@pytest.mark.parametrize("k", [1, 10, 2500])
def test_a_batch_is_compared_word_by_word(kernel, code_bytes, k):
    codes = random_codes((4100, code_bytes))
    codes[3::7] = codes[5]
    assert_search(codes, codes[: 20 if code_bytes < 57 else 65], k, kernel)


def test_k_10_000():
    codes = random_codes((25_000, 8))
    for q in (1, 13):
        assert_search(codes, codes[:q], 10_000)


@on_every_kernel
def test_unaligned_codes(kernel):
    memory = random_codes(64 + 40 * 16)
    for offset in range(64):
        codes = memory[offset : offset + 40 * 16].reshape(40, 16)
        assert_search(codes, codes[:2], 5, kernel)


@on_every_kernel
@FIXED
@given(code_bytes=st.integers(1, 128), seed=st.integers(0, 2**32))
def test_distance_is_a_metric(kernel, code_bytes, seed):
    a, b, c = (row[None] for row in random_codes((3, code_bytes), seed))

    def distance(x, y):
        return _hamming.search(x, y, 1, kernel)[0].item()

    assert distance(a, a) == 0
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert distance(a, ~a) == 8 * code_bytes


# Which kernel runs


def in_a_new_process(code, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "BITGAZE_SIMD"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_fastest_kernel_is_the_default():
    result = in_a_new_process("from bitgaze.hamming import simd; print(simd())")
    assert result.stdout.split() == [KERNELS[-1]], result.stderr


def test_an_empty_variable_is_no_choice():
    result = in_a_new_process("from bitgaze.hamming import simd; print(simd())", BITGAZE_SIMD="")
    assert result.stdout.split() == [KERNELS[-1]], result.stderr


@on_every_kernel
def test_the_environment_forces_a_kernel(kernel):
    code = (
        "import os\n"
        "import numpy as np\n"
        "from bitgaze.hamming import HammingIndex, simd\n"
        "index = HammingIndex(64)\n"
        "index.add(np.eye(3, 8, dtype=np.uint8))\n"
        "print(index.search(np.zeros((1, 8), np.uint8), k=2)[1].tolist(), simd())\n"
        "os.environ['BITGAZE_SIMD'] = 'sse9'  # read once: too late\n"
        "print(simd())\n"
    )
    result = in_a_new_process(code, BITGAZE_SIMD=kernel)
    assert result.stdout.splitlines() == [f"[[0, 1]] {kernel}", kernel], result.stderr


def test_this_run_uses_the_kernel_asked_for():
    assert simd() == (os.environ.get("BITGAZE_SIMD") or KERNELS[-1])


@pytest.mark.parametrize("use", ["simd()", "HammingIndex(8).search(np.zeros((0, 1), np.uint8))"])
@pytest.mark.parametrize(
    ("name", "message"),
    [("sse9", "ValueError: BITGAZE_SIMD is 'sse9', expected one of: portable, avx2, avx512, neon")]
    + [
        (name, f"RuntimeError: BITGAZE_SIMD asks for '{name}', but this machine has only: {has}")
        for has in [", ".join(KERNELS)]
        for name in ABSENT_KERNELS
    ],
)
def test_a_kernel_that_cannot_run_is_an_error(use, name, message):
    code = f"import numpy as np; from bitgaze.hamming import *; {use}"
    result = in_a_new_process(code, BITGAZE_SIMD=name)
    assert result.returncode == 1
    assert message in result.stderr


def test_a_kernel_is_chosen_at_first_use_not_at_import():
    result = in_a_new_process("import bitgaze.hamming", BITGAZE_SIMD="sse9")
    assert result.returncode == 0, result.stderr


# HammingIndex


@pytest.mark.parametrize("bits", [8, 64, 72, 128, 1024])
def test_add_and_search(bits):
    codes = random_codes((100, bits // 8))
    index = HammingIndex(bits=bits)
    index.add(codes[:1])
    index.add(codes[1:1])
    index.add(codes[1:])
    assert (index.bits, len(index)) == (bits, 100)
    np.testing.assert_array_equal(index.codes, codes)
    distances, ids = index.search(codes[40:45], k=7)
    expected_distances, expected_ids = oracle.search(codes, codes[40:45], 7)
    np.testing.assert_array_equal(distances, expected_distances)
    np.testing.assert_array_equal(ids, expected_ids)


@pytest.mark.parametrize(
    ("n", "q", "k", "shape"),
    [(0, 3, 10, (3, 0)), (5, 0, 10, (0, 5)), (0, 0, 1, (0, 0)), (5, 2, 10**30, (2, 5))],
)
def test_shape_of_results(n, q, k, shape):
    distances, ids = filled(64, random_codes((n, 8))).search(random_codes((q, 8)), k=k)
    assert (distances.shape, distances.dtype) == (shape, np.int32)
    assert (ids.shape, ids.dtype) == (shape, np.int64)


def test_k_is_10_by_default_and_may_be_a_numpy_integer():
    index = filled(64, random_codes((20, 8)))
    assert index.search(random_codes((1, 8)))[0].shape == (1, 10)
    assert index.search(random_codes((1, 8)), k=np.uint8(3))[0].shape == (1, 3)


def test_results_own_their_memory():
    index = filled(64, random_codes((20, 8)))
    distances, ids = index.search(random_codes((1, 8)), k=3)
    for array in (distances, ids):
        assert array.flags.owndata
        assert array.flags.writeable


@FIXED
@given(case=searches(), split=st.integers(0, 4))
def test_queries_do_not_influence_each_other(case, split):
    codes, queries, k = case
    index = filled(8 * codes.shape[1], codes)
    together = index.search(queries, k)
    parts = [index.search(part, k) for part in (queries[:split], queries[split:])]
    for whole, *pieces in zip(together, *parts, strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_codes_is_a_read_only_view_that_add_leaves_alone():
    codes = random_codes((10, 8))
    index = filled(64, codes)
    before = index.codes
    with pytest.raises(ValueError, match="read-only"):
        before[0, 0] = 1
    for _ in range(5):
        index.add(index.codes)
    np.testing.assert_array_equal(before, codes)
    np.testing.assert_array_equal(index.codes, np.tile(codes, (32, 1)))


def test_added_codes_are_copied():
    codes = random_codes((3, 8))
    index = filled(64, codes)
    expected = codes.copy()
    codes[:] = 0
    np.testing.assert_array_equal(index.codes, expected)


def test_codes_stay_aligned_while_the_index_grows():
    index = HammingIndex(24)
    for _ in range(50):
        index.add(random_codes((37, 3)))
        assert index.codes.ctypes.data % 64 == 0


def test_growth_is_amortised():
    index = HammingIndex(64)
    code = random_codes((1, 8))
    addresses = set()
    for _ in range(10_000):
        index.add(code)
        addresses.add(index.codes.ctypes.data)
    assert len(addresses) < 50


def test_replace():
    codes = random_codes((5, 8))
    index = filled(64, codes)
    index.replace(np.int64(2), codes[4])
    np.testing.assert_array_equal(index.codes, codes[[0, 1, 4, 3, 4]])


def test_remove_moves_the_last_code_into_the_slot():
    codes = random_codes((5, 8))
    index = filled(64, codes)
    index.remove(1)
    np.testing.assert_array_equal(index.codes, codes[[0, 4, 2, 3]])
    index.remove(3)
    np.testing.assert_array_equal(index.codes, codes[[0, 4, 2]])
    index.add(codes[3:])
    np.testing.assert_array_equal(index.codes, codes[[0, 4, 2, 3, 4]])
    for _ in range(5):
        index.remove(0)
    assert index.search(codes)[0].shape == (5, 0)


@FIXED
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(0, 9)),
            st.tuples(st.sampled_from(["replace", "remove"]), st.integers(0, 20)),
        ),
        max_size=40,
    )
)
def test_any_sequence_of_changes(changes):
    index, model = HammingIndex(40), []
    for step, (change, number) in enumerate(changes):
        if change == "add":
            codes = random_codes((number, 5), seed=step)
            index.add(codes)
            model.extend(codes)
        elif number < len(model) and change == "replace":
            model[number] = random_codes(5, seed=step)
            index.replace(number, model[number])
        elif number < len(model):
            index.remove(number)
            last = model.pop()
            if number < len(model):
                model[number] = last
    np.testing.assert_array_equal(index.codes, np.array(model, np.uint8).reshape(-1, 5))


# Bad input


@pytest.mark.parametrize("bits", [0, -8, 7, 12, 1032])
def test_bits_out_of_range(bits):
    with pytest.raises(ValueError, match=rf"multiple of 8 from 8 to 1024, got {bits}$"):
        HammingIndex(bits)


@pytest.mark.parametrize("bits", [64.0, "64", None])
def test_bits_not_an_integer(bits):
    with pytest.raises(TypeError, match=r"bits must be an integer, got (float|str|NoneType)"):
        HammingIndex(bits)


@pytest.mark.parametrize(("method", "name"), [("add", "codes"), ("search", "queries")])
@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        ([[0] * 8], TypeError, "must be a uint8 array, got list"),
        (b"12345678", TypeError, "must be a uint8 array, got bytes"),
        (np.zeros((2, 8), np.int8), TypeError, "must be a uint8 array, got dtype int8"),
        (np.zeros((2, 8), bool), TypeError, "must be a uint8 array, got dtype bool"),
        (np.zeros((2, 8)), TypeError, "must be a uint8 array, got dtype float64"),
        (
            np.zeros(8, np.uint8),
            ValueError,
            r"must have shape \(n, 8\), got a single code .*add an axis with code\[None\]",
        ),
        (np.zeros(9, np.uint8), ValueError, r"must have shape \(n, 8\), got \(9,\)"),
        (np.uint8(1), TypeError, "must be a uint8 array, got uint8"),
        (np.zeros((1, 2, 8), np.uint8), ValueError, r"must have shape \(n, 8\), got \(1, 2, 8\)"),
        (
            np.zeros((2, 16), np.uint8),
            ValueError,
            "have 16 bytes per row, but this index holds 8-byte codes",
        ),
        (np.zeros((2, 16), np.uint8)[:, ::2], ValueError, "must be C-contiguous, got strides"),
        (np.zeros((8, 2), np.uint8).T, ValueError, "must be C-contiguous, got strides"),
    ],
)
def test_bad_arrays(method, name, array, error, message):
    index = filled(64, random_codes((4, 8)))
    with pytest.raises(error, match=f"{name} {message}"):
        getattr(index, method)(array)
    assert len(index) == 4


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_1(k):
    with pytest.raises(ValueError, match=rf"k must be at least 1, got {k}$"):
        filled(64, random_codes((4, 8))).search(random_codes((1, 8)), k=k)


@pytest.mark.parametrize("k", [1.0, "3", None])
def test_k_not_an_integer(k):
    with pytest.raises(TypeError, match=r"k must be an integer, got (float|str|NoneType)"):
        filled(64, random_codes((4, 8))).search(random_codes((1, 8)), k=k)


@pytest.mark.parametrize("slot", [-1, 4, 10**30])
def test_unknown_slot(slot):
    index = filled(64, random_codes((4, 8)))
    message = rf"no slot {slot}: this index holds 4 codes"
    with pytest.raises(IndexError, match=message):
        index.replace(slot, index.codes[0])
    with pytest.raises(IndexError, match=message):
        index.remove(slot)


def test_slot_not_an_integer():
    index = filled(64, random_codes((4, 8)))
    with pytest.raises(TypeError, match="slot must be an integer, got float"):
        index.replace(1.0, index.codes[0])
    with pytest.raises(TypeError, match="slot must be an integer, got str"):
        index.remove("1")


def test_replace_with_a_bad_code():
    index = filled(64, random_codes((4, 8)))
    with pytest.raises(ValueError, match=r"code must have shape \(8,\), got \(1, 8\)"):
        index.replace(0, random_codes((1, 8)))
    with pytest.raises(TypeError, match="code must be a uint8 array, got dtype float64"):
        index.replace(0, np.zeros(8))


@pytest.mark.parametrize(
    ("codes", "queries", "k", "error", "message"),
    [
        ((2, 8), (2, 16), 1, ValueError, "queries have 16 bytes per row, but codes have 8"),
        ((8,), (2, 8), 1, ValueError, "codes must have shape"),
        ((2, 8), (8,), 1, ValueError, "queries must have shape"),
        ((2, 0), (2, 0), 1, ValueError, "codes must have 1 to 128 bytes per row, got 0"),
        ((2, 129), (2, 129), 1, ValueError, "codes must have 1 to 128 bytes per row, got 129"),
        ((2, 8), (2, 8), 0, ValueError, "k must be at least 1, got 0"),
    ],
)
def test_the_extension_checks_what_could_crash_it(codes, queries, k, error, message):
    with pytest.raises(error, match=message):
        _hamming.search(np.zeros(codes, np.uint8), np.zeros(queries, np.uint8), k)


def test_the_extension_converts_nothing():
    good = np.zeros((2, 8), np.uint8)
    for bad in (np.zeros((2, 8)), np.zeros((2, 16), np.uint8)[:, ::2], good.tolist()):
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _hamming.search(bad, good, 1)
        with pytest.raises(TypeError, match="incompatible function arguments"):
            _hamming.search(good, bad, 1)


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
    # No thread is made to give up the GIL; only the search can let the other one run.
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
    assert sorted(map(bytes, index.codes)) == sorted(map(bytes, codes))
