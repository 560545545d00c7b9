"""to_onnx.py --precision: what it writes, what it refuses, and its arguments."""

import shutil

import numpy as np
import onnxruntime as ort
import pytest

import precision_table
import to_onnx
from attention_hashing.deployment import fidelity, reduced_precision
from attention_hashing.experiments import results
from bitgaze import Encoder
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model


@pytest.fixture(scope="module")
def few(examples, tmp_path_factory):
    """Class folders of four images each."""
    folder = tmp_path_factory.mktemp("few")
    for name in ("birds", "castles-and-palaces", "flowers", "vehicles"):
        (folder / name).mkdir()
        for path in sorted(p for p in (examples / name).iterdir() if p.suffix == ".jpg")[:4]:
            shutil.copy(path, folder / name)
    return folder


@pytest.fixture(autouse=True)
def _few_ranks(monkeypatch):
    """The limit on mAP is for more ranks than those of 16 images."""
    monkeypatch.setattr(fidelity, "MAX_MAP_LOSS", 0.1)


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["to_onnx.py", *map(str, arguments)])
    return to_onnx.main()


def int8(folder, out):
    return [
        "--precision", "int8", "--target", "x86-vnni", "--calibrate", folder, "--check", folder,
        "--images", folder, "--out", out,
    ]  # fmt: skip


def test_int8_as_onnx_and_ort(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fidelity, "MAX_FLIPS", 0.05)
    assert run(monkeypatch, *int8(few, tmp_path / "small.onnx"), "--format", "ort") == 0
    text = capsys.readouterr().out
    assert "16 images of 4 classes" in text
    assert "bits flipped" in text
    model = read_model(tmp_path / "small.onnx")
    shipped = read_model(DEFAULT_MODEL)
    assert model.path.stat().st_size < 6_000_000
    assert model.contract.precision == "int8"
    assert 1e-3 <= model.contract.tolerance < 1
    assert "x86-vnni" in model.contract.training["int8"]
    assert model.contract.calibration == shipped.contract.calibration
    assert model.fingerprint != shipped.fingerprint
    golden = model.contract.golden
    encoder = Encoder(model.path)
    found = encoder.encode([example.png for example in golden])
    assert [code.tobytes() for code in found.codes] == [example.code for example in golden]
    session = ort.InferenceSession(tmp_path / "small.ort")
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["bitgaze"] == model.contract.to_json()
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "small.ort"}


def test_a_model_that_loses_too_much_is_not_kept(few, tmp_path, monkeypatch, capsys):
    out = tmp_path / "half.onnx"
    out.write_bytes(b"before")
    monkeypatch.setattr(fidelity, "MAX_FLIPS", -1.0)
    command = ["--precision", "fp16", "--check", few, "--images", few, "--out", out]
    assert run(monkeypatch, *command) == 2
    error = capsys.readouterr().err
    assert "fp16 loses too much: " in error
    assert "of the bits flip (limit -100%); nothing was kept" in error
    assert out.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [out]


def test_fp16(few, tmp_path, monkeypatch, capsys):
    out = tmp_path / "half.onnx"
    assert (
        run(monkeypatch, "--precision", "fp16", "--check", few, "--images", few, "--out", out) == 0
    )
    model = read_model(out)
    assert model.contract.precision == "fp16"
    assert 1e-3 <= model.contract.tolerance < 0.5
    images = sorted(few.glob("*/*"))
    codes = [Encoder(path).encode(images).codes for path in (out, DEFAULT_MODEL)]
    assert np.unpackbits(codes[0] ^ codes[1]).mean() < 0.01


def test_the_limits():
    fine = fidelity.Comparison(0.02, 0, (0.5, 0.41), (10, 6), (1, 2), 0)
    assert fine.excesses(is_sized=True) == []
    bad = fidelity.Comparison(0.021, 0, (0.5, 0.39), (10, 6.1), (1, 2), 0)
    assert [words.split()[0] for words in bad.excesses(is_sized=True)] == ["2.10%", "mAP", "the"]
    assert len(bad.excesses(is_sized=False)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int8", "--out", "x.onnx"], "int8 requires --target"),
        (
            ["--precision", "int8", "--target", "arm", "--out", "x.onnx"],
            "int8 requires --calibrate",
        ),
        (["--precision", "fp16"], "fp16 requires --out"),
        (["--target", "arm"], "--target is for int8, not for fp32"),
        (["--check", "."], "--check is for fp16 and int8, not for fp32"),
        (["--format", "ort"], "--format ort requires --out"),
        (["--out", "x.ort"], "--out names the .onnx file"),
        (["--layer", "x.npz"], "x.npz does not exist; fit_general.py writes it"),
        (["--layer", __file__], "--layer requires --out"),
        (
            ["--precision", "int8", "--target", "arm", "--calibrate", "none", "--out", "x.onnx"],
            "none: contains no images",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message, monkeypatch, capsys):
    assert run(monkeypatch, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_hundred_images_are_enough_to_calibrate_on(few):
    paths = sorted(few.glob("*/*")) * 20
    pixels = reduced_precision.calibration_pixels(paths, read_model(DEFAULT_MODEL).contract)
    assert pixels.shape == (100, 224, 224, 3)


def test_the_table(few, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results.write_section, "__defaults__", (tmp_path / "results.md", ""))
    monkeypatch.setattr(precision_table.quantize, "TARGETS", {"arm": None})
    monkeypatch.setattr(precision_table.quantize, "int8", lambda model, *_: model)
    monkeypatch.setattr("sys.argv", ["precision_table.py", str(few), str(few)])
    assert precision_table.main() == 0
    lines = (tmp_path / "results.md").read_text().splitlines()
    rows = [line.split(" | ")[0] for line in lines if line.startswith("| ")]
    assert rows == ["| arithmetic", "| ---", "| fp32", "| fp16", "| int8, arm"]
    monkeypatch.setattr("sys.argv", ["precision_table.py", str(few), "/nowhere"])
    assert precision_table.main() == 2
