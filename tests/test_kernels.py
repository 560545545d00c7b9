"""Every kernel and both layouts of codes against tests/oracle.py, and the choice of the kernel."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bitgaze import _hamming
from bitgaze.hamming import simd
from codes import FIXED, blocks_of, clustered_codes, random_codes, searches

KERNELS = _hamming.kernels()
ABSENT_KERNELS = sorted(set(_hamming.KERNELS) - set(KERNELS))

on_every_kernel = pytest.mark.parametrize("kernel", KERNELS)


def search(codes, queries, k, kernel):
    request = _hamming.Request(codes, len(codes), queries, k=k, radius=1024, kernel=kernel)
    return _hamming.nearest(request, min(k, len(codes)))


def assert_search(codes, queries, k, kernel=None):
    expected_distances, expected_ids = oracle.search(codes, queries, k)
    layouts = [codes]
    if codes.shape[1] % 8 == 0:
        layouts.append(blocks_of(codes))
    for layout in layouts:
        request = _hamming.Request(layout, len(codes), queries, k=k, radius=1024, kernel=kernel)
        distances, ids = _hamming.nearest(request, min(k, len(codes)))
        assert (distances.dtype, ids.dtype) == (np.int32, np.int64)
        np.testing.assert_array_equal(distances, expected_distances)
        np.testing.assert_array_equal(ids, expected_ids)


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


@on_every_kernel
@pytest.mark.parametrize("code_bytes", [16, 24, 32, 64, 128])
@pytest.mark.parametrize("q", [1, 3])
def test_codes_that_the_first_word_rules_out(kernel, code_bytes, q):
    codes = clustered_codes(3 * 4096 + 77, code_bytes, clusters=40)
    for k in (1, 10, 500):
        assert_search(codes, codes[:q], k, kernel)


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
        return search(x, y, 1, kernel)[0].item()

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


def test_an_empty_variable_counts_as_unset():
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


def test_this_run_uses_the_requested_kernel():
    assert simd() == (os.environ.get("BITGAZE_SIMD") or KERNELS[-1])


@pytest.mark.parametrize("use", ["simd()", "HammingIndex(8).search(np.zeros((0, 1), np.uint8))"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "sse9",
            f"ValueError: BITGAZE_SIMD is 'sse9', expected one of: {', '.join(_hamming.KERNELS)}",
        )
    ]
    + [
        (name, f"RuntimeError: BITGAZE_SIMD is '{name}', but this machine can run only: {has}")
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
