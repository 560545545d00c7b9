"""evaluate.py and its parts: from folders of images to a report."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import evaluate
from attention_hashing.data.folders import LABELS, read
from attention_hashing.evaluation import plots, report
from attention_hashing.evaluation.distance_counts import Levels, levels_among
from attention_hashing.evaluation.measure import measure
from attention_hashing.evaluation.metrics import by_radius
from attention_hashing.evaluation.split import drawn, given
from bitgaze import Encoder
from conftest import ROOT

PLOTS = ("precision.png", "distances.png", "attention.png")


@pytest.fixture
def folder(tmp_path, examples):
    """Four classes of six images."""
    for name in ("birds", "flowers", "vehicles", "windmills"):
        chosen = sorted(p for p in (examples / name).iterdir() if p.suffix == ".jpg")[:6]
        assert len(chosen) == 6
        (tmp_path / "set" / name).mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, tmp_path / "set" / name)
    return tmp_path / "set"


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["evaluate.py", *map(str, arguments)])
    return evaluate.main()


def test_without_out_it_prints_figures_and_writes_no_file(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, folder) == 0
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "general-128, 128 bits; 12 queries, 12 in the database, 4 classes"
    figures = {line[:-6].strip(): float(line[-6:]) for line in lines[1:]}
    assert list(figures) == [
        "mAP, Hamming, tie-aware",
        "worst order of ties",
        "best order of ties",
        "mAP, cosine of hash values",
        "precision of the first 10",
        "random order",
    ]
    worst, expected, best = (figures[name] for name in list(figures)[1:2] + list(figures)[:3:2])
    assert figures["random order"] < worst <= expected <= best <= 1


def test_the_report(folder, monkeypatch, capsys, tmp_path):
    out = tmp_path / "new" / "report"
    assert run(monkeypatch, folder, "--out", out, "--queries", 8, "--top", 5) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["model"]["name"] == "general-128"
    assert report["set"] == {
        "queries": 8,
        "database": 16,
        "classes": 4,
        "labels_per_image": 1.0,
        "queries_without_a_relevant_image": 0,
        "queries_with_a_copy_in_the_database": 0,
    }
    found = report["average_precision"]
    assert found["top"] == 5
    for bounds in (
        found["over_possible"],
        found["over_found"],
        *report["precision_among_first"].values(),
    ):
        assert 0 < bounds["worst"] <= bounds["expected"] <= bounds["best"] <= 1
    assert found["over_possible"]["expected"] <= found["over_found"]["expected"]
    assert list(report["precision_among_first"]) == ["1", "5", "10"]
    assert [len(values) for values in report["by_radius"].values()] == [129] * 4
    pairs = report["pairs_by_distance"]
    assert sum(pairs["matching"]) + sum(pairs["other"]) == 8 * 16
    assert len(report["queries"]) == 8
    assert all((folder / name).is_file() for name in report["queries"])
    mean = np.mean(list(report["queries"].values()))
    assert mean == pytest.approx(found["over_possible"]["expected"])

    page = (out / "report.md").read_text()
    assert f"| mAP@5 | {found['over_possible']['worst']:.4f} | {mean:.4f} |" in page
    assert "| mAP@5 over the hits found |" in page
    hardest = min(report["queries"].items(), key=lambda item: (item[1], item[0]))
    assert f"| `{hardest[0]}` | {hardest[1]:.4f} |" in page
    assert str(tmp_path) not in page + (out / "report.json").read_text()
    assert re.findall(r"\]\((\S+)\)", page) == list(PLOTS)
    for name in PLOTS:
        with Image.open(out / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
            pixels = np.asarray(image.convert("L"))
        assert pixels.std() > 5  # not blank
    assert "wrote " in capsys.readouterr().out


def test_a_folder_of_queries(folder, monkeypatch, capsys, tmp_path):
    queries = tmp_path / "queries"
    for name in ("birds", "flowers"):
        (queries / name).mkdir(parents=True)
        first = min((folder / name).iterdir())
        first.rename(queries / name / first.name)
    copied = min((folder / "birds").iterdir())
    shutil.copy(copied, queries / "birds" / "copy.jpg")
    out = tmp_path / "report"
    assert run(monkeypatch, folder, "--queries", queries, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "3 queries, 22 in the database, 4 classes" in printed
    assert "1 of the queries have an identical file in the database\n" in printed
    report = json.loads((out / "report.json").read_text())
    assert report["set"]["queries_with_a_copy_in_the_database"] == 1
    page = (out / "report.md").read_text()
    assert "1 of the queries have an identical file in the database." in page
    assert all((queries / name).is_file() for name in report["queries"])


def test_against_another_model(folder, monkeypatch, capsys):
    # The general model compared with itself: no query differs.
    assert run(monkeypatch, folder, "--against", evaluate.DEFAULT_MODEL) == 0
    out = capsys.readouterr().out
    assert "against general-128: mAP +0.0000, 95 % interval +0.0000 to +0.0000" in out
    assert "no better in 100.00% of the resamples" in out


def test_with_looks(folder, monkeypatch, capsys, tmp_path):
    """Figures of a search by all codes of an image, compared with distances computed directly."""
    out = tmp_path / "report"
    assert run(monkeypatch, folder, "--looks", 2, "--queries", 8, "--out", out) == 0
    report = json.loads((out / "report.json").read_text())
    found = report["with_looks"]
    images = drawn(folder, 8, 0)
    with Encoder() as encoder:
        encoded = encoder.encode(images.paths, looks=2)
    views = np.unpackbits(np.concatenate([encoded.codes[:, None], encoded.looks], 1), axis=2)
    right = []
    for query in images.queries:
        between = (views[query][:, None, None] != views[images.database][None]).sum(3)
        distances = between.min(2).sum(0) + between.min(0).sum(1)
        same = images.labels[images.database] == images.labels[query]
        right.append(same[distances == distances.min()].mean())
    assert found["precision_among_first"]["1"]["expected"] == pytest.approx(np.mean(right))
    expected = found["average_precision"]["over_possible"]["expected"]
    whole = report["average_precision"]["over_possible"]["expected"]
    assert found["gain"]["mean"] == pytest.approx(expected - whole)
    assert np.mean(list(report["queries"].values())) == pytest.approx(expected)
    assert found["most"] == 2
    assert 1 <= found["looks_an_image"] <= 2
    printed = capsys.readouterr().out
    assert re.search(rf"mAP with looks +{expected:.4f}\n", printed)
    assert f"{found['looks_an_image']:.2f} looks an image, at most 2: mAP " in printed
    worst = found["average_precision"]["over_possible"]["worst"]
    assert f"| mAP | {worst:.4f} | {expected:.4f} |" in (out / "report.md").read_text()


def test_several_labels(folder, monkeypatch, tmp_path):
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg"))
    rows = [
        f"{name},{name.split('/')[0]},{'many' if place % 2 else 'few'}"
        for place, name in enumerate(names)
    ]
    (folder / "labels.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    out = tmp_path / "report"
    assert run(monkeypatch, folder, "--out", out) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["set"]["classes"] == 6
    assert report["set"]["labels_per_image"] == 2
    images = drawn(folder, 1000, 0)
    labels = list(read(folder).values())
    shared = [
        bool(set(labels[query]) & set(labels[item]))
        for query in images.queries
        for item in images.database
    ]
    assert sum(report["pairs_by_distance"]["matching"]) == sum(shared)
    assert 0 < sum(shared) < len(shared)


def test_the_figures_are_those_of_the_codes(folder):
    """Compared with distances and precision computed directly."""
    images = drawn(folder, 8, 1)
    encoded = Encoder().encode(images.paths)
    ranking = levels_among(encoded.codes, images.labels, images.queries, images.database)
    report = measure(encoded, images, ranking, None)
    bits = np.unpackbits(encoded.codes, axis=1)
    within, empty, first = [], [], []
    for query in images.queries:
        distances = (bits[images.database] != bits[query]).sum(1)
        right = images.labels[images.database] == images.labels[query]
        ball = distances <= 50
        within.append(right[ball].mean() if ball.any() else 0)
        empty.append(not ball.any())
        first.append(right[distances == distances.min()].mean())
    assert report["by_radius"]["precision"][50] == pytest.approx(np.mean(within))
    assert report["by_radius"]["empty"][50] == pytest.approx(np.mean(empty))
    assert report["precision_among_first"]["1"]["expected"] == pytest.approx(np.mean(first))
    assert report["within_radius_2"]["precision"] == report["by_radius"]["precision"][2]


def test_a_draw_divides_the_images(folder):
    images = drawn(folder, 5, 0)
    assert (len(images.queries), len(images.database)) == (5, 19)
    assert sorted([*images.queries, *images.database]) == list(range(24))
    assert (drawn(folder, 5, 0).queries == images.queries).all()
    assert (drawn(folder, 5, 1).queries != images.queries).any()
    for path, label in zip(images.paths, images.labels, strict=True):
        assert path.parent.name == images.classes[label]


def test_labels_of_both_folders_are_merged(folder, tmp_path):
    queries = tmp_path / "queries"
    queries.mkdir()
    shutil.copy(min((folder / "birds").iterdir()), queries / "a.jpg")
    (queries / LABELS).write_text("a.jpg, windmills ,animals\n", encoding="utf-8")
    images = given(folder, queries)
    assert images.classes == ("animals", "birds", "flowers", "vehicles", "windmills")
    (query,) = images.queries
    assert images.labels[query].tolist() == [True, False, False, False, True]
    assert images.labels[images.database].sum(1).tolist() == [1] * 24
    with pytest.raises(
        ValueError, match="is a query and in the database: the folders must not overlap"
    ):
        given(folder, folder)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("birds/none.jpg,birds\n", "line 1: .*none.jpg does not exist"),
        ("\nset.jpg\n", r"line 2: expected path,label,label,..., found \['set.jpg'\]"),
        ("set.jpg,a,\n", "line 1: expected path,label,label"),
        ("set.jpg,a\nset.jpg,b\n", "line 2: set.jpg is listed twice"),
        ("./set.jpg,a\nset.jpg,b\n", "line 2: set.jpg is listed twice"),
        ('set.jpg,"a\n', "labels.csv: not a CSV file in UTF-8"),
        (b"set.jpg,\xff\n", "labels.csv: not a CSV file in UTF-8"),
        ("", "contains no class folders with images, and no labels.csv"),
    ],
)
def test_an_invalid_table(make_image, tmp_path, table, message):
    make_image("set.jpg")
    content = table if isinstance(table, bytes) else table.encode()
    (tmp_path / LABELS).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_queries_without_relevant_images_are_reported(make_image, monkeypatch, capsys, tmp_path):
    for seed in range(12):
        make_image(f"set/one/{seed}.png", seed)
    make_image("queries/one/a.png", 20)
    make_image("queries/two/b.png", 21)
    assert run(monkeypatch, tmp_path / "set", "--queries", tmp_path / "queries") == 0
    printed = capsys.readouterr().out
    assert "1 of the queries have no relevant image in the database, and score 0\n" in printed
    assert re.search(r"mAP, Hamming, tie-aware +0\.5000\n", printed)


def test_against_a_worse_model(folder, monkeypatch, tmp_path):
    """All codes of the other model are equal: a random order, which is worse."""
    honest, models = evaluate._encoded, []

    def encoded(encoder, images, looks):
        models.append(encoder)
        found = honest(encoder, images, looks)
        return found if len(models) == 1 else replace(found, codes=np.zeros_like(found.codes))

    monkeypatch.setattr(evaluate, "_encoded", encoded)
    out = tmp_path / "report"
    assert run(monkeypatch, folder, "--against", evaluate.DEFAULT_MODEL, "--out", out) == 0
    found = json.loads((out / "report.json").read_text())
    other, precision = found["against"], found["average_precision"]
    gain = precision["over_possible"]["expected"] - precision["random_order"]
    assert other["mean"] == pytest.approx(gain)
    assert 0 < other["low"] < other["mean"] < other["high"]
    assert other["not_better"] == 0
    assert f"Against general-128: mAP {gain:+.4f}, 95 % interval" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("items", "relevant"), [([5, 0, 0], [0, 0, 0]), ([0, 0, 1], [0, 0, 1]), ([4, 2, 9], [4, 2, 9])]
)
def test_plots_of_degenerate_sets(items, relevant, tmp_path):
    ranking = Levels(np.array([items]), np.array([relevant]))
    plots.precision_by_radius(by_radius(ranking), tmp_path / "a.png")
    plots.distances(ranking, tmp_path / "b.png")
    # A name that must not be parsed as a formula.
    maps = np.zeros((1, 4, 4), np.float32)
    plots.attention([Image.new("RGB", (30, 90))], maps, [r"$\frac$"], tmp_path / "c.png")
    for path in (tmp_path / "a.png", tmp_path / "b.png", tmp_path / "c.png"):
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 5


def test_no_name_breaks_the_table():
    assert report._code("a|b`c.jpg") == r"`a\|b c.jpg`"


def test_evaluation_uses_the_runtime_alone():
    script = (
        "import sys; sys.modules['torch'] = None; import evaluate;"
        "print('matplotlib' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT / "export"
    )
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--top", "0"], "top is 0, expected at least 1"),
        (["--looks", "-1"], "looks is -1, expected at least 0"),
        (["--looks", "4"], "looks is 4, expected 0 to 3 with this model"),
        (["--top", "13"], "top is 13, but the database has 12 images"),
        (["--queries", "/nowhere"], "/nowhere: not a folder"),
        (["--queries", "/nowhere", "--seed", "1"], "a folder of queries is given"),
        (["--model", "/nowhere.onnx"], "/nowhere.onnx"),
        (["--against", "/nowhere.onnx"], "/nowhere.onnx"),
    ],
)
def test_invalid_arguments_exit_with_a_message(folder, monkeypatch, capsys, arguments, message):
    assert run(monkeypatch, folder, *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.py: ")
    assert message in error


def test_a_report_without_matplotlib_fails_at_once(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(evaluate, "find_spec", lambda name: None)
    assert run(monkeypatch, folder, "--out", tmp_path / "report") == 2
    assert "pip install -r export/requirements.txt" in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


def test_too_few_images_and_a_broken_one(folder, monkeypatch, capsys, tmp_path):
    few = tmp_path / "few"
    shutil.copytree(folder / "birds", few / "birds")
    assert run(monkeypatch, few) == 2
    assert "few: 3 images in the database, expected more than 10" in capsys.readouterr().err
    (folder / "birds" / "broken.jpg").write_bytes(b"nothing")
    assert run(monkeypatch, folder) == 2
    assert "broken.jpg" in capsys.readouterr().err
