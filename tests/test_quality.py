"""Quality against processor time: the front, the plot, and the script."""

import numpy as np
import torch
from PIL import Image

import quality_plot
import to_onnx
from attention_hashing.attention import AttentionBranch
from attention_hashing.experiments import quality, results
from attention_hashing.experiments.quality import Point, Setting
from attention_hashing.network import AttentionHashing
from colours import CONTRACT, SIZE, Colours, scene


def point(looks, milliseconds, precision, model="Lite0", arithmetic="fp32"):
    return Point(Setting(model, 224, arithmetic), looks, milliseconds, precision)


def test_the_front_is_what_nothing_beats():
    slow, equal, quick, best = (
        point(*numbers) for numbers in ((0, 9, 0.5), (1, 5, 0.5), (2, 3, 0.4), (3, 20, 0.6))
    )
    assert quality.front([slow, equal, quick, best]) == [quick, equal, best]
    same_time = point(4, 3, 0.45)
    assert quality.front([quick, same_time]) == [same_time]
    assert quality.front([]) == []


def test_the_plot_shows_every_model(tmp_path):
    file = tmp_path / "plot.jpg"
    quality.plot([point(0, 5, 0.5), point(1, 9, 0.6, "Lite3", "int8")], file)
    with Image.open(file) as image:
        colours = image.convert("RGB").resize((image.width // 2, image.height // 2))
    pixels = np.asarray(colours, int).reshape(-1, 3)
    for colour in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
        assert (np.abs(pixels - colour).sum(1) < 90).any(), colour


def test_the_script_measures_once(tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    branch = AttentionBranch.from_classifier(40 * torch.eye(3), torch.zeros(3))
    network = AttentionHashing(Colours(), branch, CONTRACT.bits).eval()
    made = []
    monkeypatch.setattr(
        to_onnx, "general_model", lambda layer: made.append(layer) or (network, CONTRACT)
    )

    generator = np.random.default_rng(0)
    lines = []
    for i in range(8):
        x, y = generator.uniform(0, 0.5, 2)
        colour = ("red", "blue")[i % 2]
        scene({colour: (x, y, x + 0.4, y + 0.4)}, (100, 100)).save(tmp_path / f"{i}.png")
        corners = ",".join(str(round(100 * place)) for place in (x, y, x + 0.4, y + 0.4))
        lines.append(f"{i}.png\t{colour}\t{colour}:{corners}\tall")
    (tmp_path / "annotations.tsv").write_text("\n".join(lines))
    out, layer = tmp_path / "kept", tmp_path / "layer.npz"
    layer.write_bytes(b"a layer")
    monkeypatch.setattr(quality_plot, "_LAYERS", {"Lite0": layer})
    monkeypatch.setattr(results.write_section, "__defaults__", (tmp_path / "results.md", ""))
    monkeypatch.setattr(quality_plot, "RESULTS", tmp_path / "results.md")
    monkeypatch.setattr(quality, "_ROUNDS", 1)
    arguments = [str(tmp_path), "--photographs", str(tmp_path), "--out", str(out)]
    monkeypatch.setattr("sys.argv", ["quality_plot.py", *arguments, "--sizes", str(SIZE)])
    assert quality_plot.main() == 0
    text = (tmp_path / "results.md").read_text()
    (row,) = (line.strip("| ").split(" | ") for line in text.splitlines() if "| fp32 |" in line)
    assert row[:3] == ["Lite0", "96", "fp32"]
    cells = [tuple(map(float, cell.strip("*").split(" / "))) for cell in row[3:]]
    assert len(cells) == 6
    assert cells[1][0] > 0.5  # mAP
    assert cells[5][1] > cells[0][1] > 0  # ms
    assert "**" in text
    assert (tmp_path / "quality.jpg").stat().st_size > 10_000
    assert made == [layer]
    kept = out / f"Lite0-{SIZE}-fp32.npz"
    before = kept.stat().st_mtime_ns
    assert quality_plot.main() == 0
    assert (len(made), kept.stat().st_mtime_ns) == (1, before)
    layer.write_bytes(b"another layer")
    assert quality_plot.main() == 2
    assert "contains a run with layer of Lite0 " in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["quality_plot.py", *arguments[1:], str(tmp_path / "none")])
    assert quality_plot.main() == 2
    assert "none" in capsys.readouterr().err
