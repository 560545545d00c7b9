"""HammingIndex: what it holds, what it refuses. Its searches: test_hamming_search.py."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
from bitgaze import _hamming
from bitgaze.hamming import HammingIndex, pack
from codes import FIXED, filled, random_codes, searches

# pack


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_bit_is_set_where_its_value_is_above_0(dtype):
    values = np.array([[1, 0, -0.0, -1, 1e-7, np.inf, -np.inf, np.nan], [-1] * 7 + [1]], dtype)
    codes = pack(values)
    assert (codes.dtype, codes.shape) == (np.uint8, (2, 1))
    assert codes.flags.c_contiguous
    assert codes.tolist() == [[0b10001100], [1]]
    assert pack(np.zeros((0, 16), dtype)).shape == (0, 2)


def test_packing_is_undone_by_unpackbits():
    values = np.random.default_rng(0).standard_normal((50, 72))
    np.testing.assert_array_equal(np.unpackbits(pack(values), axis=1), values > 0)


# HammingIndex


@pytest.mark.parametrize("bits", [8, 64, 72, 128, 1024])
def test_add_and_search(bits):
    codes = random_codes((100, bits // 8))
    index = HammingIndex(bits=bits)
    index.add(codes[:1])
    index.add(codes[1:1])
    index.add(codes[1:])
    assert (index.bits, len(index)) == (bits, 100)
    np.testing.assert_array_equal(index[:], codes)
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


@pytest.mark.parametrize("bits", [40, 64, 128])
def test_codes_come_back_as_copies(bits):
    codes = random_codes((5000, bits // 8))
    index = filled(bits, codes)
    for key in (0, np.int64(4999), slice(None), slice(4090, 4100), slice(-3, None), slice(9, 2)):
        np.testing.assert_array_equal(index[key], codes[key])
    ids = np.array([4999, 0, 4096, 0])
    np.testing.assert_array_equal(index[ids], codes[ids])
    assert index[ids[:0]].shape == (0, bits // 8)
    index[:][:] = 0
    index[3][:] = 0
    np.testing.assert_array_equal(index[:], codes)


def test_an_index_added_to_itself():
    codes = random_codes((10, 16))
    index = filled(128, codes)
    for _ in range(5):
        index.add(index[:])
    np.testing.assert_array_equal(index[:], np.tile(codes, (32, 1)))


def test_added_codes_are_copied():
    codes = random_codes((3, 8))
    index = filled(64, codes)
    expected = codes.copy()
    codes[:] = 0
    np.testing.assert_array_equal(index[:], expected)


def array_of(index):
    return index._state.codes


@pytest.mark.parametrize("bits", [24, 128])
def test_codes_stay_aligned_while_the_index_grows(bits):
    index = HammingIndex(bits)
    for _ in range(50):
        index.add(random_codes((137, bits // 8)))
        assert array_of(index).ctypes.data % 64 == 0


@pytest.mark.parametrize("bits", [64, 128])
def test_growth_is_amortised(bits):
    index = HammingIndex(bits)
    codes = random_codes((3, bits // 8))
    arrays = {}
    for _ in range(10_000):
        index.add(codes)
        arrays[id(array_of(index))] = array_of(index)
    assert len(arrays) < 50


@pytest.mark.parametrize("bits", [64, 128])
def test_reserve(bits):
    index = HammingIndex(bits)
    index.reserve(np.int64(9000))
    array = array_of(index)
    codes = random_codes((9000, bits // 8))
    for part in np.array_split(codes, 7):
        index.add(part)
    index.reserve(10)
    assert array_of(index) is array
    np.testing.assert_array_equal(index[:], codes)
    assert array.nbytes <= 1.01 * codes.nbytes + 4096 * bits // 8


def test_reserve_refuses():
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        HammingIndex(64).reserve(-1)
    with pytest.raises(TypeError, match="count must be an integer, got float"):
        HammingIndex(64).reserve(1.0)


@pytest.mark.parametrize("bits", [40, 64, 128])
def test_a_view_holds_the_array_and_copies_nothing(bits):
    codes = random_codes((300, bits // 8))
    index = HammingIndex.view(codes)
    assert np.shares_memory(array_of(index), codes)
    expected = oracle.search(codes, codes[:3], 5)
    kept = codes[:3].copy()
    del codes
    for found, wanted in zip(index.search(kept, 5), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_view_of_read_only_memory_at_any_address(tmp_path):
    data = bytes(3) + random_codes((50, 16)).tobytes()
    path = tmp_path / "codes"
    path.write_bytes(data)
    for codes in (
        np.frombuffer(data, np.uint8, offset=3).reshape(-1, 16),
        np.memmap(path, np.uint8, "r", offset=3, shape=(50, 16)),
    ):
        index = HammingIndex.view(codes)
        np.testing.assert_array_equal(index.search(index[7:9], 1)[1], [[7], [8]])


def test_a_view_cannot_change():
    codes = random_codes((5, 8))
    before = codes.copy()
    index = HammingIndex.view(codes)
    for change in (
        lambda: index.add(codes),
        lambda: index.replace(0, codes[1]),
        lambda: index.remove(0),
        lambda: index.reserve(9),
    ):
        with pytest.raises(ValueError, match=r"view of an array .* make HammingIndex\(64\)"):
            change()
    np.testing.assert_array_equal(codes, before)


def test_a_view_of_something_else():
    with pytest.raises(TypeError, match="codes must be a uint8 array, got bytes"):
        HammingIndex.view(b"12345678")
    with pytest.raises(ValueError, match=r"codes must have shape \(n, code_bytes\), got \(8,\)"):
        HammingIndex.view(np.zeros(8, np.uint8))
    with pytest.raises(ValueError, match="codes must be C-contiguous"):
        HammingIndex.view(np.zeros((4, 16), np.uint8)[:, ::2])
    with pytest.raises(ValueError, match="bits must be a multiple of 8 from 8 to 1024, got 1032"):
        HammingIndex.view(np.zeros((4, 129), np.uint8))


def test_replace():
    codes = random_codes((5, 8))
    index = filled(64, codes)
    index.replace(np.int64(2), codes[4])
    np.testing.assert_array_equal(index[:], codes[[0, 1, 4, 3, 4]])


def test_remove_moves_the_last_code_into_the_slot():
    codes = random_codes((5, 8))
    index = filled(64, codes)
    index.remove(1)
    np.testing.assert_array_equal(index[:], codes[[0, 4, 2, 3]])
    index.remove(3)
    np.testing.assert_array_equal(index[:], codes[[0, 4, 2]])
    index.add(codes[3:])
    np.testing.assert_array_equal(index[:], codes[[0, 4, 2, 3, 4]])
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
@pytest.mark.parametrize("bits", [40, 128])
def test_any_sequence_of_changes(bits, changes):
    index, model = HammingIndex(bits), []
    for step, (change, number) in enumerate(changes):
        if change == "add":
            codes = random_codes((number, bits // 8), seed=step)
            index.add(codes)
            model.extend(codes)
        elif number < len(model) and change == "replace":
            model[number] = random_codes(bits // 8, seed=step)
            index.replace(number, model[number])
        elif number < len(model):
            index.remove(number)
            last = model.pop()
            if number < len(model):
                model[number] = last
    np.testing.assert_array_equal(index[:], np.array(model, np.uint8).reshape(-1, bits // 8))


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
        (np.ma.zeros((2, 8), np.uint8), TypeError, "must be a uint8 array, got MaskedArray"),
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
        index.replace(slot, index[0])
    with pytest.raises(IndexError, match=message):
        index.remove(slot)


def test_slot_not_an_integer():
    index = filled(64, random_codes((4, 8)))
    with pytest.raises(TypeError, match="slot must be an integer, got float"):
        index.replace(1.0, index[0])
    with pytest.raises(TypeError, match="slot must be an integer, got str"):
        index.remove("1")


def test_replace_with_a_bad_code():
    index = filled(64, random_codes((4, 8)))
    with pytest.raises(ValueError, match=r"code must have shape \(8,\), got \(1, 8\)"):
        index.replace(0, random_codes((1, 8)))
    with pytest.raises(TypeError, match="code must be a uint8 array, got dtype float64"):
        index.replace(0, np.zeros(8))


@pytest.mark.parametrize("key", [-1, 4, np.array([0, 4]), np.array([-1])])
def test_unknown_ids(key):
    with pytest.raises(IndexError, match="no id (-1|4): this index holds 4 codes"):
        filled(64, random_codes((4, 8)))[key]


@pytest.mark.parametrize("key", [1.0, "1", None, [0, 1], np.array([1.0]), np.array([True])])
def test_ids_that_are_no_integers(key):
    with pytest.raises(TypeError, match="must be (an )?integers?, got"):
        filled(64, random_codes((4, 8)))[key]


# What the extension itself refuses: whatever could crash it


def request(codes=(2, 8), queries=(2, 8), dtype=np.uint8, count=2, **changes):
    good = {"k": 1, "radius": 3}
    return _hamming.Request(
        np.zeros(codes, dtype), count, np.zeros(queries, np.uint8), **(good | changes)
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"queries": (2, 16)}, ValueError, "queries must have as many bytes per row as codes: 8"),
        ({"codes": (8,)}, TypeError, "codes must be C-contiguous"),
        ({"codes": (2, 8, 8)}, TypeError, "codes must be C-contiguous"),
        ({"codes": (2, 8), "dtype": np.uint64}, TypeError, "codes must be C-contiguous"),
        ({"codes": (2, 2, 4095), "dtype": np.uint64}, TypeError, "codes must be C-contiguous"),
        ({"queries": (8,)}, ValueError, "queries must have"),
        ({"codes": (2, 0), "queries": (2, 0)}, ValueError, "1 to 128 bytes, got 0"),
        ({"codes": (2, 129), "queries": (2, 129)}, ValueError, "1 to 128 bytes, got 129"),
        ({"count": 3}, ValueError, "codes have no room for 3"),
        ({"count": -1}, ValueError, "codes have no room for -1"),
        (
            {"codes": (1, 2, 4096), "dtype": np.uint64, "queries": (1, 16), "count": 4097},
            ValueError,
            "codes have no room for 4097",
        ),
        ({"k": 0}, ValueError, "k must be at least 1, got 0"),
        ({"radius": -1}, ValueError, "radius must be at least 0, got -1"),
        ({"threads": 0}, ValueError, "threads must be at least 1, got 0"),
        ({"exclude": np.zeros(3, np.int64)}, ValueError, "exclude must have an id for each"),
        ({"kernel": "sse9"}, ValueError, "kernel is 'sse9'"),
        ({"tables": 3}, TypeError, "incompatible constructor arguments"),
    ],
)
def test_the_extension_checks_what_could_crash_it(arguments, error, message):
    with pytest.raises(error, match=message):
        request(**arguments)


@pytest.mark.parametrize("covered", [-64, 1, 128])
def test_tables_cover_no_more_than_there_is(covered):
    codes = np.zeros((100, 8), np.uint8)
    tables = _hamming.MultiIndex(codes, 100, 1)
    with pytest.raises(ValueError, match=f"the tables cannot cover {covered}"):
        request((100, 8), count=100, tables=tables, covered=covered)


def test_tables_of_codes_of_another_length():
    tables = _hamming.MultiIndex(np.zeros((100, 16), np.uint8), 100, 1)
    with pytest.raises(ValueError, match="the tables are of codes of 16 bytes, not 8"):
        request((100, 8), count=100, tables=tables, covered=64)


def test_the_extension_converts_nothing():
    good = np.zeros((2, 8), np.uint8)
    for bad in (np.zeros((2, 8)), np.zeros((2, 16), np.uint8)[:, ::2], good.tolist()):
        with pytest.raises(TypeError):
            _hamming.Request(bad, 2, good, k=1, radius=1)
        with pytest.raises(TypeError, match="incompatible constructor arguments"):
            _hamming.Request(good, 2, bad, k=1, radius=1)
    for name in ("filter", "exclude", "changed"):
        with pytest.raises(TypeError, match="incompatible constructor arguments"):
            _hamming.Request(good, 2, good, k=1, radius=1, **{name: np.zeros(2)})


def test_blocks_are_written_only_where_there_is_room():
    blocks = np.zeros((1, 2, 4096), np.uint64)
    rows = np.ones((2, 16), np.uint8)
    _hamming.write_blocks(blocks, 4094, rows)
    for first, bad in ((4095, rows), (-1, rows), (0, rows[:, :8].copy()), (0, rows[0])):
        with pytest.raises((ValueError, TypeError)):
            _hamming.write_blocks(blocks, first, bad)
    blocks.flags.writeable = False
    with pytest.raises(ValueError, match="not writeable"):
        _hamming.write_blocks(blocks, 0, rows)
