"""compare.py and ablate.py from end to end, on few and small pictures."""

import sys

import numpy as np
import pytest

import ablate
import compare
from attention_hashing import protocols, results
from attention_hashing.data import Labelled
from conftest import picture


@pytest.fixture
def small(monkeypatch, tmp_path):
    """CIFAR-10 of 24 pictures a class, of which a protocol takes 3 and 12; and a document."""
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 24)
    tint = random.integers(0, 256, (10, 1, 1, 3))[labels]
    noise = random.integers(0, 256, (240, 32, 32, 3))
    pictures = ((tint * 3 + noise) // 4).astype(np.uint8)
    data = Labelled(pictures, labels, tuple("abcdefghij"))
    monkeypatch.setattr(protocols, "pictures", lambda name, folder: data)
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
        "--methods", "ours", "lsh", "float", "--bits", 8, "--seeds", 0,
        "--size", 32, "--out", tmp_path / "run", "--results",
    ]  # fmt: skip
    assert call(monkeypatch, compare, *arguments) == 0
    text = small.read_text()
    for title in ("Methods on cifar10\n", "Methods on cifar10-1\n", "The branch under every loss"):
        assert title in text
    assert "| ours, with the branch | " in text
    # Pictures of one tint are easy to tell from the others.
    rows = [line for line in text.splitlines() if line.startswith("| ours, with the branch")]
    assert float(rows[0].split("|")[2].strip(" *")) > 0.6
    assert call(monkeypatch, compare, *arguments) == 0  # nothing is left to do
    assert small.read_text() == text
    capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocols", "cifar10"], "cifar10 needs --cifar10 DIR"),
        (["--protocols", "fashion-mnist"], "fashion-mnist needs --fashion-mnist DIR"),
    ],
)
def test_compare_without_a_set(arguments, message, monkeypatch, tmp_path, capsys):
    assert call(monkeypatch, compare, *arguments, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_ablate(small, monkeypatch, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for seed in range(6):
        picture(seed, (160, 160)).save(photos / f"{seed}.png")
    arguments = [
        "--cifar10", tmp_path, "--photos", photos, "--out", tmp_path / "run", "--seeds", 0,
        "--bits", 8, "--stride", 32, "--frozen-blocks", 11, "--training", 48, "--queries", 12,
        "--database", 40, "--backbone-epochs", 1, "--branch-epochs", 1, "--epochs", 1,
        "--hidden", 4, "--results",
    ]  # fmt: skip
    assert call(monkeypatch, ablate, *arguments) == 0
    text = small.read_text()
    assert "| explicit | " in text
    assert "| shuffled | " in text
    assert "pointing game" in text
    assert call(monkeypatch, ablate, *arguments) == 0
    assert small.read_text() == text
    capsys.readouterr()
