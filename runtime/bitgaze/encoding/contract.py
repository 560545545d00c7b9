"""What a model file promises, and the fingerprint that tells one model from another.

Reads the promise out of the .onnx file itself, without onnx and without onnxruntime: opening a
gallery must not cost a session. Does not run the model (encoder.py does), nor write one (export/
does, with the functions here).
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitgaze.arguments import code_length
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.images import Preprocess
from bitgaze.errors import ModelError

SCHEMA = 1
METADATA_KEY = "bitgaze"
PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "general.onnx"

# Field numbers of onnx.ModelProto (onnx/onnx.proto), and of the StringStringEntryProto inside it.
_GRAPH, _OPSET_IMPORT, _METADATA_PROPS, _FUNCTIONS = 7, 8, 14, 25
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
# Protobuf wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Golden:
    """An image and the code that the exporting machine gave it: what `verify` compares with.

    Attributes:
        png: the bytes of a PNG file.
        code: bits // 8 bytes.
    """

    png: bytes
    code: bytes


@dataclass(frozen=True)
class Contract:
    """What a model file says of itself, stored as JSON in its metadata.

    Attributes:
        name: for people; two models may share one.
        bits: code length, a multiple of 8 in 8..1024.
        preprocess: from an image to the model's input.
        licence: of the weights, as an SPDX identifier or a sentence.
        training: what the model was trained or fitted on, and how; free-form.
        classes: names of the classes that guided the attention, in the order of the branch, or
            empty.
        calibration: what a Hamming distance means, or None where it was not measured.
        precision: of the arithmetic in the network: "fp32", "fp16" or "int8".
        tolerance: the largest difference of a hash value to be expected between two machines. A bit
            whose value is nearer to 0 may differ.
        golden: examples for `verify`.
    """

    name: str
    bits: int
    preprocess: Preprocess
    licence: str
    training: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    calibration: Calibration | None = None
    precision: str = "fp32"
    tolerance: float = 1e-3
    golden: tuple[Golden, ...] = ()

    def __post_init__(self) -> None:
        expected = {"name": str, "bits": int, "licence": str, "training": dict}
        for name, kind in expected.items():
            if type(value := getattr(self, name)) is not kind:
                raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
        if not all(isinstance(name, str) for name in self.classes):
            raise TypeError("classes are not all text")
        code_length(self.bits)
        if any(len(golden.code) != self.bits // 8 for golden in self.golden):
            raise ValueError(f"golden codes have another length than bits // 8 = {self.bits // 8}")
        if self.calibration is not None and self.calibration.bits != self.bits:
            raise ValueError(
                f"calibration is for {self.calibration.bits} bits, the codes have {self.bits}"
            )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {PRECISIONS}")
        if type(self.tolerance) is not float or not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance is {self.tolerance!r}, expected a float in 0..1")

    def to_json(self) -> str:
        """The contract as the JSON text that `from_json` reads."""
        document = {"schema": SCHEMA, **asdict(self)}
        document["golden"] = [
            {"png": b64encode(golden.png).decode(), "code": golden.code.hex()}
            for golden in self.golden
        ]
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Read what `to_json` wrote.

        Raises:
            ValueError: not JSON, a schema that this version does not read, an entry that is missing
                or unknown, or a value of a wrong type or out of range; the message says which.
        """
        try:
            document = json.loads(text)
            if not isinstance(document, dict):
                raise ValueError("the contract is not a JSON object")
            for name, value in document.items():
                _check_text(name, value)
        except RecursionError as error:
            raise ValueError("the contract is JSON nested too deeply") from error
        schema = document.pop("schema", None)
        if type(schema) is not int or schema != SCHEMA:
            raise ValueError(
                f"the contract has schema {schema!r}, this version of bitgaze reads {SCHEMA}"
            )
        for name, read in _READERS.items():
            if name not in document:
                raise ValueError(f"the contract has no {name}")
            try:
                document[name] = read(document[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"the contract's {name} cannot be read: {error}") from error
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(f"the contract is incomplete or of a wrong type: {error}") from error


@dataclass(frozen=True)
class Model:
    """A model file, read and identified but not loaded.

    Attributes:
        path: where the file lies.
        contract: what it promises.
        fingerprint: 64 hex digits, see `fingerprint`.
    """

    path: Path
    contract: Contract
    fingerprint: str


def read_model(path: str | Path) -> Model:
    """Read the contract and the fingerprint of a model file; about 10 ms for 10 MB.

    Raises:
        ModelError: the file is missing, not ONNX, holds no bitgaze contract, or one that this
            version cannot read.
    """
    path = Path(path)
    if path.suffix == ".ort":
        raise ModelError(
            f"{path}: onnxruntime's own format, for its small builds; "
            "bitgaze opens the .onnx file that it was made from"
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ModelError(f"{str(path)!r}: cannot read the model: {error}") from error
    try:
        text = _metadata(content)
    except ValueError as error:
        raise ModelError(f"{path}: not an ONNX file ({error})") from error
    if text is None:
        raise ModelError(
            f"{path}: an ONNX file without a bitgaze contract; "
            "export it with export/to_onnx.py, which writes one"
        )
    try:
        contract = Contract.from_json(text)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    return Model(path, contract, fingerprint(content, contract.preprocess))


def fingerprint(content: bytes, preprocess: Preprocess) -> str:
    """Identity of a model: SHA-256 over graph, weights and preprocessing, as 64 hex digits.

    Two models with one fingerprint give one code to one image. Names, licences, calibration and
    other words are left out, so that they can be corrected without orphaning anyone's gallery.

    Args:
        content: the .onnx file.
        preprocess: the part of the contract that changes codes.

    Raises:
        ValueError: `content` is not a protobuf message.
    """
    digest = hashlib.sha256()
    for number, value in _fields(content):
        if number in (_GRAPH, _OPSET_IMPORT, _FUNCTIONS):
            digest.update(number.to_bytes(1, "little") + len(value).to_bytes(8, "little"))
            digest.update(value)
    digest.update(json.dumps(asdict(preprocess), sort_keys=True).encode())
    return digest.hexdigest()


def _check_text(name: str, value: Any) -> None:
    # JSON can spell half a character (a lone surrogate), which nothing can print or store.
    try:
        json.dumps({name: value}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the contract's {name!r} holds text that is not Unicode") from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def calibration_from(tables: Any) -> Calibration | None:
    """Tables as JSON holds them, or None, as they come from `dataclasses.asdict`.

    Raises:
        TypeError, ValueError: they are not tables of a calibration.
    """
    if tables is None:
        return None
    if not isinstance(tables, dict):
        raise TypeError(f"{tables!r} is not an object")
    # JSON writes 1.0 as 1 where it likes.
    return Calibration(
        **{
            name: tuple(float(v) if type(v) is int else v for v in _list(table))
            for name, table in tables.items()
        }
    )


def _golden(png: str, code: str) -> Golden:
    return Golden(b64decode(png, validate=True), bytes.fromhex(code))


# Entries that JSON holds in another form than the class, and that may not be absent.
_READERS: dict[str, Callable[[Any], Any]] = {
    "preprocess": lambda value: Preprocess(**value),
    "classes": lambda value: tuple(_list(value)),
    "calibration": calibration_from,
    "golden": lambda value: tuple(_golden(**entry) for entry in _list(value)),
}


def _metadata(content: bytes) -> str | None:
    for number, value in _fields(content):
        if number == _METADATA_PROPS:
            entry = dict(_fields(value))
            if bytes(entry.get(_ENTRY_KEY, b"")) == METADATA_KEY.encode():
                return bytes(entry.get(_ENTRY_VALUE, b"")).decode()
    return None


def _fields(message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields at the top of a protobuf message, in file order."""
    view = memoryview(message)
    position = 0
    while position < len(view):
        tag, position = _varint(view, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == _VARINT:
            _, position = _varint(view, position)
            continue
        if wire_type == _BYTES:
            length, position = _varint(view, position)
        elif wire_type in (_FIXED32, _FIXED64):
            length = 4 if wire_type == _FIXED32 else 8
        else:
            raise ValueError(f"unknown wire type {wire_type} at byte {position}")
        if length > len(view) - position:
            raise ValueError(f"a field at byte {position} is longer than the file")
        if wire_type == _BYTES:
            yield number, view[position : position + length]
        position += length


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(view):
            raise ValueError("it ends inside a field")
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} has more than 10 bytes")
