"""Converts a float graph to one that computes in 8-bit integers: static quantisation, QDQ.

The first convolutions and everything after the last one stay float. Weights are rounded one input
at a time, and those not yet rounded compensate for the error in the output (Frantar et al., GPTQ,
ICLR 2023; Nagel et al., AdaRound, ICML 2020, on why rounding to nearest is not best). Both choices
were made by measurement: docs/lab-notes.md.
"""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from attention_hashing.deployment import onnx_file
from attention_hashing.network import Deployed

_BATCH = 10
# The stem and the first two blocks: half of the error, and a tenth of the gain in speed.
_FLOAT_CONVOLUTIONS = 6
# Share of the mean squared input that is added to each input's own: keeps unused inputs finite.
_DAMPING = 0.01
_BLOCK = 64
_CLASSIFIER = "network.branch.classify.weight"


class Target(NamedTuple):
    """What a processor's integer instructions require (onnxruntime's guide to quantisation).

    Attributes:
        activations: type of the values between layers.
        reduced: whether weights have 7 bits, for instructions that add two products in 16 bits,
            which would saturate.
    """

    activations: QuantType
    reduced: bool


TARGETS = {
    "x86-vnni": Target(QuantType.QUInt8, reduced=False),
    "x86": Target(QuantType.QUInt8, reduced=True),
    "arm": Target(QuantType.QInt8, reduced=False),
}


def int8(
    model: onnx.ModelProto, deployed: Deployed, pixels: NDArray[np.uint8], target: str
) -> onnx.ModelProto:
    """Convert a model's convolutions to 8-bit integers.

    Args:
        model: float32, with batch normalisation folded, exported from `deployed`.
        deployed: the network that it was exported from, with the same names of weights.
        pixels: uint8 (n, size, size, 3), images to measure ranges on; a hundred are enough.
        target: a key of TARGETS.

    Returns:
        A new model. The classifier's weights are stored in 8 bits too, but used as float.
    """
    result = to_nearest(model, pixels, target)
    _round_weights(result, deployed, pixels)
    _store_classifier(result)
    return result


def to_nearest(model: onnx.ModelProto, pixels: NDArray[np.uint8], target: str) -> onnx.ModelProto:
    """As `int8`, with weights rounded to nearest.

    Args: as for `int8`.
    """
    instructions = TARGETS[target]
    nodes = _integer_nodes(model)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, quantized = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        # The optimiser would write a second copy of the classifier.
        quant_pre_process(model, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            _Images(pixels),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=instructions.reduced,
            activation_type=instructions.activations,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=nodes,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(quantized)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the root logger, to which the library writes."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def convolutional_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All convolutions, and the activations and residual sums between them, in order."""
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    values: set[str] = set()
    for node in model.graph.node:
        inputs = [name for name in node.input if name not in weights]
        follows = node.op_type in ("Clip", "Relu", "Add") and values.issuperset(inputs)
        if node.op_type == "Conv" or (inputs and follows):
            nodes.append(node)
            values.update(node.output)
    return nodes


def _integer_nodes(model: onnx.ModelProto) -> list[str]:
    names: list[str] = []
    convolutions = 0
    for node in convolutional_nodes(model):
        convolutions += node.op_type == "Conv"
        if convolutions > _FLOAT_CONVOLUTIONS:
            names.append(node.name)
    return names


class _Images(CalibrationDataReader):
    """Supplies the images to the library, batch by batch."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._batches = _batches(pixels)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _batches(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (pixels[start : start + _BATCH] for start in range(0, len(pixels), _BATCH))


def _round_weights(model: onnx.ModelProto, deployed: Deployed, pixels: NDArray[np.uint8]) -> None:
    """Round the convolutions' weights again, using the inputs that they are multiplied with.

    A dense convolution over several pixels has too many inputs for this; its weights stay rounded
    to nearest.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = {
        name: module
        for name, module in deployed.named_modules()
        if isinstance(module, nn.Conv2d)
        and f"{name}.weight_quantized" in tensors
        and (module.groups > 1 or module.kernel_size == (1, 1))
    }
    products = _products(deployed, layers, pixels)
    for name, layer in layers.items():
        stored = tensors[f"{name}.weight_quantized"]
        nearest = numpy_helper.to_array(stored)
        scale = numpy_helper.to_array(tensors[f"{name}.weight_scale"]).astype(np.float64)
        weight = layer.weight.detach().double().numpy().reshape(len(nearest), 1, -1)
        grouped = layer.groups > 1  # each output has its own inputs
        rounded = rounded_together(
            weight if grouped else weight.transpose(1, 0, 2),
            scale[:, None] if grouped else scale[None],
            products[name],
            int(np.abs(nearest.astype(int)).max()),
        ).reshape(nearest.shape)
        stored.CopyFrom(numpy_helper.from_array(rounded, stored.name))


@torch.inference_mode()
def _products(
    deployed: Deployed, layers: dict[str, nn.Conv2d], pixels: NDArray[np.uint8]
) -> dict[str, NDArray[np.float64]]:
    """Products of two inputs, summed over images and places: (groups, inputs, inputs), by layer."""
    sums: dict[str, Tensor] = {}

    def add(name: str, layer: nn.Conv2d, x: Tensor) -> None:
        if layer.groups == 1:
            x = x.transpose(0, 1).flatten(1)[None]  # (1, inputs, B * h * w)
        else:
            x = nn.functional.unfold(
                x.flatten(0, 1)[:, None],
                layer.kernel_size,
                padding=layer.padding,
                stride=layer.stride,
            ).unflatten(0, (len(x), -1))  # (B, groups, kernel, places)
            x = x.permute(1, 2, 0, 3).flatten(2)
        sums[name] = sums.get(name, 0) + (x @ x.mT).double()

    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, __, name=name, layer=layer: add(name, layer, inputs[0])
        )
        for name, layer in layers.items()
    ]
    for batch in _batches(pixels):
        deployed(torch.from_numpy(batch))
    for hook in hooks:
        hook.remove()
    return {name: total.numpy() for name, total in sums.items()}


def rounded_together(
    weight: NDArray[np.float64],
    scale: NDArray[np.float64],
    products: NDArray[np.float64],
    limit: int,
) -> NDArray[np.int8]:
    """Find integers q such that q * scale produces nearly the same outputs as weight.

    Args:
        weight: (groups, outputs, inputs).
        scale: (groups, outputs), above 0.
        products: (groups, inputs, inputs), summed products of two inputs.
        limit: largest magnitude of an integer.

    Returns:
        int8, in the shape of weight.
    """
    inputs = weight.shape[2]
    own = np.trace(products, axis1=1, axis2=2)[:, None, None] / inputs
    # The small constant is for channels that are always 0.
    inverse = np.linalg.inv(products + (_DAMPING * own + 1e-6) * np.eye(inputs))
    # (groups, inputs, inputs), upper triangular; contiguous by row, the order of access.
    factor = np.ascontiguousarray(np.linalg.cholesky(inverse).transpose(0, 2, 1))
    weight = weight.copy()
    rounded = np.zeros(weight.shape, np.int8)
    # Weights after a block are corrected in one product, not column by column.
    for start in range(0, inputs, _BLOCK):
        end = min(start + _BLOCK, inputs)
        errors = np.zeros((*weight.shape[:2], end - start))
        for i in range(start, end):
            rounded[:, :, i] = np.clip(np.round(weight[:, :, i] / scale), -limit, limit)
            error = (weight[:, :, i] - rounded[:, :, i] * scale) / factor[:, i, i, None]
            weight[:, :, i:end] -= error[:, :, None] * factor[:, None, i, i:end]
            errors[:, :, i - start] = error
        weight[:, :, end:] -= errors @ factor[:, start:end, end:]
    return rounded


def _store_classifier(model: onnx.ModelProto) -> None:
    """Store the classifier in 8 bits, one scale per class; onnxruntime multiplies on loading."""
    graph = model.graph
    tensor = next(t for t in graph.initializer if t.name == _CLASSIFIER)
    values = numpy_helper.to_array(tensor)  # (classes, channels, 1, 1)
    scale = np.maximum(np.abs(values).max((1, 2, 3), keepdims=True), 1e-12) / 127
    integers = np.round(values / scale).astype(np.int8)
    nodes = onnx_file.dequantised(graph, tensor, integers, scale.astype(np.float32))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
