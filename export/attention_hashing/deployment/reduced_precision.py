"""Writes model files of reduced precision: convert, compare with float32, keep or refuse.

quantize.py converts to 8-bit integers; fidelity.py compares.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from attention_hashing.data.labelled import Labelled
from attention_hashing.deployment import fidelity, onnx_file, quantize
from attention_hashing.network import AttentionHashing, Deployed
from bitgaze import Contract, Encoder
from bitgaze.encoding.images import load

# More make no measurable difference, and each takes half a second.
_CALIBRATION_IMAGES = 100

Convert = Callable[[onnx.ModelProto, Deployed], onnx.ModelProto]


def write_int8(
    network: AttentionHashing,
    contract: Contract,
    images: list[Path],
    out: Path,
    check: Labelled,
    calibration: list[Path],
    target: str,
) -> tuple[Encoder, fidelity.Comparison]:
    """Write a model file that computes in 8-bit integers, unless it loses too much.

    Args:
        network: trained or fitted.
        contract: of the float32 model.
        images: to compare the float32 model with torch on.
        out: the .onnx file.
        check: images that the network was not trained on, to compare with float32 on.
        calibration: images to measure ranges on; no more than a hundred of them are used.
        target: a key of `quantize.TARGETS`.

    Returns:
        An encoder for the file, and the comparison.

    Raises:
        ExportError: a limit of `fidelity` is exceeded, or float32 differs from torch; `out` is
            unchanged.
        ImageError: an image cannot be read.
    """
    pixels = calibration_pixels(calibration, contract)

    def convert(model: onnx.ModelProto, deployed: Deployed) -> onnx.ModelProto:
        return quantize.int8(model, deployed, pixels, target)

    training = contract.training | {"int8": f"for {target}, calibrated on {len(pixels)} images"}
    contract = replace(contract, precision="int8", training=training)
    return _write(network, contract, images, out, check, convert)


def calibration_pixels(images: list[Path], contract: Contract) -> NDArray[np.uint8]:
    """Up to a hundred of these images as network input: uint8 (n, size, size, 3).

    Raises:
        ImageError: an image cannot be read.
    """
    step = max(1, len(images) // _CALIBRATION_IMAGES)
    some = images[::step][:_CALIBRATION_IMAGES]
    return np.stack([load(path, contract.preprocess) for path in some])


def write_fp16(
    network: AttentionHashing,
    contract: Contract,
    images: list[Path],
    out: Path,
    check: Labelled,
) -> tuple[Encoder, fidelity.Comparison]:
    """Write a model file that computes in float16; otherwise as `write_int8`."""

    def convert(model: onnx.ModelProto, _: Deployed) -> onnx.ModelProto:
        return fp16(model)

    contract = replace(contract, precision="fp16")
    return _write(network, contract, images, out, check, convert)


def fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a model's convolutions to float16, for processors with native support.

    Input normalisation, attention and hash layer stay float32.

    Args:
        model: float32, with batch normalisation folded.

    Returns:
        A new model.
    """
    halved = {node.name for node in quantize.convolutional_nodes(model)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half = convert_float_to_float16(
        copy,
        keep_io_types=True,
        op_block_list=[],
        node_block_list=[node.name for node in model.graph.node if node.name not in halved],
    )
    sorted_model = ONNXModel(half)
    sorted_model.topological_sort()  # the casts were appended at the end
    return sorted_model.model


def _write(
    network: AttentionHashing,
    contract: Contract,
    images: list[Path],
    out: Path,
    check: Labelled,
    convert: Convert,
) -> tuple[Encoder, fidelity.Comparison]:
    deployed, model = onnx_file.graph(network, contract)
    smaller = convert(model, deployed)
    for one in (model, smaller):
        onnx_file.store_as_float16(one)
    pixels = np.stack([load(one, contract.preprocess) for one in check.images])
    tolerance = fidelity.tolerance(smaller, pixels)
    if tolerance > 1:
        raise onnx_file.ExportError(
            f"hash values differ by {tolerance:.2g} between two ways to compute them (limit 1); "
            "nothing was kept"
        )
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        plain = replace(contract, precision="fp32")
        reference = onnx_file.save(model, plain, Path(folder) / "float32.onnx")
        onnx_file.compare(deployed, reference, images)
        contract = replace(contract, tolerance=tolerance)
        draft = onnx_file.save(smaller, contract, Path(folder) / "smaller.onnx")
        expected = fidelity.encoded(reference, check)
        found = fidelity.compare(reference, expected, draft, check)
        if excesses := found.excesses(is_sized=contract.precision == "int8"):
            raise onnx_file.ExportError(
                f"{contract.precision} loses too much: {'; '.join(excesses)}; nothing was kept\n"
                f"{found}"
            )
        draft.model.path.replace(out)
    return Encoder(out), found
