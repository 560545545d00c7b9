"""Writes a network as a model file: export, shrink, add the contract, compare with torch, keep."""

import copy
import io
import logging
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from attention_hashing.network import AttentionHashing, Deployed
from bitgaze.encoding.contract import METADATA_KEY, Contract, Golden
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import load
from bitgaze.hamming import pack

OPSET = 18
# Of hash values with unit variance, between onnxruntime and torch, both in float32 on a CPU.
TOLERANCE = 1e-3
# Smaller tensors stay float32: they are biases and scales, of negligible size.
_SMALLER_FROM_ELEMENTS = 1024
_GOLDEN_IMAGES = 3
# How far from an integer a weight divided by its scale may be; that of a rounded scale is off by
# 5e-4 at 127.
_ON_GRID = 2e-3
_LARGEST_INTEGER = 127


class ExportError(Exception):
    """The exported file does not compute what the network computes."""


def write_model(
    network: AttentionHashing, contract: Contract, images: list[Path], out: Path
) -> Encoder:
    """Export a network, compare the file with torch on real images, then move it into place.

    Weights are stored as float16 and cast in the graph, which halves the file; those that were
    8-bit integers are stored as such. The torch network that it is compared with has the same
    weights.

    Args:
        network: trained or fitted.
        contract: without golden examples, which are added here.
        images: to compare on, at least one.
        out: the .onnx file.

    Returns:
        An encoder for `out`.

    Raises:
        ExportError: values differ by more than 1e-3, or a bit differs whose value is farther than
            that from 0.
        ImageError: an image cannot be read.
    """
    deployed, model = graph(network, contract)
    store_as_int8(model)
    store_as_float16(model)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        draft = Path(folder) / out.name
        compare(deployed, save(model, contract, draft), images)
        draft.replace(out)
    return Encoder(out)


def graph(network: AttentionHashing, contract: Contract) -> tuple[Deployed, onnx.ModelProto]:
    """The network as deployed, in torch and as an ONNX graph.

    In both, large weights are rounded to float16 but stored as float32. Weights that were 8-bit
    integers stay multiples of their scales.

    Args:
        network: trained or fitted.
        contract: of the model; its input's size and whether it can look apply.

    Raises:
        ExportError: folding batch normalisation changes the output.
    """
    size, looks = contract.preprocess.size, contract.looks is not None
    deployed = Deployed(folded(network), looks).eval()
    _check_folding(Deployed(network).eval(), deployed, size)
    _round_weights(deployed)
    model = export(deployed, size, deployed.outputs)
    _strip(model)
    return deployed, model


def compare(deployed: Deployed, encoder: Encoder, images: list[Path]) -> float:
    """Compare both on the same images.

    Returns:
        The largest difference between hash values.

    Raises:
        ExportError: they differ too much; see `write_model`.
    """
    pixels = np.stack([load(path, encoder.contract.preprocess) for path in images])
    with torch.inference_mode():
        code, values, attention = (t.numpy() for t in deployed(torch.from_numpy(pixels))[:3])
    found = encoder.encode(list(pixels))
    difference = float(np.abs(found.hashes - values).max())
    if difference > TOLERANCE:
        raise ExportError(
            f"hash values differ from torch by {difference:.2g}, more than {TOLERANCE}"
        )
    if (worst := float(np.abs(found.attention - attention).max())) > TOLERANCE:
        raise ExportError(f"attention differs from torch by {worst:.2g}, more than {TOLERANCE}")
    flipped = np.unpackbits(found.codes, axis=1) != np.unpackbits(code, axis=1)
    if (flipped & (np.abs(values) > TOLERANCE)).any():
        raise ExportError(f"{int(flipped.sum())} bits differ from torch")
    if not np.array_equal(found.codes, pack(found.hashes)):
        raise ExportError("the packed code is not the sign of the hash values")
    return difference


def folded(network: AttentionHashing) -> AttentionHashing:
    """Fold each batch normalisation into the layer before it.

    This is done in float64, so that the result does not depend on the machine.
    """
    network = copy.deepcopy(network).eval().double()
    for module in list(network.modules()):
        children = dict(module.named_children())
        for conv_name, norm_name in _pairs(children):
            conv, norm = children[conv_name], children[norm_name]
            fuse = fuse_linear_bn_eval if isinstance(conv, nn.Linear) else fuse_conv_bn_eval
            setattr(module, conv_name, fuse(conv, norm))
            setattr(module, norm_name, nn.Identity())
    return network.float()


def _check_folding(before: Deployed, after: Deployed, size: int) -> None:
    """Compare the outputs: modules are folded in the order of definition, not that of use."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (1, size, size, 3), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        difference = float((before(image)[1] - after(image)[1]).abs().max())
    if not difference <= TOLERANCE:
        raise ExportError(
            f"hash values change by {difference:.2g} when batch normalisation is folded into the "
            "layer named before it; define each one right after the layer that it follows"
        )


def _pairs(children: dict[str, nn.Module]) -> list[tuple[str, str]]:
    """Names of layers with weights, each with the batch normalisation that directly follows."""
    names = [name for name, child in children.items() if not isinstance(child, nn.Identity)]
    pairs = []
    weighted: str | None = None
    for name in names:
        if isinstance(children[name], nn.Conv2d | nn.Linear):
            weighted = name
        # Not subclasses, which may do more: timm's include the activation.
        elif type(children[name]) in (nn.BatchNorm1d, nn.BatchNorm2d) and weighted is not None:
            pairs.append((weighted, name))
            weighted = None
    return pairs


def _round_weights(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() < _SMALLER_FROM_ELEMENTS:
                continue
            integers = as_integers(parameter.numpy())
            rounded = parameter.half().float() if integers is None else _product(*integers)
            parameter.copy_(torch.as_tensor(rounded))


def export(module: nn.Module, size: int, outputs: list[str]) -> onnx.ModelProto:
    """Export a module with input `image`, uint8 (B, size, size, 3); rounds no weights."""
    # The exporter would take a batch size of one for a constant.
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    # The exporter reports that torchvision is missing, and warns about its own internals.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    return program.model_proto


def as_integers(
    values: NDArray[np.float32],
) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Find out whether weights are multiples of one scale per output, by -127 to 127.

    Args:
        values: of a convolution or a dense layer, the outputs first. The largest magnitude of most
            outputs, or else of all, is 127 times its scale, as in quantised files.

    Returns:
        Integers, in the shape of `values`, and scales (outputs, 1, ...) whose products with them
        are exact in float32; None if they are not.
    """
    if values.ndim < 2:
        return None
    rows = values.reshape(len(values), -1)
    largest = np.maximum(np.abs(rows).max(1, keepdims=True), np.finfo(np.float32).tiny)
    for peak in (largest, np.full_like(largest, largest.max())):
        scale = _short(peak / np.float32(_LARGEST_INTEGER))
        left = ~_on_grid(rows, scale)
        if 2 * left.sum() >= len(rows):
            continue
        for integer in range(_LARGEST_INTEGER - 1, 0, -1):  # of an output that uses a part of them
            if not left.any():
                break
            scale[left] = _short(largest[left] / np.float32(integer))
            left[left] = ~_on_grid(rows[left], scale[left])
        if not left.any():
            integers = np.round(rows / scale).astype(np.int8).reshape(values.shape)
            return integers, scale.reshape(-1, *(1,) * (values.ndim - 1))
    return None


def _on_grid(rows: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which rows are multiples of their scale by at most _LARGEST_INTEGER."""
    steps = rows / scale
    near = np.abs(steps - np.round(steps)).max(1) < _ON_GRID
    found: NDArray[np.bool_] = near & (np.abs(steps).max(1) < _LARGEST_INTEGER + 0.5)
    return found


def _short(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scales rounded to 17 bits, so that products with 7-bit integers are exact in float32."""
    part, exponent = np.frexp(scale)
    return np.ldexp(np.round(part * 2.0**17) / 2.0**17, exponent).astype(np.float32)


def _product(integers: NDArray[np.int8], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return integers.astype(np.float32) * scale


def store_as_int8(model: onnx.ModelProto) -> None:
    """Store weights that are products of 8-bit integers and scales as both; no value changes.

    onnxruntime multiplies once, on loading, and computes in float32 as before.
    """
    graph = model.graph
    nodes = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALLER_FROM_ELEMENTS:
            continue
        found = as_integers(values)
        if found is not None and np.array_equal(_product(*found), values):
            nodes += dequantised(graph, tensor, *found)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def dequantised(
    graph: onnx.GraphProto,
    tensor: TensorProto,
    integers: NDArray[np.int8],
    scale: NDArray[np.float32],
) -> list[onnx.NodeProto]:
    """Replace an initialiser by integers and scales.

    Returns:
        The nodes that compute it from them, to be put before all others.
    """
    name = tensor.name
    stored, floats, factor = (f"{name}.{part}" for part in ("int8", "cast", "scale"))
    tensor.CopyFrom(numpy_helper.from_array(integers, stored))
    graph.initializer.append(numpy_helper.from_array(scale, factor))
    return [
        helper.make_node("Cast", [stored], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [floats, factor], [name]),
    ]


def store_as_float16(model: onnx.ModelProto) -> None:
    """Store large float32 weights as float16, with a Cast that onnxruntime folds on loading.

    Only weights that float16 represents exactly are converted, so no value changes.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.data_type != TensorProto.FLOAT or values.size < _SMALLER_FROM_ELEMENTS:
            continue
        half = values.astype(np.float16)
        if np.array_equal(half, values):
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, name + ".half"))
            casts.append(helper.make_node("Cast", [name + ".half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's debugging information: sources, lines, paths of this machine."""
    graph = model.graph
    del graph.value_info[:]
    del model.metadata_props[:]
    del graph.metadata_props[:]
    for entry in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        entry.doc_string = ""
        if hasattr(entry, "metadata_props"):
            del entry.metadata_props[:]


def save(model: onnx.ModelProto, contract: Contract, path: Path) -> Encoder:
    """Write a model file, with golden examples that the file itself produced.

    Args:
        model: the graph, whose metadata is replaced.
        contract: without golden examples.
        path: of the .onnx file.

    Returns:
        An encoder for the file.
    """
    _write(model, contract, path)
    with Encoder(path) as encoder:
        golden = _golden(encoder)
    _write(model, replace(contract, golden=golden), path)
    return Encoder(path)


def _write(model: onnx.ModelProto, contract: Contract, path: Path) -> None:
    _strip(model)
    model.metadata_props.add(key=METADATA_KEY, value=contract.to_json())
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _golden(encoder: Encoder) -> tuple[Golden, ...]:
    """Small images for the contract, with their codes.

    They are smooth random colours: photographs would have an owner.
    """
    golden = []
    for seed in range(_GOLDEN_IMAGES):
        colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
        image = Image.fromarray(colours).resize((40, 40), Image.Resampling.BICUBIC)
        stream = io.BytesIO()
        image.save(stream, "png")
        png = stream.getvalue()
        golden.append(Golden(png, encoder.encode([png]).codes[0].tobytes()))
    return tuple(golden)
