"""Reads the weights of a convolutional network from a TensorFlow Lite file of 8-bit integers.

Sources: the layout of FlatBuffers ("FlatBuffers internals"); numbers of fields, types and operators
in TensorFlow's schema.fbs; weights are `scale * (integer - zero point)`, with one scale for each
output or for all ("TensorFlow Lite 8-bit quantization specification").
"""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_IDENTIFIER = b"TFL3"  # at byte 4
# The axes of a stored weight in torch's order, by operator: CONV_2D, DEPTHWISE_CONV_2D and
# FULLY_CONNECTED.
_ORDERS = {3: (0, 3, 1, 2), 4: (3, 0, 1, 2), 9: (0, 1)}
_TYPES = {2: "<i4", 9: "<i1"}


def layers(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of all convolutions and dense layers, dequantised, in order of use.

    Returns:
        Pairs of float32: weight (outputs, inputs / groups, kernel, kernel), of a dense layer
        (outputs, inputs), and bias (outputs,).

    Raises:
        ValueError: the file is not TensorFlow Lite, is damaged, or its weights are not integers.
    """
    content = path.read_bytes()
    if content[4:8] != _IDENTIFIER:
        raise ValueError(f"{path} is not a TensorFlow Lite file")
    try:
        return _layers(content)
    except (struct.error, IndexError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


class _Table(NamedTuple):
    """A table of a FlatBuffers file: fields by number, of which any may be absent."""

    content: bytes
    place: int

    def number(self, field: int, kind: str) -> int:
        """An integer, as `struct` names its kind; 0 if absent."""
        at = self._at(field)
        return int(self._read(kind, at)) if at else 0

    def table(self, field: int) -> "_Table":
        """A table that must be present."""
        return _Table(self.content, self._target(self._present(field)))

    def tables(self, field: int) -> "list[_Table]":
        """A vector of tables."""
        start, count = self._vector(field)
        places = range(start, start + 4 * count, 4)
        return [_Table(self.content, self._target(place)) for place in places]

    def array(self, field: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers; empty if absent."""
        start, count = self._vector(field)
        size = count * np.dtype(dtype).itemsize
        if start + size > len(self.content):
            raise IndexError("a vector reaches beyond the end")
        return np.frombuffer(self.content[start : start + size], dtype)

    def _vector(self, field: int) -> tuple[int, int]:
        at = self._at(field)
        if not at:
            return 0, 0
        start = self._target(at)
        return start + 4, self._read("I", start)

    def _at(self, field: int) -> int:
        """Where a field is; 0 if absent."""
        known = self.place - self._read("i", self.place)
        size = self._read("H", known)
        offset = self._read("H", known + 4 + 2 * field) if 4 + 2 * field < size else 0
        return self.place + offset if offset else 0

    def _present(self, field: int) -> int:
        at = self._at(field)
        if not at:
            raise IndexError(f"field {field} is missing")
        return at

    def _target(self, at: int) -> int:
        return at + self._read("I", at)

    def _read(self, kind: str, at: int) -> int:
        (value,) = struct.unpack_from(f"<{kind}", self.content, at)
        return int(value)


def _layers(content: bytes) -> list[tuple[Tensor, Tensor]]:
    (root,) = struct.unpack_from("<I", content)
    model = _Table(content, root)
    codes, graph, buffers = model.tables(1), model.tables(2)[0], model.tables(4)
    tensors = graph.tables(0)
    found = []
    for node in graph.tables(3):
        code = codes[node.number(0, "I")]
        # Files of old versions have the operator in the first of these, new ones in the larger.
        order = _ORDERS.get(max(code.number(0, "b"), code.number(3, "i")))
        if order is not None:
            inputs = node.array(1, "<i4")
            weight, bias = (_dequantised(tensors[inputs[i]], buffers) for i in (1, 2))
            found.append((torch.from_numpy(weight.transpose(order).copy()), torch.from_numpy(bias)))
    return found


def _dequantised(tensor: _Table, buffers: list[_Table]) -> NDArray[np.float32]:
    kind = tensor.number(1, "b")
    if kind not in _TYPES:
        raise ValueError(f"weights have type {kind}, expected integers of 8 or 32 bits (9 or 2)")
    shape = tensor.array(0, "<i4")
    stored = buffers[tensor.number(2, "I")].array(0, "u1").view(_TYPES[kind])
    quantisation = tensor.table(4)
    along = np.ones(len(shape), int)
    along[quantisation.number(6, "i")] = -1
    scale = quantisation.array(2, "<f4").astype(np.float64).reshape(along)
    zero = quantisation.array(3, "<i8").reshape(along)
    return (scale * (stored.reshape(shape) - zero)).astype(np.float32)
