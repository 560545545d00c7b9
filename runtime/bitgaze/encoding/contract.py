"""A model file's contract, and the fingerprint that identifies the model.

Reads both from the .onnx file itself, without onnx or onnxruntime, so that opening a gallery does
not require a session. encoder.py runs models; export/ writes them, with the functions here.
"""

import hashlib
import json
import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitgaze.arguments import code_length
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.images import Preprocess
from bitgaze.encoding.looks import LookRule
from bitgaze.errors import ModelError

SCHEMA = 1
METADATA_KEY = "bitgaze"
PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_MODEL = Path(__file__).parent.parent / "models" / "general.onnx"

# Field numbers of onnx.ModelProto (onnx/onnx.proto), and of the StringStringEntryProto inside it.
_GRAPH, _OPSET_IMPORT, _METADATA_PROPS, _FUNCTIONS = 7, 8, 14, 25
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
# Where tensors are, by message: fields of tensors, of sparse tensors, and of other messages with
# tensors in them. GraphProto, NodeProto, AttributeProto, FunctionProto.
_TENSORS_IN = {
    "graph": ((5,), (15,), {1: "node"}),
    "node": ((), (), {5: "attribute"}),
    "attribute": ((5, 10), (22, 23), {6: "graph", 11: "graph"}),
    "function": ((), (), {7: "node", 11: "attribute"}),
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a TensorProto
_OP_TYPE = 4  # of a NodeProto
_OUTPUT = 12  # of a GraphProto: ValueInfoProto
_MAX_DEPTH = 64
# Beyond any network for a device.
_MAX_BYTES = 256_000_000
# Of all messages; a network has some thousands. A million takes about a second to go over.
_MAX_FIELDS = 1_000_000
_MAX_OUTPUT_VALUES = 1 << 24
# Protobuf wire types.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Golden:
    """A golden example for `verify`: an image and the code that the exporting machine computed.

    Attributes:
        png: content of a PNG file.
        code: bits // 8 bytes.
    """

    png: bytes
    code: bytes


@dataclass(frozen=True)
class Contract:
    """What a model file declares about itself, as JSON in its metadata.

    Attributes:
        name: for people; two models may share one.
        bits: length of a code, a multiple of 8 from 8 to 1024.
        preprocess: the steps from an image to the model's input.
        licence: of the weights, as an SPDX identifier or a sentence.
        training: what the model was trained or fitted on, and how; free-form.
        classes: names of the classes that guided the attention, in the order of the branch; may be
            empty.
        calibration: what a Hamming distance means, or None if it was not measured.
        precision: arithmetic of the network: "fp32", "fp16" or "int8".
        tolerance: the largest expected difference of a hash value between two machines, in [0, 1].
            A bit whose hash value is within it may differ.
        golden: examples for `verify`; may be empty.
        looks: how the model chooses where to look again, or None if it cannot.
        look_calibration: what a distance between images with `looks.most` looks each means (see
            `ViewIndex`), in whole bits; None if it was not measured.
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
    looks: LookRule | None = None
    look_calibration: Calibration | None = None

    def __post_init__(self) -> None:
        expected = {"name": str, "bits": int, "licence": str, "training": dict}
        for name, kind in expected.items():
            if type(value := getattr(self, name)) is not kind:
                raise TypeError(f"{name} is {value!r}, expected {kind.__name__}")
        if not all(isinstance(name, str) for name in self.classes):
            raise TypeError("classes must all be text")
        code_length(self.bits)
        if any(len(golden.code) != self.bits // 8 for golden in self.golden):
            raise ValueError(f"golden codes must have bits // 8 = {self.bits // 8} bytes")
        for measured in (self.calibration, self.look_calibration):
            if measured is not None and measured.bits != self.bits:
                raise ValueError(
                    f"calibration is for {measured.bits} bits, the codes have {self.bits}"
                )
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected one of {PRECISIONS}")
        if type(self.tolerance) is not float or not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance is {self.tolerance!r}, expected a float in 0..1")

    def look_count(self, looks: int | None) -> int:
        """Check a number of looks; None is as many as the model was made for.

        Raises:
            TypeError: it is not an integer.
            ValueError: the model cannot look so often.
        """
        most = 0 if self.looks is None else self.looks.most
        if looks is None:
            return most
        if type(looks) is not int:
            raise TypeError(f"looks is {looks!r}, expected an integer or None")
        if not 0 <= looks <= most:
            if self.looks is None:
                raise ValueError(
                    f"looks is {looks}, but model {self.name!r} has no maps to choose them by; "
                    "export it again with export/to_onnx.py"
                )
            raise ValueError(f"looks is {looks}, expected 0 to {most} with this model")
        return looks

    def calibration_of(self, looks: int) -> Calibration | None:
        """What distances between images with this number of looks mean; None if not measured."""
        if looks == 0:
            return self.calibration
        return self.look_calibration if looks == self.look_count(None) else None

    def to_json(self) -> str:
        """Serialise the contract as JSON text, for `from_json`."""
        document = {"schema": SCHEMA, **asdict(self), "preprocess": self.preprocess.entries()}
        document["golden"] = [
            {"png": b64encode(golden.png).decode(), "code": golden.code.hex()}
            for golden in self.golden
        ]
        for name in _OPTIONAL:
            if document[name] is None:
                del document[name]  # as in files from before there were looks
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Parse JSON text written by `to_json`.

        Raises:
            ValueError: the text is not JSON, has a schema that this version does not read, lacks an
                entry or has an unknown one, or a value has a wrong type or is out of range; the
                message says which.
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
                if name in _OPTIONAL:
                    continue
                raise ValueError(f"the contract has no {name}")
            try:
                document[name] = read(document[name])
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"the contract's {name} cannot be read: {error}") from error
        try:
            return cls(**document)
        except TypeError as error:
            raise ValueError(
                f"the contract is incomplete or has an entry of a wrong type: {error}"
            ) from error


@dataclass(frozen=True)
class Model:
    """A model file that has been read and identified, but not loaded.

    Attributes:
        path: of the file.
        contract: what the file declares about itself.
        fingerprint: identity of the model, 64 hex digits.
    """

    path: Path
    contract: Contract
    fingerprint: str


def read_model(path: str | Path) -> Model:
    """Read the contract and the fingerprint of a model file, in about 10 ms for 10 MB.

    Raises:
        ModelError: the file is missing, is no regular file of at most 1 GB or is not ONNX; its
            contract is missing or cannot be read by this version; it keeps weights in other files,
            which the fingerprint could not cover; or an output is absurdly large.
    """
    path = Path(path)
    if path.suffix == ".ort":
        raise ModelError(
            f"{path}: in ORT format, for minimal builds of onnxruntime; bitgaze needs the .onnx "
            "file that it was made from"
        )
    try:
        content = _content(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from error
    except ValueError as error:  # a NUL in the path
        raise ModelError(f"{str(path)!r}: cannot read the model: {error}") from error
    try:
        fields = _Fields()
        text = _metadata(fields, content)
    except ValueError as error:
        raise ModelError(f"{path}: not an ONNX file ({error})") from error
    if text is None:
        raise ModelError(
            f"{path}: an ONNX file without a bitgaze contract; export the model with "
            "export/to_onnx.py, which writes one"
        )
    try:
        contract = Contract.from_json(text)
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
    try:
        _check_graphs(fields, path, content)
    except ValueError as error:
        raise ModelError(f"{path}: not an ONNX file ({error})") from error
    return Model(path, contract, fingerprint(content, contract.preprocess, contract.looks))


def _content(path: Path) -> bytes:
    """A regular file, without waiting for what never ends."""
    with open(path, "rb", opener=_open_at_once) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{path}: not a regular file, so not a model")
        content = file.read(_MAX_BYTES + 1) if status.st_size <= _MAX_BYTES else b""
    if status.st_size > _MAX_BYTES or len(content) > _MAX_BYTES:
        raise ModelError(f"{path}: more than {_MAX_BYTES} bytes, so not a model for a device")
    return content


def _open_at_once(path: str, flags: int) -> int:
    """Opener that does not wait for a pipe's writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_graphs(fields: "_Fields", path: Path, content: bytes) -> None:
    """Check what a session would do before it computes anything.

    Raises:
        ModelError: weights in other files, or an output of absurdly many values.
        ValueError: not a protobuf message.
    """
    for number, value in fields.contents(content):
        if number == _GRAPH:
            for field_number, output in fields.contents(value):
                if field_number == _OUTPUT and _values(fields, output) > _MAX_OUTPUT_VALUES:
                    raise ModelError(
                        f"{path}: an output has more than {_MAX_OUTPUT_VALUES} values an image"
                    )
        if number in (_GRAPH, _FUNCTIONS):
            kind = "graph" if number == _GRAPH else "function"
            if _reaches_outside(fields, value, kind, 0):
                raise ModelError(
                    f"{path}: it keeps weights in other files, which its fingerprint does not "
                    "cover; save it as one file (onnx.save without save_as_external_data)"
                )


def _values(fields: "_Fields", output: memoryview) -> int:
    """Number of values of an output, as a ValueInfoProto declares it; unknown sizes count as 1."""
    count = 1
    for type_number, kind in fields.contents(output):
        for tensor_number, tensor in fields.contents(kind) if type_number == 2 else ():
            for shape_number, shape in fields.contents(tensor) if tensor_number == 1 else ():
                for dim_number, dim in fields.contents(shape) if shape_number == 2 else ():
                    sizes = [n for number, n in fields.numbers(dim) if number == 1]
                    count *= max(1, sizes[-1] if dim_number == 1 and sizes else 1)
    return count


def _reaches_outside(fields: "_Fields", message: memoryview, kind: str, depth: int) -> bool:
    """Whether a message names data outside the file: an external tensor, a compiled context."""
    if depth > _MAX_DEPTH:
        raise ValueError("graphs nested too deeply")
    tensors, sparse, others = _TENSORS_IN[kind]
    for number, value in fields.contents(message):
        if number in tensors and _is_external(fields, value):
            return True
        if number in sparse and any(
            _is_external(fields, part) for _, part in fields.contents(value)
        ):
            return True
        if kind == "node" and number == _OP_TYPE and bytes(value) == b"EPContext":
            return True
        if number in others and _reaches_outside(fields, value, others[number], depth + 1):
            return True
    return False


def _is_external(fields: "_Fields", tensor: memoryview) -> bool:
    return any(number == _EXTERNAL_DATA for number, _ in fields.contents(tensor)) or any(
        number == _DATA_LOCATION and value for number, value in fields.numbers(tensor)
    )


def fingerprint(content: bytes, preprocess: Preprocess, looks: LookRule | None = None) -> str:
    """Identity of a model: SHA-256 of graph, weights, preprocessing and looks, as 64 hex digits.

    Two models with the same fingerprint compute the same codes for an image. Name, licence,
    calibration and other descriptions are left out: correcting them orphans nobody's gallery.

    Args:
        content: of the .onnx file.
        preprocess: a part of the contract that affects codes.
        looks: the other part; a model without looks has the fingerprint that it had before models
            could have any.

    Raises:
        ValueError: `content` is not a protobuf message.
    """
    digest = hashlib.sha256()
    for number, value in _Fields().contents(content):
        if number in (_GRAPH, _OPSET_IMPORT, _FUNCTIONS):
            digest.update(number.to_bytes(1, "little") + len(value).to_bytes(8, "little"))
            digest.update(value)
    digest.update(json.dumps(preprocess.entries(), sort_keys=True).encode())
    if looks is not None:
        digest.update(json.dumps(asdict(looks), sort_keys=True).encode())
    return digest.hexdigest()


def _check_text(name: str, value: Any) -> None:
    # JSON can escape a lone surrogate, which can be neither printed nor stored.
    try:
        json.dumps({name: value}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the contract's {name!r} contains text that is not Unicode") from error


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is not a list")
    return value


def calibration_from(tables: Any) -> Calibration | None:
    """Rebuild a calibration from parsed JSON of its `dataclasses.asdict`; None stays None.

    Raises:
        TypeError, ValueError: `tables` is not the tables of a calibration.
    """
    if tables is None:
        return None
    if not isinstance(tables, dict):
        raise TypeError(f"{tables!r} is not an object")
    # Some JSON writers turn 1.0 into 1.
    return Calibration(
        **{
            name: tuple(float(v) if type(v) is int else v for v in _list(table))
            for name, table in tables.items()
        }
    )


def _golden(png: str, code: str) -> Golden:
    return Golden(b64decode(png, validate=True), bytes.fromhex(code))


# Entries whose JSON form differs from the attribute, and which of them need not be there.
_READERS: dict[str, Callable[[Any], Any]] = {
    "preprocess": Preprocess.from_entries,
    "classes": lambda value: tuple(_list(value)),
    "calibration": calibration_from,
    "golden": lambda value: tuple(_golden(**entry) for entry in _list(value)),
    "looks": lambda value: LookRule(**value),
    "look_calibration": calibration_from,
}
_OPTIONAL = ("looks", "look_calibration")


def _metadata(fields: "_Fields", content: bytes) -> str | None:
    for number, value in fields.contents(content):
        if number == _METADATA_PROPS:
            entry = dict(fields.contents(value))
            if bytes(entry.get(_ENTRY_KEY, b"")) == METADATA_KEY.encode():
                return bytes(entry.get(_ENTRY_VALUE, b"")).decode()
    return None


class _Fields:
    """Reads protobuf messages: of one file, a limited number of fields over all passes."""

    def __init__(self) -> None:
        self._left = _MAX_FIELDS

    def contents(self, message: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
        """Length-delimited top-level fields of a protobuf message, in order: number and content."""
        for number, value in self._parsed(message):
            if isinstance(value, memoryview):
                yield number, value

    def numbers(self, message: bytes | memoryview) -> Iterator[tuple[int, int]]:
        """Top-level fields of a protobuf message that are numbers, in order: number and value."""
        for number, value in self._parsed(message):
            if isinstance(value, int):
                yield number, value

    def _parsed(self, message: bytes | memoryview) -> Iterator[tuple[int, int | memoryview]]:
        view = memoryview(message)
        position = 0
        while position < len(view):
            self._left -= 1
            if self._left < 0:
                raise ValueError(f"more than {_MAX_FIELDS} fields")
            tag, position = _varint(view, position)
            number, wire_type = tag >> 3, tag & 7
            if wire_type == _VARINT:
                value, position = _varint(view, position)
                yield number, value
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
            raise ValueError("the file ends inside a field")
        byte = view[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} has more than 10 bytes")
