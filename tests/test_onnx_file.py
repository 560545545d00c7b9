"""The model file: what the export writes, checks and refuses."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from attention_hashing.deployment import onnx_file
from attention_hashing.general import model as general
from attention_hashing.network import Deployed
from bitgaze import Contract
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.images import Preprocess
from conftest import ROOT


@pytest.fixture(scope="module")
def shipped():
    return onnx.load(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def network():
    return general.with_layer(general.Fitted.load(ROOT / "export" / "general.npz").layer)


@pytest.fixture
def some_images(examples):
    return sorted(p for p in examples.rglob("*") if p.suffix in (".jpg", ".png"))[::20]


def test_exporting_twice_gives_the_shipped_model(tmp_path):
    """From two processes that run at the same time."""
    out = [tmp_path / "one.onnx", tmp_path / "two.onnx"]
    command = [sys.executable, ROOT / "export" / "to_onnx.py", "--out"]
    running = [
        subprocess.Popen([*command, path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for path in out
    ]
    for process in running:
        text, _ = process.communicate()
        assert process.returncode == 0, text.decode()
    fingerprints = [read_model(path).fingerprint for path in out]
    assert fingerprints == [read_model(DEFAULT_MODEL).fingerprint] * 2
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.onnx", "two.onnx"]


def test_the_graph_is_what_the_format_says(shipped):
    def describe(value):
        tensor = value.type.tensor_type
        shape = [d.dim_value or d.dim_param for d in tensor.shape.dim]
        return value.name, onnx.TensorProto.DataType.Name(tensor.elem_type), shape

    assert [describe(v) for v in shipped.graph.input] == [
        ("image", "UINT8", ["batch", 224, 224, 3])
    ]
    assert [describe(v) for v in shipped.graph.output] == [
        ("code", "UINT8", ["batch", 16]),
        ("hash", "FLOAT", ["batch", 128]),
        ("attention", "FLOAT", ["batch", 7, 7]),
        ("class_maps", "FLOAT", ["batch", 16, 7, 7]),
        ("class_probability", "FLOAT", ["batch", 16]),
        ("class_number", "INT64", ["batch", 16]),
    ]
    assert shipped.opset_import[0].version >= 18
    assert not any(t.external_data for t in shipped.graph.initializer)
    operators = {node.op_type for node in shipped.graph.node}
    assert not {"ArgMax", "ReduceMin"} & operators  # no arg-max of maps, no min-max scaling


def test_nothing_of_the_exporting_machine_is_inside(shipped):
    content = DEFAULT_MODEL.read_bytes()
    for trace in (b".py", b"site-packages", b"/home", b"/root", b"/work", b"stack_trace"):
        without_contract = content.replace(b"fit_general.py", b"")
        assert trace not in without_contract
    assert {p.key for p in shipped.metadata_props} == {"bitgaze"}
    assert not any(n.doc_string or n.metadata_props for n in shipped.graph.node)


def test_batch_normalisation_is_folded_without_a_change_of_values(network):
    folded = onnx_file.folded(network)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    image = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected, found = network(image), folded(image)
    assert torch.allclose(found.hash, expected.hash, atol=1e-4)
    assert torch.allclose(found.attention, expected.attention, atol=1e-4)


def test_a_file_that_differs_from_torch_is_refused(network, some_images, encoder):
    deployed = Deployed(onnx_file.folded(network)).eval()
    onnx_file._round_weights(deployed)
    assert onnx_file.compare(deployed, encoder, some_images) < onnx_file.TOLERANCE
    with torch.no_grad():
        deployed.network.project.bias += 0.01
    with pytest.raises(onnx_file.ExportError, match="hash values differ from torch by 0.01"):
        onnx_file.compare(deployed, encoder, some_images)


def test_a_refused_export_leaves_the_old_file(network, some_images, tmp_path, monkeypatch):
    def refuse(*_):
        raise onnx_file.ExportError("differs")

    monkeypatch.setattr(onnx_file, "compare", refuse)
    out = tmp_path / "model.onnx"
    out.write_bytes(b"the old one")
    contract = Contract("x", 128, Preprocess(224), "Apache-2.0")
    with pytest.raises(onnx_file.ExportError):
        onnx_file.write_model(network, contract, some_images, out)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"the old one"]


def test_the_deployed_code_is_the_sign_of_torchs_values(network, encoder, some_images):
    """The shipped file and torch at full precision produce nearly the same bits."""
    from bitgaze.encoding.images import load

    pixels = np.stack([load(p, encoder.contract.preprocess) for p in some_images])
    with torch.inference_mode():
        values = network(torch.from_numpy(pixels)).hash.numpy()
    shipped_bits = np.unpackbits(encoder.encode(list(pixels)).codes, axis=1)
    # float16 weights change values slightly: well below 1 % of the bits, as measured here.
    assert (shipped_bits != (values > 0)).mean() < 0.01


class OneConvolution(torch.nn.Module):
    """Of integers times a scale for each output, and a dense layer of arbitrary weights."""

    def __init__(self, weight):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 64, 3, bias=False)
        self.dense = torch.nn.Linear(64, 40)
        self.conv.weight = torch.nn.Parameter(weight)

    def forward(self, image):
        return self.dense(self.conv(image.permute(0, 3, 1, 2).float()).mean((2, 3)))


@pytest.mark.parametrize("is_per_output", [True, False])
def test_weights_that_were_integers_are_stored_as_integers(is_per_output, tmp_path):
    generator = torch.Generator().manual_seed(0)
    integers = torch.randint(-127, 128, (64, 3, 3, 3), generator=generator)
    integers[:, 0, 0, 0] = 127
    if is_per_output:
        integers[:9] //= 2  # outputs that use a part of the range
        integers[9] = 0  # and one that uses nothing
    else:
        integers[1:] //= 2
    scale = torch.rand(64 if is_per_output else 1, generator=generator) / 100 + 1e-3
    module = OneConvolution(integers * scale[:, None, None, None]).eval()
    onnx_file._round_weights(module)
    assert torch.allclose(module.conv.weight, integers * scale[:, None, None, None], rtol=1e-5)
    model = onnx_file.export(module, 16, ["values"])
    image = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3), np.uint8)
    before = len(model.SerializeToString()), outputs(model, image)
    onnx_file.store_as_int8(model)
    onnx_file.store_as_float16(model)
    onnx.checker.check_model(model, full_check=True)
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    stored = {name for name, kind in kinds.items() if kind == onnx.TensorProto.INT8}
    assert len(stored) == 1
    (found,) = (
        onnx.numpy_helper.to_array(one) for one in model.graph.initializer if one.name in stored
    )
    ratio = found.reshape(64, -1).max(1) / np.maximum(integers.reshape(64, -1).amax(1).numpy(), 1)
    assert np.array_equal(found, np.round(integers.numpy() * ratio[:, None, None, None]))
    assert onnx.TensorProto.FLOAT16 in kinds.values()  # the dense layer
    assert np.array_equal(outputs(model, image), before[1])
    assert len(model.SerializeToString()) < 0.6 * before[0]


def outputs(model, image):
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, {"image": image})[0]


def test_arbitrary_weights_are_no_integers():
    rng = np.random.default_rng(0)
    assert onnx_file.as_integers(rng.normal(size=(64, 64)).astype(np.float32)) is None
    assert onnx_file.as_integers(rng.normal(size=64).astype(np.float32)) is None


def test_the_larger_general_model_is_described():
    fitted = general.Fitted.load(ROOT / "export" / "general-large.npz")
    assert fitted.model == "general-large"
    assert fitted.command.startswith("python export/fit_general.py IMAGES --model general-large ")
    assert fitted.layer.weight.shape == (2 * 1280, 128)
    assert fitted.calibration.bits == 128


def test_the_fitted_layer_says_how_it_was_made():
    layer = Path(ROOT / "export" / "general.npz")
    assert layer.stat().st_size < 2_000_000
    fitted = general.Fitted.load(layer)
    assert fitted.command.startswith("python export/fit_general.py")
    contract = read_model(DEFAULT_MODEL).contract
    assert contract.training["command"] == fitted.command
    assert contract.calibration == fitted.calibration is not None
