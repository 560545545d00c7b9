"""The training side: data, branch, both stages, resuming."""

import dataclasses
import gzip
import importlib
import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from attention_hashing import bfloat16, checkpoint, progress, provenance, training
from attention_hashing.attention import AttentionBranch
from attention_hashing.backbones import with_classifier
from attention_hashing.config import Config, new_network
from attention_hashing.data import labelled
from attention_hashing.data.errors import DataError
from attention_hashing.evaluation.neighbours import HeldOut
from attention_hashing.looking import RULE, evidence, explicit
from attention_hashing.methods import DEFAULT, METHODS
from attention_hashing.network import pack, pooled
from bitgaze import hamming
from bitgaze.encoding.images import Preprocess, load
from conftest import ROOT, smooth_image

TINY = Config(bits=16, size=32, branch_epochs=1, hash_epochs=2, batch_size=8, hidden=8)
CPU = torch.device("cpu")


class Killed(Exception):
    pass


@pytest.fixture
def class_folders(tmp_path):
    """Two classes that are easy to distinguish: reddish and bluish images."""
    root = tmp_path / "data"
    for name, tint in (("blue", (0, 0, 160)), ("red", (160, 0, 0))):
        (root / name).mkdir(parents=True)
        for seed in range(12):
            tinted = Image.blend(
                smooth_image(seed, (32, 32)), Image.new("RGB", (32, 32), tint), 0.8
            )
            tinted.save(root / name / f"{seed}.png")
    return root


def write_idx(folder, images, labels, opener=gzip.open, suffix=".gz"):
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        with opener(folder / f"train-{name}-ubyte{suffix}", "wb") as file:
            file.write(header + array.astype(np.uint8).tobytes())


def test_class_folders(class_folders):
    data = labelled.read(class_folders)
    assert data.classes == ("blue", "red")
    assert len(data) == 24
    assert data.labels.tolist() == [0] * 12 + [1] * 12
    assert all(
        p.parent.name == data.classes[y] for p, y in zip(data.images, data.labels, strict=True)
    )


def test_a_train_folder_is_used_and_test_ignored(class_folders, tmp_path):
    for name in ("train", "test"):
        (tmp_path / "both" / name).parent.mkdir(exist_ok=True)
    class_folders.rename(tmp_path / "both" / "train")
    (tmp_path / "both" / "test" / "green").mkdir(parents=True)
    smooth_image(1).save(tmp_path / "both" / "test" / "green" / "1.png")
    assert labelled.read(tmp_path / "both").classes == ("blue", "red")


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files(tmp_path, packed):
    images = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    options = {} if packed else {"opener": open, "suffix": ""}
    write_idx(tmp_path, images, np.array([0, 1, 2, 0, 1, 2]), **options)
    data = labelled.read(tmp_path)
    assert np.array_equal(data.images, images)
    assert data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    image, one_hot = labelled.Views(data, Preprocess(32), epoch_seed=None)[4]
    assert image.shape == (32, 32, 3)
    assert one_hot.tolist() == [0, 1, 0]


def test_fashion_mnist_where_it_is_installed():
    folder = labelled.Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian package dataset-fashion-mnist is not installed")
    data = labelled.read(folder)
    assert len(data) == 60_000
    assert len(data.classes) == 10
    assert np.bincount(data.labels).tolist() == [6000] * 10


def test_data_that_cannot_be_trained_on(tmp_path, class_folders):
    with pytest.raises(DataError, match="none: not a folder"):
        labelled.read(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="found 0 class"):
        labelled.read(tmp_path / "empty")
    (tmp_path / "one" / "cats").mkdir(parents=True)
    smooth_image(1).save(tmp_path / "one" / "cats" / "1.png")
    with pytest.raises(DataError, match="found 1 class, expected at least 2"):
        labelled.read(tmp_path / "one")
    (tmp_path / "one" / "dogs").mkdir()
    smooth_image(1).save(tmp_path / "one" / "dogs" / "1.png")
    with pytest.raises(DataError, match="class 'cats' has 1 image"):
        labelled.read(tmp_path / "one")
    (class_folders / "red" / "broken.png").write_text("text")
    with pytest.raises(DataError, match=r"repair or remove these images.*\n.*broken\.png"):
        labelled.check_readable(labelled.read(class_folders), Preprocess(32))


def test_damaged_idx_files(tmp_path):
    images = np.zeros((4, 28, 28))
    write_idx(tmp_path, images, np.array([0, 1, 0]))
    with pytest.raises(DataError, match="4 images, but 3 labels"):
        labelled.read(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))
    with pytest.raises(DataError, match="not an IDX file"):
        labelled.read(tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"contains neither train-labels-idx1-ubyte nor .*\.gz"):
        labelled.read(tmp_path)


def test_held_out_images_come_from_every_class(class_folders):
    data = labelled.read(class_folders)
    rest, held = data.split(0.25, seed=3)
    assert np.bincount(held.labels).tolist() == [3, 3]
    assert set(rest.images) | set(held.images) == set(data.images)
    assert not set(rest.images) & set(held.images)
    assert data.split(0.25, seed=3)[1].images == held.images
    assert data.split(0.25, seed=4)[1].images != held.images


def test_random_views_depend_on_seed_and_position_alone(class_folders):
    data = labelled.read(class_folders)
    first = labelled.Views(data, Preprocess(32), epoch_seed=1)
    again = labelled.Views(data, Preprocess(32), epoch_seed=1)
    other = labelled.Views(data, Preprocess(32), epoch_seed=2)
    order = [5, 0, 23]
    expected = [first[i][0] for i in reversed(order)][::-1]
    assert all(torch.equal(again[i][0], e) for i, e in zip(order, expected, strict=True))
    assert not torch.equal(other[5][0], first[5][0])
    plain = labelled.Views(data, Preprocess(32), epoch_seed=None)
    assert not torch.equal(plain[5][0], first[5][0])


def test_the_pretrained_backbone_recognises_what_it_was_trained_on(examples):
    """The classifier's output for images with known ImageNet classes."""
    backbone, weight, bias = with_classifier()
    backbone.eval()
    branch = AttentionBranch.from_classifier(weight, bias).eval()
    from skimage import data as known  # photographs with free licences, included in the package

    for image, classes in (
        (known.chelsea(), {281, 282, 285}),  # cats: tabby, tiger cat, Egyptian cat
        (known.coffee(), {504, 967, 968, 923, 925}),  # coffee mug, espresso, cup, plate, consomme
    ):
        from bitgaze.encoding.images import load

        pixels = torch.from_numpy(load(np.asarray(image), Preprocess(224)))[None]
        x = (pixels.permute(0, 3, 1, 2).float() - backbone.mean) / backbone.std
        with torch.inference_mode():
            logits, attention = branch(backbone(x))
        assert int(logits.argmax()) in classes
        assert attention.shape == (1, 7, 7)


@pytest.mark.parametrize("has_several", [False, True])
@pytest.mark.parametrize("hidden", [0, 6])
def test_the_branch_equals_its_definition(hidden, has_several):
    """The shortcut by linearity, compared with class maps, probabilities and a sum written out."""
    torch.manual_seed(0)
    branch = AttentionBranch(5, 4, hidden, has_several).eval()
    features = torch.randn(3, 5, 6, 7)
    with torch.inference_mode():
        logits, attention = branch(features)
        maps = branch.class_maps(features)
    assert maps.shape == (3, 4, 6, 7)
    assert torch.allclose(logits, maps.mean((2, 3)), atol=1e-5)
    probability = logits.softmax(1)
    if has_several:
        probability = logits.sigmoid()
        maps = torch.stack(
            [
                torch.stack([one - min(one.mean(), 0) for one in some])  # of each class by itself
                for some in maps
            ]
        )
    with torch.inference_mode():
        places = branch.places(features, logits)
    for row in range(3):
        order = probability[row].argsort(descending=True)
        assert torch.equal(places.number[row], order)
        assert torch.allclose(places.probability[row], probability[row, order])
        assert torch.allclose(places.maps[row], maps[row, order], atol=1e-5)
    expected = (probability[:, :, None, None] * maps).sum(1).clamp(min=0)
    expected = expected / (expected.amax((1, 2), keepdim=True) + 1e-4)
    assert torch.allclose(attention, expected, atol=1e-4)
    assert attention.min() >= 0
    assert attention.max() <= 1


def test_attention_decides_the_local_feature():
    features = torch.zeros(1, 2, 2, 2)
    features[0, 0, 0, 0] = 8.0
    features[0, 1, 1, 1] = 4.0
    attention = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    expected = torch.tensor([[2.0, 1.0, 8.0, 0.0]])  # two means, then the values at the top left
    assert torch.allclose(pooled(features, attention), expected, atol=1e-2)
    nowhere = pooled(features, torch.zeros(1, 2, 2))
    assert torch.equal(nowhere, torch.tensor([[2.0, 1.0, 0.0, 0.0]]))


def test_the_exported_pack_agrees_with_the_one_in_numpy():
    values = torch.randn(50, 24)
    values[0, :3] = torch.tensor([0.0, -0.0, 1e-30])  # a bit is set above 0, not at 0
    packed = pack(values, 2.0 ** torch.arange(7, -1, -1))
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), hamming.pack(values.numpy()))


def weights(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_each_stage_trains_its_own_layers(class_folders, tmp_path, monkeypatch):
    data = labelled.read(class_folders)
    start = weights(new_network(TINY, 2))
    seen = []
    save = checkpoint.save

    def keep(network, *rest):
        seen.append(weights(network))
        save(network, *rest)

    monkeypatch.setattr(checkpoint, "save", keep)
    training.train(data, TINY, tmp_path, CPU)
    after_one, after_two = seen[0], seen[-1]
    changed_one = {name.split(".")[0] for name in start if not after_one[name].equal(start[name])}
    changed_two = {
        name.split(".")[0] for name in start if not after_two[name].equal(after_one[name])
    }
    assert changed_one == {"backbone", "branch"}
    assert changed_two == {"backbone", "project", "normalise"}


def test_a_method_learns_and_gets_the_progress_of_training(class_folders, tmp_path, monkeypatch):
    steps, made = [], []

    class Spy(METHODS["greedyhash"]):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

        def loss(self, hash, labels, step):
            assert (labels.sum(1) == 1).all()
            steps.append(step)
            return super().loss(hash, labels, step)

    monkeypatch.setitem(METHODS, "greedyhash", Spy)
    config = dataclasses.replace(TINY, method="greedyhash")
    training.train(labelled.read(class_folders), config, tmp_path, CPU)
    # 24 images in batches of 8, for two epochs; none in stage 1.
    assert steps == pytest.approx([n / 6 for n in range(6)])
    assert not made[0].classify.equal(METHODS["greedyhash"](2, 16, 0).classify)


# Runs `train` in a process that is killed in the middle of its third epoch.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from attention_hashing import training
from attention_hashing.data import labelled
from attention_hashing.config import Config
from test_learning import SMALL
batches, loss = [], training._loss
def until_killed(*arguments):
    batches.append(1)
    if len(batches) == 8:  # there are 3 per epoch
        os.kill(os.getpid(), signal.SIGKILL)
    return loss(*arguments)
training._loss = until_killed
training.train(labelled.read(Path(sys.argv[1])), SMALL, Path(sys.argv[2]), torch.device("cpu"))
"""
SMALL = dataclasses.replace(
    TINY, backbone="resnet18-small", stride=8, size=8, backbone_rate=1.0, precision="bfloat16"
)


def test_a_killed_process_ends_with_the_same_weights(class_folders, tmp_path):
    """From scratch, and in bfloat16."""
    data = labelled.read(class_folders)
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    expected = weights(training.train(data, SMALL, tmp_path / "undisturbed", CPU))
    path = os.pathsep.join(map(str, [ROOT / "export", ROOT / "tests", ROOT / "runtime"]))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, class_folders, tmp_path / "killed"],
        # With another number of threads, sums would be in another order.
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    saved = torch.load(tmp_path / "killed" / "checkpoint.pt", weights_only=True)
    assert saved["epoch"] == 2
    found = weights(training.train(data, SMALL, tmp_path / "killed", CPU))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


def test_bfloat16_is_the_backbones_alone(class_folders, tmp_path, monkeypatch):
    seen = {}

    def look(name):
        def hook(module, inputs, output):
            seen[name] = getattr(output, "hash", output).dtype

        return hook

    def watched(*arguments):
        network = new_network(*arguments)
        for name in ("backbone", "project", "normalise"):
            getattr(network, name).register_forward_hook(look(name))
        network.branch.register_forward_pre_hook(
            lambda module, inputs: seen.update(branch=inputs[0].dtype)
        )
        return network

    monkeypatch.setattr(training, "new_network", watched)
    network = training.train(labelled.read(class_folders), SMALL, tmp_path, CPU)
    rest = dict.fromkeys(("project", "normalise", "branch"), torch.float32)
    assert seen == {"backbone": torch.bfloat16, **rest}
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_which_precision_is_fast(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert bfloat16.fast_precision(CPU, "resnet18-small") == "bfloat16"
    assert bfloat16.fast_precision(CPU, "efficientnet-lite0") == "float32"
    assert bfloat16.fast_precision(torch.device("cuda"), "efficientnet-lite0") == "bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    assert bfloat16.fast_precision(CPU, "resnet18-small") == "float32"


def test_the_backbones_rate_is_a_factor():
    network = new_network(SMALL, 2)
    method = METHODS[DEFAULT](2, 16, 0)
    config = dataclasses.replace(SMALL, backbone_rate=0.25, learning_rate=0.008)
    optimiser, _ = training._optimiser(network, method, "hash", config, 2, 24)
    new, old = optimiser.param_groups
    assert (new["initial_lr"], old["initial_lr"]) == (0.008, 0.002)
    assert {id(p) for p in old["params"]} == {id(p) for p in network.backbone.parameters()}


def test_several_labels_have_equal_weight():
    network = new_network(SMALL, 3).eval()
    method = METHODS[DEFAULT](3, 16, 0)
    config = dataclasses.replace(SMALL, precision="float32")
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    one_hot = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    found = training._loss(network, method, config, "branch", image, one_hot, 0.0)
    logs = network(image).logits.log_softmax(1)
    expected = -(0.5 * logs[0, 0] + 0.5 * logs[0, 2] + logs[1, 1]) / 2
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_several_labels_are_learned_each_by_itself():
    config = dataclasses.replace(SMALL, precision="float32", several_labels=True)
    network = new_network(config, 3).eval()
    method = METHODS[DEFAULT](3, 16, 0)
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    one_hot = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    found = training._loss(network, method, config, "branch", image, one_hot, 0.0)
    p = network(image).logits.sigmoid()
    assert found.item() == pytest.approx(
        -(one_hot * p + (1 - one_hot) * (1 - p)).log().mean().item()
    )


def test_labels_and_configuration_agree(class_folders, tmp_path):
    data = labelled.read(class_folders)
    with pytest.raises(ValueError, match="several_labels is True, but images have one label each"):
        training.train(data, dataclasses.replace(TINY, several_labels=True), tmp_path, CPU)
    data = labelled.Labelled(data.images, data.one_hot() > 0, data.classes)
    with pytest.raises(ValueError, match="several_labels is False, but images may have several"):
        training.train(data, TINY, tmp_path, CPU)


# GreedyHash has a classifier to store, MDSH a bank.
@pytest.mark.parametrize(
    ("epoch", "method"), [(1, DEFAULT), (2, DEFAULT), (2, "greedyhash"), (2, "mdsh")]
)
def test_an_interrupted_run_ends_with_the_same_weights(
    class_folders, tmp_path, monkeypatch, epoch, method
):
    config = dataclasses.replace(TINY, method=method)
    data = labelled.read(class_folders)
    for name in ("undisturbed", "interrupted"):
        (tmp_path / name).mkdir()
    expected = weights(training.train(data, config, tmp_path / "undisturbed", CPU))

    save = checkpoint.save

    def save_then_die(network, method, config, data, digest, run, number, *rest):
        save(network, method, config, data, digest, run, number, *rest)
        if number == epoch:
            raise Killed

    monkeypatch.setattr(checkpoint, "save", save_then_die)
    with pytest.raises(Killed):
        training.train(data, config, tmp_path / "interrupted", CPU)
    with pytest.raises(ValueError, match=f"stopped after epoch {epoch} of 3; run train.py again"):
        checkpoint.load_checkpoint(tmp_path / "interrupted" / "checkpoint.pt")
    monkeypatch.setattr(checkpoint, "save", save)
    found = weights(training.train(data, config, tmp_path / "interrupted", CPU))
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_best_epoch_of_the_last_stage_is_used(
    class_folders, tmp_path, monkeypatch, interrupted
):
    data = labelled.read(class_folders)
    figures, seen = {1: 0.9, 2: 0.75, 3: 0.5}, {}

    def validate(network, stage):
        assert not network.training
        epoch = len(seen) + 1
        assert stage == ("branch" if epoch == 1 else "hash")
        seen[epoch] = weights(network)
        return figures[epoch]

    save = checkpoint.save

    def save_then_die(*arguments):
        save(*arguments)
        if len(seen) == 2:
            raise Killed

    if interrupted:
        monkeypatch.setattr(checkpoint, "save", save_then_die)
        with pytest.raises(Killed):
            training.train(data, SMALL, tmp_path, CPU, validate=validate)
        monkeypatch.setattr(checkpoint, "save", save)
    network = training.train(data, SMALL, tmp_path, CPU, validate=validate)
    loaded, _, state = checkpoint.load_checkpoint(tmp_path / "checkpoint.pt")
    for found in (weights(network), weights(loaded)):
        assert all(found[name].equal(value) for name, value in seen[2].items())
    assert not all(state["network"][name].equal(value) for name, value in seen[2].items())
    best = checkpoint.stored_best(tmp_path)
    assert (best["epoch"], best["validation"]) == (2, 0.75)
    head, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert head == "epoch,stage,loss,validation,seconds"
    rows = [line.split(",") for line in lines]
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("1", "branch", "0.9"), ("2", "hash", "0.75"), ("3", "hash", "0.5"),
    ]  # fmt: skip
    assert all(float(row[2]) > 0 and float(row[4]) >= 0 for row in rows)


def test_measuring_does_not_change_training(class_folders, tmp_path):
    """Held-out figures as train.py takes them."""
    rest, held_out = labelled.read(class_folders).split(0.25, 0)
    for name in ("measured", "not"):
        (tmp_path / name).mkdir()
    figures = []

    def validate(network, stage):
        figures.append(HeldOut(SMALL, held_out, rest)(network, stage))
        return figures[-1]

    training.train(rest, SMALL, tmp_path / "measured", CPU, validate=validate)
    training.train(rest, SMALL, tmp_path / "not", CPU)
    states = [
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)
        for name in ("measured", "not")
    ]
    assert all(v.equal(states[1]["network"][n]) for n, v in states[0]["network"].items())
    assert states[1]["best"] is None
    assert [row["validation"] for row in states[0]["history"]] == figures
    assert all(0 < figure <= 1 for figure in figures)


def test_a_rehearsal_measures_each_stage(class_folders):
    data = labelled.read(class_folders)
    found = training.rehearse(data, SMALL, CPU, steps=1)
    assert set(found) == {"branch", "hash"}
    assert all(0 < seconds < 60 for seconds in found.values())
    assert training.steps_of(24, SMALL) == {"branch": 3, "hash": 6}
    looking = dataclasses.replace(SMALL, looks=2)
    assert training.steps_of(24, looking) == {"branch": 3, "hash": 18}
    assert training.steps_of(24, looking, done=2) == {"branch": 0, "hash": 9}
    alone = dataclasses.replace(SMALL, hash_epochs=0)
    assert set(training.rehearse(data, alone, CPU, steps=1)) == {"branch"}


def test_a_run_forecasts_its_end_once(monkeypatch, capsys):
    now = iter(range(1000))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now) * 97.0)
    forecast = progress.Forecast(700, CPU)
    for _ in range(700):
        forecast.step()
    printed = capsys.readouterr().err
    assert printed.startswith("100 steps: 1.00 s each, about 10 min for the other 600; ")
    assert printed.count("\n") == 1
    bound = progress.Forecast(700, CPU, is_bound=True)
    for _ in range(100):
        bound.step()
    assert "1.00 s each, up to 10 min for the other 600; " in capsys.readouterr().err
    short = progress.Forecast(100, CPU)
    for _ in range(100):
        short.step()
    assert capsys.readouterr().err == ""
    assert [progress.as_time(s) for s in (40, 600, 9000)] == ["40 s", "10 min", "2.5 h"]


def test_a_checkpoint_of_another_run_is_refused(class_folders, tmp_path):
    data = labelled.read(class_folders)
    training.train(data, TINY, tmp_path, CPU)
    other = Config(**{**TINY.__dict__, "bits": 32})
    with pytest.raises(ValueError, match="belongs to another run .* or another --out"):
        training.train(data, other, tmp_path, CPU)


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match="not a checkpoint of train.py"):
        checkpoint.load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: not a checkpoint of train.py"):
        checkpoint.load_checkpoint(path)

    network = new_network(TINY, 2)
    good = {
        "config": dict(TINY.__dict__),
        "classes": ["blue", "red"],
        "images": 24,
        "digest": "0" * 64,
        "epoch": 3,
        "network": network.state_dict(),
        "optimiser": {},
        "scheduler": {},
        "method": {},
        "versions": {},
    }
    torch.save(good, path)
    assert checkpoint.load_checkpoint(path)[1] == TINY
    for name in good:
        torch.save({**good, name: None}, path)
        with pytest.raises(ValueError, match=f"not a checkpoint of train.py .it has no {name}"):
            checkpoint.load_checkpoint(path)
    for change in ({"momentum": 0.9}, {"bits": 12}):
        torch.save({**good, "config": {**good["config"], **change}}, path)
        with pytest.raises(
            ValueError, match=f"this version cannot read the configuration: .*{next(iter(change))}"
        ):
            checkpoint.load_checkpoint(path)
    incomplete = dict(good["network"])
    del incomplete["project.weight"]
    torch.save({**good, "network": incomplete}, path)
    with pytest.raises(ValueError, match=r"weights do not fit its configuration: .*\n.*project"):
        checkpoint.load_checkpoint(path)


def test_a_checkpoint_from_before_there_were_methods_and_backbones(class_folders, tmp_path):
    data = labelled.read(class_folders)
    once = dataclasses.replace(TINY, method="orthohash-supplement")  # no longer the default
    expected = weights(training.train(data, once, tmp_path, CPU))
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state.pop("method") == {}
    for name in ("method", "backbone", "stride", "backbone_rate", "precision", "branch"):
        del state["config"][name]
    torch.save(state, path)
    network, config, _ = checkpoint.load_checkpoint(path)
    assert config == once
    assert all(network.state_dict()[name].equal(expected[name]) for name in expected)
    training.train(data, once, tmp_path, CPU)  # the same run: nothing to do


def test_a_checkpoint_with_the_former_names(class_folders, tmp_path):
    """The default loss was "ours", and images were pictures."""
    data = labelled.read(class_folders)
    once = dataclasses.replace(TINY, method="orthohash-supplement")
    training.train(data, once, tmp_path, CPU)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    assert state["config"]["method"] == "orthohash-supplement"
    state["config"]["method"] = "ours"
    state["pictures"] = state.pop("images")
    torch.save({**state, "layer": {"method": "ours", "seed": 3}}, path)
    _, config, read = checkpoint.load_checkpoint(path)
    assert config == once
    assert (read["images"], read["layer"]["method"]) == (24, "orthohash-supplement")
    assert checkpoint.stored_config(tmp_path) == once
    torch.save(state, path)
    training.train(data, once, tmp_path, CPU)  # the same run: nothing to do


def test_a_checkpoint_says_what_made_it(tmp_path, monkeypatch):
    versions = checkpoint._versions()
    assert versions["torch"] == str(torch.__version__)
    assert versions["numpy"] == np.__version__
    assert versions.keys() == {"commit", "python", "torch", "numpy", "pillow"}
    if (ROOT / ".git").exists():
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True)
        assert versions["commit"].removesuffix("-dirty") == head.strip()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert checkpoint._versions()["commit"] is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert checkpoint._versions()["commit"] is None


def test_a_run_is_not_resumed_with_other_images(class_folders, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    training.train(labelled.read(class_folders), TINY, run, CPU)
    moved = class_folders.rename(tmp_path / "moved")  # the same images elsewhere
    training.train(labelled.read(moved), TINY, run, CPU)
    smooth_image(99, (33, 33)).save(moved / "red" / "3.png")
    with pytest.raises(ValueError, match="was trained on other images: .* or choose another --out"):
        training.train(labelled.read(moved), TINY, run, CPU)


def test_the_digest_of_arrays_covers_their_content():
    images = np.zeros((4, 28, 28), np.uint8)
    labels = np.array([0, 1, 0, 1], np.int64)
    digest = labelled.Labelled(images, labels, ("0", "1")).digest()
    assert labelled.Labelled(images.copy(), labels, ("0", "1")).digest() == digest
    assert labelled.Labelled(images, 1 - labels, ("0", "1")).digest() != digest
    images[3, 5, 5] = 1
    assert labelled.Labelled(images, labels, ("0", "1")).digest() != digest


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 100),
        ("stride", 8),
        ("backbone_rate", 0.0),
        ("learning_rate", float("nan")),
        ("branch_epochs", 0),
        ("bits", 12),
        ("bits", 0),
        ("batch_size", 1),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_a_configuration_out_of_range(name, value):
    with pytest.raises(ValueError, match=rf"{name} (is {value}|must be .*, got {value}$)"):
        Config(**{name: value})


def script(name, *arguments, **options):
    return subprocess.run(
        [sys.executable, ROOT / "export" / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        **options,
    )


def test_the_scripts_from_images_to_a_searchable_gallery(class_folders, tmp_path):
    """train.py, to_onnx.py and the runtime, as a user would call them."""
    from bitgaze import Encoder, Gallery

    run = tmp_path / "run"
    sizes = ["--size", 32, "--branch-epochs", 2, "--hash-epochs", 2, "--batch-size", 8]
    done = script("train.py", class_folders, "--out", run, "--bits", 24, *sizes)
    assert done.returncode == 0, done.stderr
    assert "2 classes, 22 images to train on, 2 held out" in done.stdout
    assert "of their 10 nearest neighbours share their class" in done.stdout
    model = tmp_path / "mine.onnx"
    done = script("to_onnx.py", run / "checkpoint.pt", "--out", model, "--name", "mine")
    assert done.returncode == 0, done.stderr
    encoder = Encoder(model)
    assert f"fingerprint {encoder.fingerprint}" in done.stdout
    assert (encoder.bits, encoder.contract.name) == (24, "mine")
    assert encoder.contract.classes == ("blue", "red")
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(class_folders)
        hits = gallery.search(class_folders / "red" / "3.png", k=8)
        assert hits[0].distance == 0
        assert sum("/red/" in hit.key for hit in hits) >= 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "none"], "train.py: none: not a folder"),
        (["train.py", ".", "--bits", "12"], "train.py: bits must be a multiple of 8"),
        (
            ["train.py", ".", "--method", "csqq"],
            "train.py: method is 'csqq', expected one of splits, ",
        ),
        (["train.py", "data", "--device", "tpu"], "train.py: torch cannot use a device 'tpu' here"),
        (["train.py", "data", "--holdout", "2"], "train.py: the held-out share is 2.0"),
        (["train.py", "data", "--holdout", "0.99"], "train.py: a held-out share of 0.99 leaves"),
        (["train.py", "data", "--batch-size", "0"], "train.py: batch_size is 0, expected at least"),
        (
            ["train.py", "data", "--batch-size", "1"],
            "train.py: batch_size is 1, expected at least 2",
        ),
        (
            ["to_onnx.py", "--out", "no/x.onnx"],
            "to_onnx.py: no/x.onnx: the folder no does not exist",
        ),
        (["to_onnx.py", "none.pt"], "to_onnx.py: .*none.pt"),
        (["to_onnx.py", "--images", "no", "--out", "x.onnx"], "to_onnx.py: no: contains no images"),
        (
            ["evaluate.py", "data", "--queries", "0"],
            "evaluate.py: queries is 0, expected at least 1",
        ),
        (["evaluate.py", "data", "--queries", "-5"], "evaluate.py: queries is -5"),
        (["evaluate.py", "data", "--seed", "-1"], "evaluate.py: seed is -1, expected at least 0"),
        (
            ["fit_general.py", ".", "--out", "x.npz", "--bits", "12"],
            "fit_general.py: bits must be a multiple of 8",
        ),
        (
            ["fit_general.py", ".", "--out", "x.npz", "--bits", "-8"],
            "fit_general.py: bits must be a multiple of 8",
        ),
        (
            ["fit_general.py", ".", "--out", "x.npz", "--seed", "-1"],
            "fit_general.py: seed is -1, expected at least 0",
        ),
        (["fit_general.py", "."], "fit_general.py: 24 images for 128 bits"),
    ],
)
def test_mistakes_on_the_command_line(
    class_folders, tmp_path, arguments, message, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", arguments)
    assert importlib.import_module(arguments[0].removesuffix(".py")).main() == 2
    error = capsys.readouterr().err
    assert re.match(message, error), error


def test_looks_are_learned_and_kept_when_a_run_is_resumed(class_folders, tmp_path, monkeypatch):
    data = labelled.read(class_folders)
    config = dataclasses.replace(TINY, looks=2)
    shown = []
    real = training.with_looks

    def remembered(*arguments):
        shown.append(real(*arguments))
        return shown[-1]

    monkeypatch.setattr(training, "with_looks", remembered)
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    expected = training.train(data, config, run, CPU)
    assert len(data) < len(shown[0]) <= 3 * len(data)
    assert shown[0].images[: len(data)] == data.images
    for region, row in zip(shown[0].images[len(data) :], shown[0].labels[len(data) :], strict=True):
        own = data.labels[data.images.index(region.source)]
        assert row.tolist() == [own == 0, own == 1]  # by its class or by the attention

    save = checkpoint.save

    def stopped(*arguments):
        save(*arguments)
        if arguments[6] == config.branch_epochs + 1:
            raise KeyboardInterrupt

    other.mkdir()
    monkeypatch.setattr(checkpoint, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        training.train(data, config, other, CPU)
    monkeypatch.setattr(checkpoint, "save", save)
    kept = (other / "looks.json").read_bytes()
    (other / "looks.json").unlink()
    with pytest.raises(ValueError, match=r"looks.json is missing; without it"):
        training.train(data, config, other, CPU)
    old = [[[box, -1] for box, _ in some] for some in json.loads(kept)]  # as once
    (other / "looks.json").write_text(json.dumps(old))
    with pytest.raises(ValueError, match=r"looks.json has -1 as the label of a look, expected a"):
        training.train(data, config, other, CPU)
    (other / "looks.json").write_bytes(kept)
    found = training.train(data, config, other, CPU)
    looks = [[(one.source, one.box) for one in some.images[len(data) :]] for some in shown]
    assert looks[0] == looks[-1]
    for one, two in zip(expected.parameters(), found.parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_impossible_number_of_looks():
    with pytest.raises(ValueError, match="looks is 4, expected 0 to 3"):
        dataclasses.replace(TINY, looks=4)


def test_a_model_looks_where_the_branch_of_its_training_looks(tmp_path):
    """From images of two labels to looks of the exported file, in the contract and by evaluate."""
    from bitgaze import Encoder

    folder = tmp_path / "set"
    folder.mkdir()
    tints = {"blue": (0, 0, 200), "green": (0, 160, 0), "red": (200, 0, 0)}
    lines = []
    for seed in range(36):
        pair = [name for place, name in enumerate(tints) if place != seed % 3]
        image = Image.new("RGB", (128, 64))
        for place, name in enumerate(pair):
            tint = Image.new("RGB", (64, 64), tints[name])
            image.paste(Image.blend(smooth_image(seed, (64, 64)), tint, 0.8), (64 * place, 0))
        image.save(folder / f"{seed}.png")
        lines.append(f"{seed}.png\t{','.join(pair)}")
    (folder / "annotations.tsv").write_text("\n".join(lines) + "\n")
    run, model = tmp_path / "run", tmp_path / "mine.onnx"
    done = script(
        "train.py", folder, "--out", run, "--bits", 16, "--size", 128, "--branch-epochs", 8,
        "--hash-epochs", 1, "--batch-size", 9, "--looks", 2, "--holdout", 0, "--frozen-blocks", 16,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = script("to_onnx.py", run / "checkpoint.pt", "--out", model)
    assert done.returncode == 0, done.stderr
    network, config, _ = checkpoint.load_checkpoint(run / "checkpoint.pt")
    assert (config.looks, config.several_labels) == (2, True)
    paths = sorted(folder.glob("*.png"))[:6]
    with Encoder(model) as encoder:
        assert encoder.contract.looks == dataclasses.replace(RULE, most=2)
        found = encoder.encode(paths, looks=None)
    assert found.looks.shape == (6, 2, 2)
    pixels = np.stack([load(path, config.preprocess) for path in paths])
    with torch.inference_mode():
        seen = evidence([network.features(torch.from_numpy(pixels))], network.branch)
    rule = dataclasses.replace(RULE, most=2)
    expected = explicit(seen, np.zeros((6, 3), np.float32), np.zeros(0, np.intp), rule)
    labels = [[place.label for place in places] for places in expected]
    assert max(sum(label >= 0 for label in some) for some in labels) == 2
    assert found.look_classes.tolist() == labels
    # The file's weights are rounded to float16, which can move an edge by a step of the grid.
    boxes = [[place.box for place in places] for places in expected]
    np.testing.assert_allclose(found.boxes, boxes, atol=1 / 16)
    (folder / "labels.csv").write_text("".join(line.replace("\t", ",") + "\n" for line in lines))
    done = script("evaluate.py", folder, "--model", model, "--looks", 2)
    assert done.returncode == 0, done.stderr
    assert "mAP with looks" in done.stdout


def test_a_model_without_looks_in_training_has_none(class_folders, tmp_path):
    import to_onnx

    data = labelled.read(class_folders)
    training.train(data, TINY, tmp_path, CPU)
    _, contract = to_onnx.trained(tmp_path / "checkpoint.pt", None)
    assert contract.looks is None
