"""Quantised graphs: which layers are quantised, how weights are rounded, and the codes."""

import logging

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from attention_hashing.deployment import onnx_file, quantize, reduced_precision
from attention_hashing.general import model as general
from bitgaze import Contract
from bitgaze.encoding.images import load
from bitgaze.encoding.looks import LookRule
from conftest import ROOT


@pytest.fixture(scope="module")
def exported():
    layer = general.Fitted.load(ROOT / "export" / "general.npz").layer
    contract = Contract("x", 128, general.PREPROCESS, "MIT", looks=LookRule())
    return onnx_file.graph(general.with_layer(layer), contract)


@pytest.fixture(scope="module")
def deployed(exported):
    return exported[0]


@pytest.fixture(scope="module")
def model(exported):
    return exported[1]


@pytest.fixture(scope="module")
def pixels(examples):
    paths = sorted(p for p in examples.rglob("*") if p.suffix in (".jpg", ".png"))[::20]
    return np.stack([load(path, general.PREPROCESS) for path in paths])


@pytest.fixture(scope="module")
def expected(model, pixels):
    return outputs(model, pixels[1::2])


@pytest.fixture(scope="module")
def integer(model, deployed, pixels):
    return quantize.int8(model, deployed, pixels[::2], "x86-vnni")


def outputs(model, pixels):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(["code", "hash", "attention"], {"image": pixels})


def flipped(found, expected):
    return float((np.unpackbits(found[0]) != np.unpackbits(expected[0])).mean())


def test_int8_codes_and_attention_are_close_to_float32(integer, pixels, expected):
    found = outputs(integer, pixels[1::2])
    assert flipped(found, expected) < 0.03
    assert np.abs(found[2] - expected[2]).mean() < 0.03


def test_fp16_codes_and_attention_are_close_to_float32(model, pixels, expected):
    found = outputs(reduced_precision.fp16(model), pixels[1::2])
    assert flipped(found, expected) < 0.01
    assert np.abs(found[2] - expected[2]).mean() < 0.01


def test_the_first_convolutions_and_the_hash_layer_stay_float(integer):
    weights = [node.input[1] for node in integer.graph.node if node.op_type == "Conv"]
    is_integer = [name.endswith("_DequantizeLinear_Output") for name in weights]
    assert is_integer == [False] * 6 + [True] * 43
    tensors = {tensor.name: tensor for tensor in integer.graph.initializer}
    assert tensors["network.project.weight"].data_type == onnx.TensorProto.FLOAT


def test_without_vnni_weights_keep_to_seven_bits(model, pixels):
    reduced = quantize.to_nearest(model, pixels[:2], "x86")
    found = [
        int(np.abs(numpy_helper.to_array(tensor).astype(int)).max())
        for tensor in reduced.graph.initializer
        if tensor.name.endswith(".weight_quantized")
    ]
    assert len(found) == 43
    assert max(found) <= 64


def test_arm_has_signed_activations(model, pixels):
    signed = quantize.to_nearest(model, pixels[:2], "arm")
    tensors = {tensor.name: tensor for tensor in signed.graph.initializer}
    quantizers = [node for node in signed.graph.node if node.op_type == "QuantizeLinear"]
    assert quantizers
    assert {tensors[node.input[2]].data_type for node in quantizers} == {onnx.TensorProto.INT8}


def test_the_log_level_is_as_before(model, pixels):
    root = logging.getLogger()
    level = root.level
    root.setLevel(17)
    try:
        quantize.to_nearest(model, pixels[:1], "x86")
        assert root.level == 17
    finally:
        root.setLevel(level)


def test_rounding_together_beats_rounding_to_the_nearest():
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((200, 4)) @ generator.standard_normal((4, 12))
    weight = generator.standard_normal((1, 5, 12))
    scale = np.abs(weight).max(2) / 7
    products = (inputs.T @ inputs)[None]
    together = quantize.rounded_together(weight, scale, products, limit=7)
    nearest = np.round(weight / scale[:, :, None])

    def error(rounded):
        return (((rounded * scale[:, :, None] - weight)[0] @ inputs.T) ** 2).mean()

    assert np.abs(together).max() <= 7
    assert error(together) < 0.5 * error(nearest)


def test_rounding_together_is_to_the_nearest_where_inputs_are_independent():
    weight = np.random.default_rng(1).standard_normal((2, 3, 6))
    scale = np.abs(weight).max(2) / 127
    products = np.stack([np.eye(6), 5 * np.eye(6)])
    found = quantize.rounded_together(weight, scale, products, limit=127)
    assert np.array_equal(found, np.round(weight / scale[:, :, None]))


def test_a_channel_that_is_always_zero_can_be_rounded():
    weight = np.ones((1, 1, 9))
    found = quantize.rounded_together(weight, np.full((1, 1), 1 / 127), np.zeros((1, 9, 9)), 127)
    assert np.array_equal(found, np.full((1, 1, 9), 127))
