"""TensorFlow Lite files: weights of convolutions and dense layers, and what is refused."""

import flatbuffers
import numpy as np
import pytest

from attention_hashing.backbones import tflite_file

CONV, DEPTHWISE, DENSE, ADD = 3, 4, 9, 0
INT8, INT32, FLOAT = 9, 2, 0


class Builder(flatbuffers.Builder):
    """Tables and vectors by number of the field, as schema.fbs numbers them."""

    def table(self, fields):
        self.StartObject(1 + max(fields))
        for number, (kind, value) in fields.items():
            if kind == "offset":
                self.PrependUOffsetTRelativeSlot(number, value, 0)
            else:
                getattr(self, f"Prepend{kind}Slot")(number, value, 0)
        return self.EndObject()

    def offsets(self, values):
        self.StartVector(4, len(values), 4)
        for value in reversed(values):
            self.PrependUOffsetTRelative(value)
        return self.EndVector()

    def numbers(self, values, dtype):
        return self.CreateNumpyVector(np.asarray(values, dtype))


def made(operators):
    """A file of operators: (code, old or new place of the code, weight, bias)."""
    build = Builder(1024)
    codes, buffers, tensors, nodes = [], [], [], []

    def tensor(stored, kind, scale, zero, along):
        data = build.CreateByteVector(stored.tobytes())
        buffers.append(build.table({0: ("offset", data)}))
        vectors = build.numbers(scale, "<f4"), build.numbers(zero, "<i8")
        quantisation = build.table(
            {2: ("offset", vectors[0]), 3: ("offset", vectors[1]), 6: ("Int32", along)}
        )
        shape = build.numbers(stored.shape, "<i4")
        tensors.append(
            build.table(
                {
                    0: ("offset", shape),
                    1: ("Int8", kind),
                    2: ("Uint32", len(buffers) - 1),
                    4: ("offset", quantisation),
                }
            )
        )
        return len(tensors) - 1

    for code, is_new, weight, bias in operators:
        codes.append(build.table({3: ("Int32", code)} if is_new else {0: ("Int8", code)}))
        inputs = build.numbers([0, tensor(*weight), tensor(*bias)], "<i4")
        nodes.append(build.table({0: ("Uint32", len(codes) - 1), 1: ("offset", inputs)}))
    graph = build.table(
        {0: ("offset", build.offsets(tensors)), 3: ("offset", build.offsets(nodes))}
    )
    parts = build.offsets(codes), build.offsets([graph]), build.offsets(buffers)
    model = build.table({1: ("offset", parts[0]), 2: ("offset", parts[1]), 4: ("offset", parts[2])})
    build.Finish(model, b"TFL3")
    return bytes(build.Output())


def a_bias(count):
    return np.arange(count, dtype="<i4") * 1000, INT32, [0.5] * count, [0] * count, 0


def test_weights_are_dequantised_and_in_torchs_order(tmp_path):
    rng = np.random.default_rng(0)
    conv = rng.integers(-127, 128, (4, 3, 3, 2), np.int8)
    depthwise = rng.integers(-127, 128, (1, 5, 5, 4), np.int8)
    dense = rng.integers(-127, 128, (6, 4), np.int8)
    scales = [0.5, 0.25, 2.0, 1.0]
    file = tmp_path / "a.tflite"
    file.write_bytes(
        made(
            [
                (CONV, False, (conv, INT8, scales, [0] * 4, 0), a_bias(4)),
                (ADD, False, (dense, INT8, [1.0], [0], 0), a_bias(6)),
                (DEPTHWISE, True, (depthwise, INT8, scales, [1, 0, 0, -2], 3), a_bias(4)),
                (DENSE, True, (dense, INT8, [0.125], [3], 0), a_bias(6)),
            ]
        )
    )
    found = tflite_file.layers(file)
    assert [tuple(weight.shape) for weight, _ in found] == [(4, 2, 3, 3), (4, 1, 5, 5), (6, 4)]
    for output, scale in enumerate(scales):
        one = found[0][0][output].numpy()
        assert np.array_equal(one, scale * conv[output].astype(float).transpose(2, 0, 1))
        one = found[1][0][output, 0].numpy()
        zero = [1, 0, 0, -2][output]
        assert np.array_equal(one, scale * (depthwise[0, :, :, output].astype(float) - zero))
    assert np.array_equal(found[2][0].numpy(), 0.125 * (dense.astype(float) - 3))
    assert found[2][1].tolist() == [0, 500, 1000, 1500, 2000, 2500]


def test_other_files_are_refused(tmp_path):
    file = tmp_path / "a.tflite"
    file.write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match=r"a\.tflite is not a TensorFlow Lite file"):
        tflite_file.layers(file)
    weight = np.ones((1, 1, 1, 1), "<f4"), FLOAT, [1.0], [0], 0
    content = made([(CONV, True, weight, a_bias(1))])
    file.write_bytes(content)
    with pytest.raises(ValueError, match="weights have type 0, expected integers of 8 or 32 bits"):
        tflite_file.layers(file)
    refused = 0
    for length in range(8, len(content), 8):
        file.write_bytes(content[:length])
        with pytest.raises(ValueError, match="is damaged|weights have type"):
            tflite_file.layers(file)
        refused += 1
    assert refused
