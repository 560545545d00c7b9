"""The scripts that compare, ablate, label and refit, from end to end, on few small images."""

import json
import sys

import numpy as np
import pytest
import torch

import ablate
import compare
import evaluate
import pseudo_label
import refit
import to_onnx
import train
from attention_hashing import heads
from attention_hashing.checkpoint import load_trained
from attention_hashing.data import labelled, protocols
from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import Labelled
from attention_hashing.experiments import ablations, comparison, results, scattered_parts
from attention_hashing.methods import DEFAULT
from attention_hashing.network import HashLayer
from bitgaze.encoding.images import Preprocess, load
from conftest import smooth_image
from test_compare import serially


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Few rates and epochs, and one process: test_compare.py runs cells in several."""
    monkeypatch.setattr(comparison, "_in_parallel", serially)
    monkeypatch.setattr(comparison, "RATES", (1e-3, 1e-2))
    monkeypatch.setattr(comparison, "_BRANCH_EPOCHS", 2)
    monkeypatch.setattr(ablate, "_RATES", (1e-4, 1e-3))


@pytest.fixture
def small(monkeypatch, tmp_path):
    """CIFAR-10 with 24 images per class, of which protocols take 3 and 12; and a document."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 24)
    tint = random.integers(0, 256, (10, 1, 1, 3))[labels]
    noise = random.integers(0, 256, (240, 32, 32, 3))
    images = ((tint * 3 + noise) // 4).astype(np.uint8)
    data = Labelled(images, labels, tuple("abcdefghij"))
    monkeypatch.setattr(protocols, "images", lambda name, folder: data)
    monkeypatch.setattr(protocols, "_QUERIES", 3)
    monkeypatch.setattr(protocols, "_TRAINING", 12)
    document = tmp_path / "results.md"
    monkeypatch.setattr(results.write_section, "__defaults__", (document, ""))
    return document


def call(monkeypatch, script, *arguments):
    monkeypatch.setattr(sys, "argv", [script.__name__ + ".py", *map(str, arguments)])
    return script.main()


def test_compare(small, monkeypatch, tmp_path, capsys):
    arguments = [
        "--cifar10", tmp_path, "--protocols", "cifar10", "cifar10-1", "cifar10-unseen",
        "--methods", DEFAULT, "lsh", "float", "--bits", 8, "--seeds", 0,
        "--size", 32, "--out", tmp_path / "run", "--results",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    text = small.read_text()
    for title in ("Methods on cifar10\n", "Methods on cifar10-1\n", "The branch under every loss"):
        assert title in text
    assert f"| {DEFAULT}, with the branch | " in text
    # Images of one tint are alike: a tenth would be chance.
    rows = [line for line in text.splitlines() if line.startswith(f"| {DEFAULT}, with the branch")]
    assert float(rows[0].split("|")[2].strip(" *")) > 0.4
    assert call(monkeypatch, compare, *arguments) == 0  # nothing to do
    assert small.read_text() == text
    capsys.readouterr()


def test_choosing_a_method_within_the_training_images(small, monkeypatch, tmp_path, capsys):
    arguments = [
        "--cifar10", tmp_path, "--protocols", "cifar10", "cifar10-1", "cifar10-unseen",
        "--methods", DEFAULT, "dsh", "--bits", 8, "--seeds", 0,
        "--size", 32, "--out", tmp_path / "run", "--results", "--within-training",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    text = small.read_text()
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert "Methods on" not in text
    head, _, *rows = table
    names = [f"{name}, within training" for name in ("cifar10", "cifar10-unseen")]
    assert head == ["loss", *names, "mean"]
    assert {row[0] for row in rows} == {DEFAULT, "dsh"}
    for row in rows:
        seen, unseen, mean = map(float, row[1:])
        assert mean == pytest.approx((seen + unseen) / 2, abs=0.0011)
    assert rows[0][-1] >= rows[1][-1]
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, compare, *arguments, "--looks", 2)
    assert "--within-training: the table has no" in capsys.readouterr().err


def test_the_branch_of_some_methods_only(small, monkeypatch, tmp_path):
    arguments = [
        "--cifar10", tmp_path, "--protocols", "cifar10", "--methods", DEFAULT, "dsh", "--bits", 8,
        "--seeds", 0, "--size", 32, "--out", tmp_path / "run", "--results", "--branch-of", DEFAULT,
    ]  # fmt: skip
    small.write_text("<!-- export/compare.py branch -->\nof every loss\n<!-- end -->\n")
    assert call(monkeypatch, compare, *arguments) == 0
    assert "of every loss" in small.read_text()
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    cells = [one for one in map(json.loads, lines) if one["kind"] == "cell"]
    forms = {(one["method"], one["form"]) for one in cells}
    assert forms == {(DEFAULT, "global"), (DEFAULT, "guided"), ("dsh", "global")}


def test_compare_with_looks(small, monkeypatch, tmp_path, capsys):
    """Images of two objects with two labels, of which looks see one each."""
    random = np.random.default_rng(0)
    tints = random.integers(0, 256, (6, 3))
    one_hot = np.zeros((90, 6), bool)
    images = random.integers(0, 256, (90, 64, 128, 3))
    for image, row in zip(images, one_hot, strict=True):
        for place, label in enumerate(random.choice(6, 2, replace=False)):
            row[label] = True
            image[:, 64 * place : 64 * (place + 1)] = (
                image[:, 64 * place : 64 * (place + 1)] + 7 * tints[label]
            ) // 8
    data = Labelled(images.astype(np.uint8), one_hot, tuple("abcdef"))
    monkeypatch.setattr(protocols, "images", lambda name, folder: data)
    monkeypatch.setattr(protocols, "_QUERIES_OF_ALL", 12)
    monkeypatch.setattr(protocols, "_TRAINING_OF_ALL", 50)
    monkeypatch.setattr(comparison, "_BRANCH_EPOCHS", 12)
    old = "<!-- export/compare.py branch -->\nmeasured\n<!-- end -->"
    small.write_text(f"# Results\n\n{old}\n")
    arguments = [
        "--voc2012", tmp_path, "--methods", "csq", "lsh", "--bits", 16, "--seeds", 0,
        "--size", 64, "--looks", 2, "--out", tmp_path / "run", "--results",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    text = small.read_text()
    assert old in text
    assert "Looks under every loss on voc2012" in text
    lines = (tmp_path / "run" / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    found = {(row["form"], row["protocol"]): row["map"] for row in rows if row["kind"] == "cell"}
    with np.load(next((tmp_path / "run").glob("voc2012-*-0-looks-2.npz"))) as file:
        counts = np.bincount(file["images"], minlength=90)
        drawn = protocols.draw("voc2012", data, 0)
        assert (counts[drawn.training] > 0).all()
        assert counts.max() <= 2
        known = np.isin(file["images"], drawn.training) & (file["labels"] >= 0)
        assert known.any()
        assert one_hot[file["images"][known], file["labels"][known]].all()
    for protocol in ("voc2012", "voc2012-others"):
        assert found["looks", protocol] != found["global", protocol]
    assert call(monkeypatch, compare, *arguments) == 0  # nothing to do
    assert small.read_text() == text
    assert call(monkeypatch, compare, *arguments, "--looks", 1) == 2
    assert "contains a run with looks 2 (now 1)" in capsys.readouterr().err


def test_a_comparison_of_baselines_leaves_other_tables_alone(small, monkeypatch, tmp_path, capsys):
    old = "<!-- export/compare.py branch -->\nmeasured\n<!-- end -->"
    small.write_text(f"# Results\n\n{old}\n")
    arguments = [
        "--cifar10", tmp_path, "--protocols", "cifar10", "--methods", "lsh", "class-id",
        "--bits", 8, "--seeds", 0, "--size", 32, "--out", tmp_path / "run", "--results",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    text = small.read_text()
    assert old in text
    assert "| lsh | " in text
    assert "against the best rival" not in text
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocols", "cifar10"], "cifar10 requires --cifar10 DIR"),
        (["--protocols", "fashion-mnist"], "fashion-mnist requires --fashion-mnist DIR"),
        ([], "no images: pass at least one of --cifar10, --fashion-mnist, --voc2012, --g"),
    ],
)
def test_compare_without_a_set(arguments, message, monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, compare, *arguments, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_compare_of_other_images(small, monkeypatch, tmp_path, capsys):
    """They have the same labels, and so the same keys of rows."""
    arguments = [
        "--cifar10", tmp_path, "--protocols", "cifar10", "--methods", "lsh", "--bits", 8,
        "--seeds", 0, "--size", 32, "--out", tmp_path / "run",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    assert "| lsh | " in capsys.readouterr().out
    data = protocols.images("cifar10", tmp_path)
    other = Labelled(255 - data.images, data.labels, data.classes)
    monkeypatch.setattr(protocols, "images", lambda name, folder: other)
    assert call(monkeypatch, compare, *arguments) == 2
    assert "contains a run with images of cifar10 " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", -1], "--seeds -1: expected 0..4294967294"),
        (["--seeds", 1, 1], "--seeds: 1 is listed twice"),
        (["--bits", 8, 8], "--bits: 8 is listed twice"),
        (["--bits", 12], "--bits must be a multiple of 8 from 8 to 1024, got 12"),
        (
            ["--methods", "dsh", "dsh"],
            "--methods: dsh is listed twice",
        ),
        (["--backbones", "a", "a"], "--backbones: a is listed twice"),
        (["--protocols", "mnist"], "invalid choice: 'mnist'"),
        (["--looks", 4], "--looks 4: expected 0 to 3"),
        (["--looks", 1, "--backbones", "a"], "--backbones: the table has no looks"),
    ],
)
def test_compare_with_wrong_arguments(arguments, message, monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, compare, "--cifar10", tmp_path, "--out", out, *arguments)
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_compare_requires_every_set_before_it_reads_one(small, monkeypatch, tmp_path, capsys):
    arguments = ["--cifar10", tmp_path, "--out", tmp_path / "run", "--size", 32]
    arguments += ["--protocols", "cifar10", "fashion-mnist"]
    assert call(monkeypatch, compare, *arguments) == 2
    assert "fashion-mnist requires --fashion-mnist DIR" in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("*.npy"))


def scenes(folder, backgrounds):
    """Those of test_ablate."""
    drawn = protocols.draw("cifar10", protocols.images("cifar10", folder), 0)
    return scattered_parts.parts(drawn, images_below(backgrounds), (12, 48, 40, 20), 0)


def test_ablate(small, monkeypatch, tmp_path, capsys):
    backgrounds = tmp_path / "backgrounds"
    backgrounds.mkdir()
    for seed in range(10):
        smooth_image(seed, (160, 160)).save(backgrounds / f"{seed}.png")
    arguments = [
        "--cifar10", tmp_path, "--backgrounds", backgrounds, "--out", tmp_path / "run",
        "--seeds", 0, "--bits", 8, "--stride", 16, "--frozen-blocks", 11, "--training", 48,
        "--queries", 12, "--database", 40, "--validation", 20, "--backbone-epochs", 1,
        "--branch-epochs", 1, "--epochs", 1, "--hidden", 4, "--results",
    ]  # fmt: skip
    assert call(monkeypatch, ablate, *arguments) == 0
    text = small.read_text()
    assert "| explicit | " in text
    assert "| shuffled | " in text
    assert "pointing game" in text
    file = tmp_path / "run" / "rows.jsonl"
    rows = file.read_bytes()
    chosen = [json.loads(line) for line in rows.splitlines() if b'"kind": "rate"' in line]
    assert [row["variant"] for row in chosen] == list(ablations.VARIANTS)
    for row in chosen:
        assert len(row["validation"]) == len(ablate._RATES)
        assert row["validation"][str(row["rate"])] == max(row["validation"].values())
    # Chosen rates stay, even if the run was killed before they were used.
    file.write_bytes(rows[: rows.rindex(b'{"kind": "variant"')])
    assert call(monkeypatch, ablate, *arguments) == 0
    assert file.read_bytes() == rows
    assert small.read_text() == text
    # The stored maps are those of the trained backbone.
    trained, _, _ = load_trained(tmp_path / "run" / "backbone-0" / "checkpoint.pt")
    maps = np.load(tmp_path / "run" / "backbone-0" / "maps.npy")
    assert maps.shape == (12 + 48 + 40 + 20, 1280, 8, 8)
    scene = scenes(tmp_path, backgrounds).queries.scene(0)
    with torch.inference_mode():
        coarse = trained.features(torch.from_numpy(scene.image[None]))[0].numpy()
    np.testing.assert_allclose(maps[0][:, 1::2, 1::2], coarse, atol=0.02)
    capsys.readouterr()
    for changed in (["--bits", 16], ["--validation", 21], ["--database", 41], ["--hidden", 8]):
        assert call(monkeypatch, ablate, *arguments, *changed) == 2
        name = changed[0].strip("-")
        assert f"contains a run with {name} " in capsys.readouterr().err
    for mistake, message in (
        (["--stride", 12], "stride is 12, expected 32 or 16"),
        (["--backbone", "efficientnet-lte0"], "backbone is 'efficientnet-lte0', expected one of"),
        (["--frozen-blocks", 99], "frozen_blocks is 99"),
    ):
        other = ["--out", tmp_path / "other"]
        assert call(monkeypatch, ablate, *arguments, *other, *mistake) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "other").exists()
    smooth_image(10, (160, 160)).save(backgrounds / "a.png")
    assert call(monkeypatch, ablate, *arguments) == 2
    assert "contains a run with scenes of " in capsys.readouterr().err
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == rows


def test_ablate_over_a_published_backbone(small, monkeypatch, tmp_path, capsys):
    """All seeds share the maps, and the tables have their own sections."""
    backgrounds = tmp_path / "backgrounds"
    backgrounds.mkdir()
    for seed in range(10):
        smooth_image(seed, (160, 160)).save(backgrounds / f"{seed}.png")
    small.write_text("<!-- export/ablate.py variants over a trained backbone -->\n<!-- end -->\n")
    arguments = [
        "--cifar10", tmp_path, "--backgrounds", backgrounds, "--out", tmp_path / "run",
        "--seeds", 0, 1, "--bits", 8, "--stride", 32, "--training", 24, "--queries", 6,
        "--database", 10, "--validation", 6, "--backbone-epochs", 0,
        "--branch-epochs", 1, "--epochs", 1, "--hidden", 4, "--results",
    ]  # fmt: skip
    assert call(monkeypatch, ablate, *arguments) == 0
    text = small.read_text()
    assert "variants over a trained backbone -->\n<!-- end -->" in text
    assert "scattered scenes, over a backbone as it was published" in text
    assert len(list((tmp_path / "run").rglob("*.npy"))) == 1
    capsys.readouterr()
    own = ["--backbone", "resnet18-small", "--stride", 8]
    assert call(monkeypatch, ablate, *arguments, *own) == 2
    assert "resnet18-small has no published weights" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, ablate, *arguments, "--frozen-blocks", 5)
    assert "require a backbone that is trained" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", 12], "--bits must be a multiple of 8 from 8 to 1024, got 12"),
        (["--seeds", 0, 0], "--seeds: 0 is listed twice"),
        (["--seeds", -1], "--seeds -1: expected at least 0"),
        (["--hidden", 0], "--hidden 0: expected at least 1"),
        (["--epochs", 0], "--epochs 0: expected at least 1"),
        (["--branch-epochs", 0], "--branch-epochs 0: expected at least 1"),
        (["--backbone-epochs", -1], "--backbone-epochs -1: expected at least 0"),
        (["--training", 1], "--training 1: expected at least 2"),
        (["--queries", 0], "--queries 0: expected at least 1"),
        (["--database", 0], "--database 0: expected at least 1"),
        (["--validation", 1], "--validation 1: expected at least 2"),
    ],
)
def test_ablate_with_wrong_arguments(arguments, message, monkeypatch, tmp_path, capsys):
    sets = ["--cifar10", tmp_path, "--backgrounds", tmp_path, "--out", tmp_path / "run"]
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, ablate, *sets, *arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("backgrounds", ["none", "."])
def test_ablate_without_backgrounds(backgrounds, small, monkeypatch, tmp_path, capsys):
    folder = tmp_path / backgrounds
    arguments = ["--cifar10", tmp_path, "--backgrounds", folder, "--out", tmp_path / "run"]
    assert call(monkeypatch, ablate, *arguments) == 2
    assert f"{folder}: contains no images" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """CIFAR-10 as class folders with 14 images per class; no test changes them."""
    root = tmp_path_factory.mktemp("cifar") / "set"
    for name, first, count in (("train", 0, 10), ("test", 10, 4)):
        for label in "abcdefghij":
            folder = root / name / label
            folder.mkdir(parents=True)
            for number in range(first, first + count):
                smooth_image(ord(label) * 100 + number, (32, 32)).save(folder / f"{number:04}.png")
    return root


def take_few(monkeypatch):
    """Let protocols take 2 queries and 6 training images of each class."""
    monkeypatch.setattr(protocols, "_SETS", {"cifar10": 14, "fashion-mnist": 14})
    monkeypatch.setattr(protocols, "_QUERIES", 2)
    monkeypatch.setattr(protocols, "_TRAINING", 6)


@pytest.fixture
def folders(cifar, monkeypatch):
    take_few(monkeypatch)
    return cifar


def test_a_protocol_from_training_to_figures(folders, monkeypatch, tmp_path, capsys):
    run = tmp_path / "run"
    small = ["--size", 32, "--branch-epochs", 1, "--batch-size", 16, "--frozen-blocks", 15]
    arguments = [folders, "--out", run, "--protocol", "cifar10", *small]
    assert call(monkeypatch, train, *arguments, "--hash-epochs", 0) == 0
    printed = capsys.readouterr().out
    assert "10 classes, 60 images to train on, 0 held out" in printed
    assert f"--branch {run / 'branch.pt'}" in printed
    assert call(monkeypatch, evaluate, folders, "--protocol", "cifar10") == 0
    assert "20 queries, 60 in the database, 10 classes" in capsys.readouterr().out
    assert call(monkeypatch, evaluate, folders, "--protocol", "cifar10-1") == 0
    assert "20 queries, 120 in the database, 10 classes" in capsys.readouterr().out
    # A branch alone has no codes to export.
    assert call(monkeypatch, to_onnx, run / "checkpoint.pt", "--out", tmp_path / "x.onnx") == 2
    assert "only the branch was trained" in capsys.readouterr().err
    unseen = [folders, "--out", tmp_path / "unseen", "--protocol", "cifar10-unseen", *small]
    assert call(monkeypatch, train, *unseen, "--hash-epochs", 0) == 0
    assert "7 classes, 42 images to train on" in capsys.readouterr().out


def test_the_branch_on_several_backbones(folders, monkeypatch, tmp_path, capsys):
    """One pretrained, one trained on the same images; tables of one backbone are kept."""
    document = tmp_path / "results.md"
    document.write_text("<!-- export/compare.py cifar10 -->\nmeasured\n<!-- end -->\n")
    monkeypatch.setattr(results.write_section, "__defaults__", (document, ""))
    small = [
        folders, "--backbone", "resnet18-small", "--backbone-rate", 1, "--size", 32,
        "--branch-epochs", 1, "--batch-size", 16, "--hash-epochs", 0,
    ]  # fmt: skip
    run, other = tmp_path / "run", tmp_path / "other"
    assert call(monkeypatch, train, *small, "--out", run, "--protocol", "cifar10") == 0
    assert call(monkeypatch, train, *small, "--out", other) == 0
    kept = tmp_path / "kept"
    sets = [
        "--cifar10", folders, "--protocols", "cifar10", "--methods", DEFAULT, "--bits", 8,
        "--seeds", 0, "--out", kept, "--results", "--backbones",
    ]  # fmt: skip
    two = ["efficientnet-lite0", run / "checkpoint.pt"]
    assert call(monkeypatch, compare, *sets, *two, "--size", 32) == 0
    text = document.read_text()
    assert "measured" in text
    assert "Methods on" not in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip() for row in rows[:1]] == ["efficientnet-lite0-32"]
    assert rows[1][0].strip().startswith("resnet18-small-")
    for row in rows:
        assert [cell.strip() for cell in row[1:3]] == ["cifar10", DEFAULT]
        plain, guided, difference = (float(cell.split()[0].strip(" *")) for cell in row[3:])
        assert difference == pytest.approx(guided - plain, abs=0.0016)
    capsys.readouterr()
    branched = tmp_path / "branched"
    again = [*small[:-2], "--branch", other / "branch.pt", "--hash-epochs", 1, "--branch-epochs", 0]
    assert call(monkeypatch, train, *again, "--protocol", "cifar10", "--out", branched) == 0
    # All mistakes are found before the first maps are computed.
    (kept / next(kept.glob("cifar10-efficientnet-lite0-32-*.npy")).name).unlink()
    sets += ["efficientnet-lite0"]
    for name, message in (
        (other / "checkpoint.pt", "was not trained on the training images of cifar10"),
        (branched / "checkpoint.pt", "started from a stored branch whose training images are"),
        ("resnet18-small", "resnet18-small has no published weights; use a checkpoint.pt"),
        ("resnet", "backbone is 'resnet', expected one of efficientnet-lite0"),
        (tmp_path / "none.pt", "none.pt"),
    ):
        assert call(monkeypatch, compare, *sets, name, "--size", 32) == 2
        assert message in capsys.readouterr().err
    unseen = ["--protocols", "cifar10", "cifar10-unseen", "--size", 32]
    assert call(monkeypatch, compare, *sets, run / "checkpoint.pt", *unseen) == 2
    assert "not trained on the training images of cifar10-unseen" in capsys.readouterr().err
    assert not list(kept.glob("cifar10-efficientnet-lite0-32-*.npy"))
    for mistake in (["--methods", DEFAULT, "lsh"], ["--bits", 8, 16]):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, compare, *sets, run / "checkpoint.pt", *mistake)
        assert "the table has one length and no baselines" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        (evaluate, ["--protocol", "cifar10", "--queries", 5], "a protocol defines the queries"),
        (evaluate, ["--protocol", "cifar"], "protocol is 'cifar', expected one of cifar10, "),
        (train, ["--protocol", "cifar"], "protocol is 'cifar', expected one of cifar10, "),
        (evaluate, ["--protocol", "fashion-mnist"], "neither"),
    ],
)
def test_mistakes_with_protocols(script, arguments, message, folders, monkeypatch, capsys):
    assert call(monkeypatch, script, folders, *arguments) == 2
    assert message in capsys.readouterr().err


def train_on_protocol(cifar, run, *more):
    """A checkpoint that is trained once for the whole file."""
    arguments = [
        cifar, "--out", run, "--protocol", "cifar10", "--size", 32, "--branch-epochs", 1,
        "--batch-size", 16, "--frozen-blocks", 15, *more,
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        take_few(monkeypatch)
        assert call(monkeypatch, train, *arguments) == 0
    return run / "checkpoint.pt"


@pytest.fixture(scope="module")
def taught(cifar, tmp_path_factory):
    """A checkpoint trained to classify the training images of a protocol."""
    return train_on_protocol(cifar, tmp_path_factory.mktemp("teacher"), "--hash-epochs", 0)


def test_label_by_a_network(folders, taught, monkeypatch, tmp_path, capsys):
    out = tmp_path / "more"
    arguments = [taught, folders, "--protocol", "cifar10", "--out", out]
    assert call(monkeypatch, pseudo_label, *arguments, "--above", 0) == 0
    assert "60 of 60 images were labelled: " in capsys.readouterr().out
    listed = labelled.read(out)
    assert listed.classes == tuple("abcdefghij")
    assert len(listed) == 120
    images = protocols.images("cifar10", folders)
    drawn = protocols.draw("cifar10", images, 0)
    true = {images.images[at].resolve(): images.labels[at] for at in drawn.training}
    given = dict(zip(listed.images, listed.labels, strict=True))
    assert true.items() <= given.items()
    assert set(given) - set(true) == {images.images[at].resolve() for at in drawn.database}
    # Images without a confident label are omitted, and labelled ones keep theirs.
    assert call(monkeypatch, pseudo_label, *arguments, "--above", 1) == 0
    assert "0 of 60 images were labelled" in capsys.readouterr().out
    assert len(labelled.read(out)) == 60
    # From a folder that also contains the labelled images.
    few = tmp_path / "few"
    for name in "abcdefghij":
        (few / name).mkdir(parents=True)
        for number in range(2):
            (few / name / f"{number}.png").symlink_to(folders / "train" / name / f"{number:04}.png")
    some = folders / "train"
    assert call(monkeypatch, pseudo_label, taught, few, some, "--out", out, "--above", 0) == 0
    assert "80 of 80 images" in capsys.readouterr().out
    listed = labelled.read(out)
    assert len(listed) == 100
    given = dict(zip(listed.images, listed.labels, strict=True))
    for path in few.rglob("*.png"):
        assert listed.classes[given[path.resolve()]] == path.parent.name


def test_mistakes_with_labels(folders, taught, monkeypatch, tmp_path, capsys):
    out = ["--out", tmp_path / "more"]
    other = tmp_path / "other"
    for name in ("x", "y"):
        (other / name).mkdir(parents=True)
        for number in range(2):
            smooth_image(number, (32, 32)).save(other / name / f"{number}.png")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    broken.mkdir()
    smooth_image(0, (32, 32)).save(broken / "whole.png")
    (broken / "cut.png").write_bytes((broken / "whole.png").read_bytes()[:60])
    several = tmp_path / "several"
    several.mkdir()
    for name in "pq":
        smooth_image(0, (32, 32)).save(several / f"{name}.png")
    (several / "train.txt").write_text("p.png 1 1\nq.png 1 1\n")
    all_of_it = tmp_path / "all"
    arguments = [
        folders, "--out", all_of_it, "--size", 32, "--branch-epochs", 1, "--batch-size", 16,
        "--frozen-blocks", 15, "--hash-epochs", 0,
    ]  # fmt: skip
    assert call(monkeypatch, train, *arguments) == 0
    for arguments, message in (
        ([taught, folders, broken], "cut.png"),
        ([taught, several, folders], "images have several labels; only one per image is"),
        ([taught, folders, folders / "train"], "train: contains no images except labelled"),
        (
            [all_of_it / "checkpoint.pt", folders, "--protocol", "cifar10"],
            "was not trained on the training images of cifar10; train it with train.py",
        ),
        (
            [taught, other, folders],
            "has the classes a, b, c, d, e, f, g, h, i, j; the labelled images have x",
        ),
        ([taught, folders, tmp_path / "empty"], "empty: contains no images"),
        ([tmp_path / "none.pt", folders, folders], "none.pt"),
    ):
        assert call(monkeypatch, pseudo_label, *arguments, *out) == 2
        assert message in capsys.readouterr().err
    for arguments in (
        [taught, folders],
        [taught, folders, folders, "--protocol", "cifar10"],
        [taught, folders, "--protocol", "cifar10-unseen"],
        [taught, tmp_path / "more", folders],
        [taught, folders, folders, "--above", 1.5],
    ):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, pseudo_label, *arguments, *out)
    assert "--above 1.5: expected a probability" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.fixture(scope="module")
def whole(cifar, tmp_path_factory):
    """As `taught`, with a hash layer."""
    more = ["--hash-epochs", 1, "--bits", 16]
    return train_on_protocol(cifar, tmp_path_factory.mktemp("whole"), *more)


def test_another_hash_layer(folders, whole, monkeypatch, tmp_path, capsys):
    out = tmp_path / "short"
    arguments = [whole, folders, "--protocol", "cifar10", "--out", out, "--method", "hashnet"]
    assert call(monkeypatch, refit, *arguments, "--bits", 24, "--learning-rate", 1e-2) == 0
    assert "60 images have " in capsys.readouterr().out
    before, after = (load_trained(path)[0] for path in (whole, out / "checkpoint.pt"))
    assert after.bits == 24
    for part in ("backbone", "branch"):
        weights = getattr(before, part).state_dict()
        for name, value in getattr(after, part).state_dict().items():
            assert torch.equal(value, weights[name]), name
    # The layer has learned: codes of one class are closer to each other than to others.
    data = protocols.images("cifar10", folders)
    chosen = protocols.draw("cifar10", data, 0).training
    images = [load(data.images[at], Preprocess(32)) for at in chosen]
    with torch.inference_mode():
        values = after(torch.from_numpy(np.stack(images))).hash.numpy()
    signs = np.where(values > 0, 1, -1)
    alike = data.labels[chosen][:, None] == data.labels[chosen]
    likeness = signs @ signs.T / 24
    assert likeness[alike].mean() > likeness[~alike].mean() + 0.1
    contract = to_onnx.trained(out / "checkpoint.pt", None)[1]
    assert contract.bits == 24
    assert contract.training["layer"]["method"] == "hashnet"
    # By default the settings are those of the previous layer, not of the training.
    for source, bits, method in (
        (whole, 16, DEFAULT),
        (out / "checkpoint.pt", 24, "hashnet"),
    ):
        same = tmp_path / f"same-{bits}"
        assert call(monkeypatch, refit, source, folders / "train", "--out", same) == 0
        contract = to_onnx.trained(same / "checkpoint.pt", None)[1]
        assert (contract.bits, contract.training["layer"]["method"]) == (bits, method)
    # A run cannot be resumed from it.
    again = [folders, "--out", out, "--protocol", "cifar10", "--size", 32, "--bits", 24]
    assert call(monkeypatch, train, *again) == 2
    assert "has a hash layer from refit.py" in capsys.readouterr().err


def test_mistakes_with_another_hash_layer(folders, taught, whole, monkeypatch, tmp_path, capsys):
    other = tmp_path / "other"
    for name in ("x", "y"):
        (other / name).mkdir(parents=True)
        for number in range(2):
            smooth_image(number, (32, 32)).save(other / name / f"{number}.png")
    out = ["--out", tmp_path / "new"]
    for arguments, message in (
        ([taught, folders / "train"], "only the branch was trained"),
        ([whole, other], "has the classes a, b, c, d, e, f, g, h, i, j; the images have x, y"),
        (
            [whole, folders / "train", "--bits", 12],
            "bits must be a multiple of 8 from 8 to 1024, got 12",
        ),
        (
            [whole, folders / "train", "--method", "csp"],
            f"--method csp: expected one of {DEFAULT}",
        ),
        ([whole, folders / "train", "--seed", -1], "--seed -1: expected 0.."),
        ([tmp_path / "none.pt", folders], "none.pt"),
    ):
        assert call(monkeypatch, refit, *arguments, *out) == 2
        assert message in capsys.readouterr().err
    for arguments, message in (
        (["--epochs", 0, *out], "--epochs 0: expected at least 1"),
        (["--learning-rate", 0, *out], "--learning-rate 0.0: expected a number above 0"),
        (["--out", whole.parent], "must differ from the folder of the checkpoint"),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, refit, whole, folders, *arguments)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.fixture
def small_run(folders, tmp_path, monkeypatch):
    """A run of a few seconds over the training images as class folders."""
    run = tmp_path / "run"
    small = [
        folders, "--out", run, "--size", 32, "--branch-epochs", 1, "--hash-epochs", 1,
        "--batch-size", 16, "--frozen-blocks", 15, "--bits", 16,
    ]  # fmt: skip
    assert call(monkeypatch, train, *small) == 0
    return run


def test_a_run_says_which_epoch_it_uses_and_is_resumed(
    capsys, folders, small_run, monkeypatch, tmp_path
):
    printed = capsys.readouterr()
    assert "10 classes, 90 images to train on, 10 held out" in printed.out
    assert "epoch 2 is used, with the best figure of the held-out images, 0." in printed.out
    assert "epoch 1/2 (branch): loss " in printed.err
    before = (small_run / "checkpoint.pt").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, train, "--resume", small_run) == 0
    assert "10 classes, 90 images to train on, 10 held out, 16 bits" in capsys.readouterr().out
    assert (small_run / "checkpoint.pt").read_bytes() == before
    # Another run in the same folder changes nothing there.
    stored = (small_run / "run.json").read_text()
    assert call(monkeypatch, train, folders, "--out", small_run, "--size", 64) == 2
    assert "belongs to another run" in capsys.readouterr().err
    assert (small_run / "run.json").read_text() == stored
    for arguments, message in (
        ([], "expected a folder of labelled images, or --resume"),
        (["--resume", small_run, "--bits", 8], "takes all arguments from the run; omit bits"),
        (["--resume", tmp_path], "run.json does not exist; train.py writes it"),
    ):
        with pytest.raises(SystemExit, match="2"):
            call(monkeypatch, train, *arguments)
        assert message in capsys.readouterr().err
    (small_run / "run.json").write_text('{"colour": 1}')
    with pytest.raises(SystemExit, match="2"):
        call(monkeypatch, train, "--resume", small_run)
    assert "not written by this version of train.py" in capsys.readouterr().err


def test_a_dry_run_writes_nothing(folders, monkeypatch, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = [folders, "--size", 32, "--batch-size", 45, "--frozen-blocks", 15, "--looks", 1]
    assert call(monkeypatch, train, *arguments, "--out", out, "--dry-run") == 0
    printed = capsys.readouterr().out
    # Few images take more epochs: two steps each would make 6 and 14.
    assert "stage branch: 100 steps of " in printed
    assert "stage hash: up to 600 steps of " in printed
    assert "up to " in printed.splitlines()[-1]
    assert printed.endswith("GB of memory; nothing was written\n")
    assert not out.exists()


def test_a_worse_hash_layer_is_refused(folders, small_run, monkeypatch, tmp_path, capsys):
    """One that gives all images the same code; without it, one that is not worse is written."""
    capsys.readouterr()
    out = tmp_path / "new"
    arguments = [small_run / "checkpoint.pt", folders, "--out", out]
    with monkeypatch.context() as patched:
        patched.setattr(refit, "fit_layer", lambda features, *rest: HashLayer(
            np.zeros((features.shape[1], 16), np.float32), np.zeros(16, np.float32)
        ))  # fmt: skip
        assert call(monkeypatch, refit, *arguments) == 2
        printed = capsys.readouterr()
        assert "mAP of 10 held-out images: 0." in printed.out
        assert "flatters" not in printed.out
        assert "the new layer is worse, and was not written" in printed.err
        assert not (out / "checkpoint.pt").exists()
        assert call(monkeypatch, refit, *arguments, "--accept-worse") == 0
        assert (out / "checkpoint.pt").exists()
        assert "100 images have 1 different codes" in capsys.readouterr().out
        # Of other images it is not known whether they were trained on: nothing is refused.
        again = [out / "checkpoint.pt", folders, "--out", tmp_path / "again"]
        assert call(monkeypatch, refit, *again) == 0
        assert "which flatters the old layer" in capsys.readouterr().out
        assert call(monkeypatch, refit, *arguments, "--holdout", 0) == 0
        assert "held-out" not in capsys.readouterr().out


def test_few_images_are_refitted_for_more_epochs():
    assert heads.epochs_of(5000, 10, 400) == 10
    assert heads.epochs_of(216, 10, 400) == 134
    assert heads.epochs_of(20, 10, 400) == 400
