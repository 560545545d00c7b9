import hashlib
import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgaze import Contract, ModelError
from bitgaze.encoding import contract
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import DEFAULT_MODEL, Golden, fingerprint, read_model
from bitgaze.encoding.images import Preprocess
from bitgaze.encoding.looks import LookRule

CALIBRATION = Calibration(duplicate=(0.99, *[0.5] * 16), kind=(), false_match=(*[0.1] * 16, 1.0))
CONTRACT = Contract(
    name="test",
    bits=16,
    preprocess=Preprocess(size=64, filter="bilinear"),
    licence="MIT",
    training={"images": 3},
    classes=("cat", "dog"),
    calibration=CALIBRATION,
    precision="int8",
    tolerance=0.01,
    golden=(Golden(png=b"\x89PNG", code=b"\x01\x02"),),
    looks=LookRule(),
)
TABLES = json.loads(CONTRACT.to_json())["calibration"]


def test_a_contract_survives_a_round_trip_through_json():
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 12}, "bits must be a multiple of 8"),
        ({"bits": 2048}, "bits must be a multiple of 8 from 8 to 1024, got 2048"),
        ({"preprocess": {"size": 5000}}, "size is 5000, expected at most 4096"),
        ({"schema": 99}, "schema 99, this version of bitgaze reads 1"),
        ({"preprocess": {"size": 64, "colour": "BGR"}}, "preprocess cannot be read: .*colour"),
        ({"preprocess": {"size": 64, "filter": "sinc"}}, "filter is 'sinc'"),
        ({"calibration": {"kind": []}}, "calibration cannot be read: .*duplicate"),
        ({"calibration": TABLES | {"duplicate": [0.5, 0.6]}}, "duplicate rises with distance"),
        ({"golden": [{"png": "", "code": "00"}]}, "golden codes must have bits // 8 = 2 bytes"),
        ({"surprise": 1}, "wrong type"),
        ({"classes": None}, "classes cannot be read: None is not a list"),
        ({"classes": "cats"}, "classes cannot be read: 'cats' is not a list"),
        ({"classes": [1]}, "classes must all be text"),
        ({"name": 7}, "name is 7, expected str"),
        ({"bits": 16.0}, "bits is 16.0, expected int"),
        ({"bits": True}, "bits is True, expected int"),
        ({"preprocess": {"size": 64.5}}, "size is 64.5, expected an integer"),
        ({"training": []}, "training is .., expected dict"),
        ({"calibration": TABLES | {"false_match": [0.5] * 16 + [0.4]}}, "false_match falls with"),
        ({"calibration": TABLES | {"kind": [0.5]}}, "kind has 1 entries, false_match has 17"),
        ({"calibration": {key: [0.5, 0.5] for key in TABLES}}, "is for 1 bits, the codes have 16"),
        ({"calibration": {key: [1.5] for key in TABLES}}, "duplicate is not all numbers in 0..1"),
        ({"precision": "int4"}, "precision is 'int4', expected one of .*'int8'"),
        ({"tolerance": 1}, "tolerance is 1, expected a float in 0..1"),
        ({"schema": True}, "schema True"),
        ({"calibration": {key: [float("nan")] for key in TABLES}}, "not all numbers in 0..1"),
    ],
)
def test_a_bad_entry_is_rejected(change, message):
    document = json.loads(CONTRACT.to_json()) | change
    with pytest.raises(ValueError, match=message):
        Contract.from_json(json.dumps(document))


@pytest.mark.parametrize("name", json.loads(CONTRACT.to_json()))
def test_a_missing_entry_is_rejected_unless_it_has_a_default(name):
    document = json.loads(CONTRACT.to_json())
    del document[name]
    if name in ("training", "precision", "tolerance", "looks"):
        assert Contract.from_json(json.dumps(document)).bits == 16
    else:
        with pytest.raises(ValueError, match=f"schema None|incomplete.*{name}|no {name}"):
            Contract.from_json(json.dumps(document))


def field(number, content):
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(number):
    head = b""
    while number > 127:
        head += bytes([number & 127 | 128])
        number >>= 7
    return head + bytes([number])


@pytest.fixture
def read_contract(tmp_path):
    """A function that writes a document into a model file and reads its contract."""

    def read(document):
        path = tmp_path / "a.onnx"
        entry = field(1, b"bitgaze") + field(2, json.dumps(document).encode())
        path.write_bytes(field(7, field(2, b"graph")) + field(14, entry))
        return read_model(path).contract

    return read


PNG = "iVBORw=="
WRONG = {
    "schema": [None, "1", 1.0, True, 0, 2],
    "name": [None, 1, ["a"], "\ud800"],
    "bits": [None, "16", 16.0, True, 0, -8, 12, 1032],
    "preprocess": [None, [], "x", {}, {"size": "64"}, {"size": 0}, {"size": 64, "new": 1}],
    "licence": [None, 1, "\udfff"],
    "training": [None, [], "x", {"a": ["\ud800"]}, {"\ud800": 1}],
    "classes": [None, "cats", {"a": 1}, [1], ["cat", None], ["\ud800"]],
    "calibration": [
        *("x", 1, [], [[1, 0.5]], {}, {"duplicate": 1, "kind": [], "false_match": []}),
        *(TABLES | {"new": []}, TABLES | {"kind": None}, TABLES | {"kind": "x"}),
        *(TABLES | {"duplicate": ["0.5"] * 17}, TABLES | {"duplicate": [True] * 17}),
        *(TABLES | {"false_match": []}, TABLES | {"false_match": [10**400] * 17}),
    ],
    "precision": [None, 8, "fp64"],
    "tolerance": [None, "x", 1, -0.1, 1.5],
    "golden": [
        *(None, "x", {}, [None], [{}], [{"png": PNG}], [{"code": "0102"}]),
        *([{"png": 1, "code": "0102"}], [{"png": "!!!!", "code": "0102"}]),
        *([{"png": PNG + "\n", "code": "0102"}], [{"png": PNG[:-1], "code": "0102"}]),
        *([{"png": PNG, "code": "xyz0"}], [{"png": PNG, "code": "01"}], [{"png": PNG, "code": 1}]),
        [{"png": PNG, "code": "0102", "new": 1}],
    ],
    "looks": [None, [], "x", {"most": 0}, {"most": "3"}, {"extent": 2.0}, {"new": 1}],
}


def test_the_valid_contract_of_these_tests_is_read(read_contract):
    assert read_contract(json.loads(CONTRACT.to_json())) == CONTRACT
    assert WRONG.keys() == json.loads(CONTRACT.to_json()).keys()


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, vs in WRONG.items() for v in vs])
def test_a_bad_entry_of_a_model_file_is_named(read_contract, name, value):
    with pytest.raises(ModelError, match=name):
        read_contract(json.loads(CONTRACT.to_json()) | {name: value})


def test_a_path_with_a_nul_byte_is_refused():
    with pytest.raises(ModelError, match=r"'a\\x00b': cannot read the model: embedded null"):
        read_model("a\0b")


def test_the_shipped_model_can_be_read():
    model = read_model(DEFAULT_MODEL)
    assert model.contract.bits == 128
    assert len(model.fingerprint) == 64
    assert len(model.contract.golden) >= 1
    assert DEFAULT_MODEL.stat().st_size <= 10_000_000


def test_the_fingerprint_covers_graph_and_preprocessing_but_no_descriptions():
    content = DEFAULT_MODEL.read_bytes()
    contract = read_model(DEFAULT_MODEL).contract
    original = fingerprint(content, contract.preprocess)
    reworded = content.replace(b'"licence":"Apache-2.0', b'"licence":"BSD-333333')
    assert reworded != content
    assert fingerprint(reworded, contract.preprocess) == original
    other = bytearray(content)
    other[len(other) // 2] ^= 1  # a weight
    assert fingerprint(bytes(other), contract.preprocess) != original
    assert fingerprint(content, replace(contract.preprocess, size=192)) != original
    assert fingerprint(content, replace(contract.preprocess, filter="bilinear")) != original


def test_files_that_are_not_models_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"a\.ort: in ORT format, .* needs the \.onnx file"):
        read_model(tmp_path / "a.ort")
    with pytest.raises(ModelError, match=r"none\.onnx: cannot read the model: No such file"):
        read_model(tmp_path / "none.onnx")
    path = tmp_path / "a.onnx"
    path.write_bytes(b"\x08\x0a")  # protobuf without a contract
    with pytest.raises(ModelError, match="without a bitgaze contract; export the model with"):
        read_model(path)
    path.write_bytes(DEFAULT_MODEL.read_bytes()[:5_000_000])
    with pytest.raises(ModelError, match="not an ONNX file"):
        read_model(path)


@pytest.mark.parametrize("text", ["", "[]", "1", "{", "[" * 100_000, '{"schema": 1}'])
def test_text_that_is_not_a_contract_is_rejected(text):
    with pytest.raises(ValueError, match=r"."):
        Contract.from_json(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(json.loads(CONTRACT.to_json()))), JSON)
def test_any_value_of_any_entry_is_read_or_rejected(name, value):
    document = json.loads(CONTRACT.to_json()) | {name: value}
    try:
        contract = Contract.from_json(json.dumps(document))
    except ValueError:
        return
    assert Contract.from_json(contract.to_json()) == contract


@given(st.binary(max_size=200))
def test_any_bytes_raise_a_model_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "a.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_model(path)


def tensor(**external):
    """A TensorProto, with external data or without."""
    parts = [field(9, b"\0\0\0\0")]
    if "data" in external:
        parts.append(field(13, field(1, b"location") + field(2, b"weights.bin")))
    if "location" in external:
        parts.append(bytes([14 << 3, external["location"]]))
    return b"".join(parts)


def model_file(graph, *others):
    entry = field(1, b"bitgaze") + field(2, CONTRACT.to_json().encode())
    return field(7, graph) + field(14, entry) + b"".join(others)


DATA = tensor(data=True, location=1)
ATTRIBUTE = field(5, field(5, DATA))  # of a node


@pytest.mark.parametrize(
    "content",
    [
        model_file(field(5, DATA)),
        model_file(field(5, tensor(data=True))),
        model_file(field(5, tensor(location=1))),
        model_file(field(15, field(1, DATA))),
        model_file(field(15, field(2, DATA))),
        model_file(field(1, ATTRIBUTE)),
        model_file(field(1, field(5, field(10, DATA)))),
        model_file(field(1, field(5, field(22, field(1, DATA))))),
        model_file(field(1, field(5, field(6, field(5, DATA))))),
        model_file(field(1, field(5, field(11, field(1, ATTRIBUTE))))),
        model_file(b"", field(25, field(7, ATTRIBUTE))),
        model_file(b"", field(25, field(11, field(5, DATA)))),
        model_file(field(1, field(4, b"EPContext"))),
    ],
)
def test_a_model_with_weights_in_other_files_is_refused(content, tmp_path):
    """Its fingerprint would not tell one set of weights from another."""
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.onnx: it keeps weights in other files"):
        read_model(path)


def test_a_model_of_one_file_is_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(model_file(field(5, tensor(location=0)) + field(1, field(4, b"Conv"))))
    assert read_model(path).contract == CONTRACT


def test_graphs_nested_too_deeply_are_refused(tmp_path):
    graph = b""
    for _ in range(100):
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(model_file(graph))
    with pytest.raises(ModelError, match="nested too deeply"):
        read_model(path)


@pytest.mark.parametrize("number", [1, 7])
def test_a_model_of_absurdly_many_fields_is_refused(number, tmp_path, monkeypatch):
    """In any message, and over all passes together."""
    monkeypatch.setattr(contract, "_MAX_FIELDS", 10_000)
    path = tmp_path / "m.onnx"
    many = bytes([1 << 3, 0]) * 10_000
    path.write_bytes(model_file(b"", many if number == 1 else field(number, many)))
    with pytest.raises(ModelError, match="more than 10000 fields"):
        read_model(path)


def test_an_output_of_absurdly_many_values_is_refused(tmp_path):
    def size(n):
        return field(1, bytes([1 << 3]) + varint(n))

    path = tmp_path / "m.onnx"
    for side, is_read in ((4_096, True), (5_000, False)):
        shape = field(1, field(2, b"batch")) + size(side) + size(side)
        path.write_bytes(model_file(field(12, field(2, field(1, field(2, shape))))))
        if is_read:
            assert read_model(path).contract == CONTRACT
        else:
            with pytest.raises(ModelError, match="an output has more than 16777216 values"):
                read_model(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_model_that_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", "/dev/zero"):
        with pytest.raises(ModelError, match="not a regular file"):
            read_model(path)
    with pytest.raises(ModelError, match="Is a directory"):
        read_model(tmp_path)


def test_a_model_file_that_is_too_large_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "m.onnx"
    path.touch()
    os.truncate(path, 256_000_001)
    with pytest.raises(ModelError, match="more than 256000000 bytes"):
        read_model(path)


def test_models_from_before_depth_keep_their_contract_and_fingerprint():
    old = replace(CONTRACT, preprocess=Preprocess(size=64, filter="bilinear", depth="stored"))
    document = json.loads(old.to_json())
    assert sorted(document["preprocess"]) == ["alpha", "exif", "filter", "resize", "size"]
    assert Contract.from_json(json.dumps(document)) == old
    digest = hashlib.sha256(json.dumps(document["preprocess"], sort_keys=True).encode())
    assert fingerprint(b"", old.preprocess) == digest.hexdigest()
    new = replace(old.preprocess, depth="used")
    assert Preprocess.from_entries(new.entries()) == new
    assert fingerprint(b"", new) != fingerprint(b"", old.preprocess)
