"""Reads the weights of a convolutional network from a TensorFlow Lite file of 8-bit integers.

Format: TensorFlow's schema.fbs; weights are `scale * (integer - zero point)`, with one scale for
each output or for all ("TensorFlow Lite 8-bit quantization specification"). Requires the package
tflite, which is imported on demand.
"""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def layers(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases of all convolutions and dense layers, dequantised, in order of use.

    Returns:
        Pairs of float32: weight (outputs, inputs / groups, kernel, kernel), of a dense layer
        (outputs, inputs), and bias (outputs,).

    Raises:
        ValueError: the package tflite is not installed, or the file is not TensorFlow Lite.
    """
    try:
        tflite = importlib.import_module("tflite")
    except ModuleNotFoundError as error:
        raise ValueError(f"{path.name} requires the package tflite: pip install tflite") from error
    content = path.read_bytes()
    if not tflite.Model.ModelBufferHasIdentifier(content, 0):
        raise ValueError(f"{path} is not a TensorFlow Lite file")
    model = tflite.Model.GetRootAs(content)
    graph = model.Subgraphs(0)
    operator = tflite.BuiltinOperator
    # The axes of a stored weight, in torch's order.
    orders = {
        operator.CONV_2D: (0, 3, 1, 2),
        operator.DEPTHWISE_CONV_2D: (3, 0, 1, 2),
        operator.FULLY_CONNECTED: (0, 1),
    }
    found = []
    for i in range(graph.OperatorsLength()):
        node = graph.Operators(i)
        code = model.OperatorCodes(node.OpcodeIndex())
        # Files of old versions have the operator in the first of these, new ones in the larger.
        order = orders.get(max(code.DeprecatedBuiltinCode(), code.BuiltinCode()))
        if order is not None:
            weight, bias = (
                _dequantised(model, graph.Tensors(node.Inputs(place)), tflite) for place in (1, 2)
            )
            found.append((torch.from_numpy(weight.transpose(order).copy()), torch.from_numpy(bias)))
    return found


def _dequantised(model: Any, tensor: Any, tflite: Any) -> NDArray[np.float32]:
    types = {tflite.TensorType.INT8: "<i1", tflite.TensorType.INT32: "<i4"}
    name = tensor.Name().decode()
    if tensor.Type() not in types:
        raise ValueError(f"{name} has type {tensor.Type()}, expected 8-bit or 32-bit integers")
    stored = model.Buffers(tensor.Buffer()).DataAsNumpy().view(types[tensor.Type()])
    quantisation = tensor.Quantization()
    shape = tensor.ShapeAsNumpy()
    broadcast = np.ones(len(shape), int)
    broadcast[quantisation.QuantizedDimension()] = -1
    scale = quantisation.ScaleAsNumpy().astype(np.float64).reshape(broadcast)
    zero = quantisation.ZeroPointAsNumpy().reshape(broadcast)
    return (scale * (stored.reshape(shape) - zero)).astype(np.float32)
