"""Places to look at, searches by several codes, and the script that compares them."""

import numpy as np
import pytest
from PIL import Image

import look_table
from attention_hashing.evaluation.distance_counts import levels
from attention_hashing.experiments import looks, results
from bitgaze.hamming import pack
from colours import RULE, scene, write_models


def test_objects_found_and_seen():
    truth = [
        np.array([(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.9, 0.9, 0.91, 0.91)], np.float32),
        np.zeros((0, 4), np.float32),
        np.array([(0, 0, 1, 0.5)], np.float32),
    ]
    boxes = [[(0, 0, 0.5, 0.4), (0.5, 0.5, 0.75, 0.7)], [(0, 0, 1, 1)], []]
    found, seen = looks.found_and_seen(truth, boxes)
    assert found == pytest.approx(1 / 3)
    assert seen == pytest.approx((0.8 + 0.2 + 0) / 3)


def test_boxes_of_rivals_are_within_the_image():
    generator = np.random.default_rng(0)
    wide = [(0.0, 0.0, 0.9, 0.3), (0.0, 0.0, 1.0, 1.0)]
    for boxes in (
        looks.random_boxes(50, 0.5, generator),
        looks.moved(wide * 20, generator),
        looks.grid(5, 0.4),
        looks.largest(np.array([(0.01, 0, 0.99, 1)], np.float32), 3),
    ):
        low, high = np.array(boxes)[:, :2], np.array(boxes)[:, 2:]
        assert (low >= 0).all()
        assert (high <= 1 + 1e-9).all()
        assert (low < high).all()
    sizes = [(c - a, d - b) for a, b, c, d in looks.moved(wide, generator)]
    assert np.allclose(sizes, [(0.9, 0.3), (1, 1)])
    assert len(set(looks.grid(5, 0.4))) == 5


def test_the_largest_true_boxes_get_a_margin():
    truth = np.array([(0, 0, 0.1, 0.1), (0.2, 0.2, 0.7, 0.7), (0.5, 0, 0.7, 0.2)], np.float32)
    (first, second) = looks.largest(truth, 2)
    assert np.allclose(first, (0.15, 0.15, 0.75, 0.75))
    assert np.allclose(second, (0.48, 0, 0.72, 0.22))


def test_what_stands_out_is_salient():
    noise = np.random.default_rng(0).integers(80, 100, (96, 96, 1), dtype=np.uint8)
    pixels = np.repeat(noise, 3, axis=2)
    pixels[60:68, 20:28] = 255
    found = looks.spectral_residual(Image.fromarray(pixels))
    assert found.shape == (16, 16)
    row, column = divmod(int(found.argmax()), 16)
    assert 9 <= row <= 11
    assert 2 <= column <= 5
    left, top, right, bottom = looks.at_peaks(found, RULE, 1)[0]
    assert left < 20 / 96 < 28 / 96 < right
    assert top < 60 / 96 < 68 / 96 < bottom


def test_distances_between_views():
    generator = np.random.default_rng(1)
    queries, items = (generator.random((n, v, 16)) < 0.5 for n, v in ((3, 2), (9, 4)))
    labels = generator.integers(0, 2, 3), generator.integers(0, 2, 9)
    found = looks.levels_of_views(queries, labels[0], items, labels[1])
    assert found.keys() == set(looks.RULES)
    single = levels(pack(queries[:, 0] - 0.5), labels[0], pack(items[:, 0] - 0.5), labels[1])
    columns = found["whole"].items.shape[1]
    assert np.array_equal(found["whole"].items, single.items[:, :columns])
    assert np.array_equal(found["whole"].relevant, single.relevant[:, :columns])
    for q in range(3):
        expected: dict[str, list[float]] = {rule: [] for rule in looks.RULES}
        for item in items:
            d = np.array([[(a != b).sum() for b in item] for a in queries[q]])
            expected["nearest"].append(d.min())
            expected["whole + nearest"].append(d[0, 0] + d.min())
            expected["Chamfer"].append((d.min(1).mean() + d.min(0).mean()) * 2 * 4)
        for rule in looks.RULES[1:]:
            counts = np.bincount(np.rint(expected[rule]).astype(int), minlength=1)
            row = found[rule].items[q]
            assert np.array_equal(row[: len(counts)], counts)
            assert not row[len(counts) :].any()


def test_the_table(tmp_path, monkeypatch, capsys):
    write_models(tmp_path)
    generator = np.random.default_rng(0)
    lines = []
    for i in range(12):
        x, y = generator.uniform(0, 0.5, 2)
        colour = ("red", "blue")[i % 2]
        scene({colour: (x, y, x + 0.4, y + 0.4)}, (100, 100)).save(tmp_path / f"{i}.png")
        corners = [round(100 * place) for place in (x, y, x + 0.4, y + 0.4)]
        lines.append(f"{i}.png\t{colour}\t{colour}:{','.join(map(str, corners))}\tall")
    (tmp_path / "annotations.tsv").write_text("\n".join(lines))
    document = tmp_path / "results.md"
    monkeypatch.setattr(results.write_section, "__defaults__", (document, ""))
    command = ["look_table.py", str(tmp_path), "--seeds", "0", "1", "--model"]
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "looks.onnx")])
    assert look_table.main() == 0
    rows = {
        cells[0].strip("| "): cells[1:]
        for cells in (line.split(" | ") for line in document.read_text().splitlines())
        if len(cells) == 11
    }
    assert {"none", "explicit, 3", "random", "implicit (energy)", "true boxes"} <= rows.keys()
    assert float(rows["true boxes"][1]) > 0.9  # found
    assert float(rows["explicit, 1"][1]) > float(rows["random squares"][1])
    assert float(rows["explicit, 3"][6]) > 0.5  # Chamfer
    monkeypatch.setattr("sys.argv", [*command, str(tmp_path / "plain.onnx")])
    assert look_table.main() == 2
    assert "cannot look" in capsys.readouterr().err
