"""The comparison of methods: heads over stored maps, resumed runs, tables."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_hashing import heads
from attention_hashing.experiments import comparison, tables
from attention_hashing.experiments.run_log import Rows
from attention_hashing.features import cached_maps
from attention_hashing.methods import DEFAULT, METHODS
from attention_hashing.network import HashLayer

CLASSES, CHANNELS = 4, 12


def made(seed, count=240):
    """Maps in which one channel per class is high in one random cell."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    maps = random.random((count, CHANNELS, 4, 4)) * 0.5
    for one, label in enumerate(labels):
        y, x = random.integers(0, 4, 2)
        maps[one, label, y, x] += 4
    return maps.astype(np.float16), labels.astype(np.int64)


@pytest.fixture
def study():
    maps, labels = made(0)
    training, queries, database = np.split(np.arange(240), [100, 140])
    everything = np.concatenate([training, database])
    return comparison.Study(
        "made", maps, labels, training, queries, {"a": database, "b": everything}
    )


def one_hot(labels):
    return np.eye(CLASSES, dtype=np.float32)[labels]


def test_fit_branch_and_describe():
    maps, labels = made(1)
    branch = heads.fit_branch(maps, one_hot(labels), epochs=20, seed=0)
    seen = heads.describe(maps, branch)
    assert (seen.logits.argmax(1) == labels).mean() > 0.9
    assert seen.features.shape == (240, 2 * CHANNELS)
    mean = maps.astype(np.float32).mean((2, 3))
    np.testing.assert_allclose(seen.features[:, :CHANNELS], mean, atol=2e-3)


@pytest.mark.parametrize("name", METHODS)
def test_a_layer_folds_what_it_was_trained_with(name):
    """The layer depends on the seed alone, and separates classes."""
    maps, labels = made(2)
    features = maps.astype(np.float32).mean((2, 3))
    layers = [
        heads.fit_layer(
            features, one_hot(labels), METHODS[name](CLASSES, 16, 0), epochs=20, rate=1e-2
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(layers[0].weight, layers[1].weight)
    values = layers[0].values(features)
    assert values.shape == (240, 16)
    codes = np.where(values > 0, 1, -1)
    likeness = codes @ codes.T / 16
    alike = labels[:, None] == labels
    assert likeness[alike].mean() > likeness[~alike].mean() + 0.3


def test_values_are_those_of_the_layers_that_were_trained(monkeypatch):
    """The weights include mean, deviation and batch normalisation, even of a constant feature."""
    features = np.random.default_rng(0).normal(3, 5, (64, 8)).astype(np.float32)
    features[:, 5] = 2
    descend, trained = heads.descend, []
    monkeypatch.setattr(heads, "descend", lambda *a: descend(*a) or trained.append(a))
    method = METHODS[DEFAULT](CLASSES, 16, 0)
    layer = heads.fit_layer(
        features, one_hot(np.arange(64) % CLASSES), method, epochs=20, rate=1e-2
    )
    ((modules, _, (scaled, _), *_),) = trained
    project, normalise = (module.eval() for module in modules[:2])
    assert not normalise.running_mean.allclose(torch.zeros(16))
    with torch.inference_mode():
        wanted = normalise(project(scaled)).numpy()
    np.testing.assert_allclose(layer.values(features), wanted, atol=1e-3)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-4)


def test_values_of_no_features_are_empty():
    layer = HashLayer(np.eye(3, 8, dtype=np.float32), np.zeros(8, np.float32))
    assert layer.values(np.empty((0, 3), np.float16)).shape == (0, 8)


def test_a_run_measures_every_cell_and_can_be_resumed(study, tmp_path, monkeypatch):
    names = [DEFAULT, "dsh", "lsh", "class-id", "float"]
    monkeypatch.setattr(comparison, "_in_parallel", serially)
    rows = comparison.run([study], names, [8, 16], [0, 1], tmp_path)
    assert {row["protocol"] for row in rows} == {"a", "b"}
    # Two methods in two forms, LSH and class-id with 2 lengths and 2 seeds; float once.
    assert len(rows) == 2 * ((2 * 2 + 2) * 2 * 2 + 1)
    for row in rows:
        assert row["map_worst"] <= row["map"] <= row["map_best"]
        if row["method"] != "float":
            assert row["map"] == pytest.approx(np.mean(row["queries"]), abs=1e-5)
    own = [row["map"] for row in rows if row["method"] == DEFAULT and row["protocol"] == "a"]
    assert np.mean(own) > 0.5  # a quarter is relevant

    file = tmp_path / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-4]) + lines[-4][:20])  # killed in the middle of a line
    again = comparison.run([study], names, [8, 16], [0, 1], tmp_path)
    assert plain(again) == plain(rows)


def plain(rows):
    return sorted(str({name: row[name] for name in row if name != "seconds"}) for row in rows)


def test_a_cell_with_one_of_its_protocols_missing_is_measured_again(study, tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "_in_parallel", serially)
    rows = comparison.run([study], ["lsh"], [8], [0, 1], tmp_path)
    file = tmp_path / "rows.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    assert [json.loads(line)["protocol"] for line in lines] == ["a", "b", "a", "b"]
    file.write_text("".join(lines[:3]))  # killed between the two of the last cell
    assert plain(comparison.run([study], ["lsh"], [8], [0, 1], tmp_path)) == plain(rows)
    file.write_text(file.read_text() + "".join(lines))  # as after two runs in one folder
    assert plain(comparison.run([study], ["lsh"], [8], [0, 1], tmp_path)) == plain(rows)


def test_rows_are_kept_when_a_line_was_cut_short(tmp_path, monkeypatch):
    """Nothing is lost if a second kill interrupts the repair."""
    path = tmp_path / "rows.jsonl"
    whole = '{"kind": "cell", "map": 0.5}\n'
    path.write_text(whole * 2 + '{"kind": "ce')
    monkeypatch.delattr(Path, "write_text")  # would empty the file first
    for _ in range(2):
        assert len(list(Rows(path).of("cell"))) == 2
        assert path.read_bytes().decode() == whole * 2
    path.write_bytes(b'{"kind"')
    rows = Rows(path)
    rows.add([{"kind": "cell"}])
    assert path.read_bytes() == b'{"kind": "cell"}\n'


def test_missing_rates_are_tried_and_cells_of_another_rate_are_measured_again(
    study, tmp_path, monkeypatch
):
    monkeypatch.setattr(comparison, "_in_parallel", serially)
    monkeypatch.setattr(comparison, "RATES", (3e-3,))
    before = comparison.run([study], ["dsh"], [8], [0], tmp_path)
    tried = []
    fit_layer = comparison.fit_layer
    monkeypatch.setattr(comparison, "fit_layer", lambda *a: tried.append(a[-1]) or fit_layer(*a))
    monkeypatch.setattr(comparison, "RATES", (1e-6, 3e-3))
    assert comparison.run([study], ["dsh"], [8], [0], tmp_path) == before
    assert tried == [1e-6, 1e-6]  # for two forms; 3e-3 is still better, and its cells exist
    tried.clear()
    monkeypatch.setattr(comparison, "RATES", (1e-6,))
    after = comparison.run([study], ["dsh"], [8], [0], tmp_path)
    assert {row["rate"] for row in after} == {1e-6}
    assert tried == [1e-6, 1e-6]
    assert len(after) == len(before)


def test_rows_with_the_former_name_of_a_method(tmp_path):
    rows = [{"kind": "cell", "method": "ours", "map": 0.5}, {"kind": "branch", "seed": 0}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = Rows(path)
    assert list(kept.of("cell")) == [{**rows[0], "method": "orthohash-supplement"}]
    assert list(kept.of("branch")) == rows[1:]


def test_cells_run_in_processes(study, tmp_path):
    rows = comparison.run([study], ["lsh"], [8], [0, 1], tmp_path)
    assert len(rows) == 4


def serially(work, cells, more, studies, folder, rows, what):
    comparison._features.cache_clear()
    threads = torch.get_num_threads()
    comparison._start(studies, folder)
    for cell in cells:
        rows.add(work(cell, *more))
    torch.set_num_threads(threads)


def test_rows_of_another_draw_are_not_reused(study, tmp_path):
    comparison.run([study], ["lsh"], [8], [0], tmp_path)
    other = comparison.Study(
        study.name, study.maps, study.labels, study.training[1:], study.queries, study.databases
    )
    assert other.key != study.key
    rows = comparison.run([other], ["lsh"], [8], [0], tmp_path)
    assert {row["study"] for row in rows} == {other.key}


def test_rows_with_other_settings_are_not_reused(study, tmp_path, monkeypatch):
    comparison.run([study], ["lsh"], [8], [0], tmp_path)
    monkeypatch.setitem(comparison._RECIPE, "layer epochs", 7)
    with pytest.raises(ValueError, match=r"contains a run with layer epochs 30 \(now 7\)"):
        comparison.run([study], ["lsh"], [8], [0], tmp_path)


def test_a_folder_without_stored_arguments_is_accepted(study, tmp_path):
    comparison.run([study], ["lsh"], [8], [0], tmp_path)
    (tmp_path / "arguments.json").unlink()
    before = (tmp_path / "rows.jsonl").read_text()
    comparison.run([study], ["lsh"], [8], [0], tmp_path)
    assert (tmp_path / "rows.jsonl").read_text() == before
    assert (tmp_path / "arguments.json").exists()


def row(method, form, seed, scores, protocol="cifar10", bits=16):
    return {
        "protocol": protocol, "method": method, "form": form, "bits": bits, "seed": seed,
        "map": float(np.mean(scores)), "map_worst": 0.1, "map_best": 0.9, "unique": 0.5,
        "precision_within_radius": 0.25, "empty_balls": 0.75, "queries": list(scores),
    }  # fmt: skip


def test_tables():
    random = np.random.default_rng(0)
    base = random.random(200) * 0.5
    rows = []
    for seed in (0, 1):
        rows += [
            row(DEFAULT, "global", seed, base),
            row(DEFAULT, "guided", seed, base + 0.1),
            row("csq", "global", seed, base + 0.1 + random.normal(0, 0.02, 200)),
            row("csq", "guided", seed, base + 0.12),
            row("dsh", "global", seed, base - 0.2),
        ]
    table = tables.by_length(rows, "cifar10")
    cells = dict(table.rows)
    assert table.head == ["method", "16 bits"]
    assert "csq, with the branch" not in cells
    assert cells[f"{DEFAULT}, with the branch"].startswith("**")
    assert cells["csq"].startswith("**")
    assert not cells["dsh"].startswith("**")
    assert "±" in cells["dsh"]
    ((protocol, bits, loss, own, best, its, difference),) = tables.against_rivals(
        rows, ["cifar10"]
    ).rows
    assert (protocol, bits, loss, best) == ("cifar10", "16", DEFAULT, "csq")
    assert own.startswith(f"{base.mean() + 0.1:.3f}".removeprefix("0"))
    assert its == cells["csq"].strip("*")
    assert not difference.startswith("**")
    looks = [row(DEFAULT, "looks", 0, base + 0.3), row("dsh", "looks", 0, base + 0.1)]
    of_looks = tables.against_rivals([*rows, *looks], ["cifar10"]).rows[1]
    assert of_looks[0] == "cifar10, with looks"
    assert (of_looks[4], of_looks[6]) == ("dsh", "**+0.200** [+0.200, +0.200]")
    branch = dict(tables.of_form(rows, ["cifar10"], 16, "guided").rows)
    assert branch[DEFAULT] == "**+0.100** [+0.100, +0.100]"
    assert tables.of_codes(rows, "cifar10", 16).rows[0][1:] == [
        ".100", f"{base.mean():.3f}".removeprefix("0"), ".900", ".250", ".750", ".500",
    ]  # fmt: skip


def test_fewer_images_than_count_raises(tmp_path):
    class Each:
        def each(self, items, image):
            return (np.zeros((2, 1, 1), np.float32) for _ in items)

    with pytest.raises(ValueError, match="3 images, expected 5"):
        cached_maps(Each(), [0, 1, 2], 5, tmp_path / "maps.npy")
    assert not (tmp_path / "maps.npy").exists()
    assert cached_maps(Each(), [0, 1, 2], 3, tmp_path / "maps.npy").shape == (3, 2, 1, 1)


def test_the_default_depends_on_the_labels():
    """HashNet with the branch is compared with HashNet as published, too."""
    scores = np.full(50, 0.5)
    rows = [
        row("hashnet", "guided", 0, scores, "voc2012"),
        row("hashnet", "global", 0, scores - 0.1, "voc2012"),
        row(DEFAULT, "guided", 0, scores + 0.2, "voc2012"),
        row(DEFAULT, "global", 0, scores + 0.2, "voc2012"),
        row("csq", "global", 0, scores - 0.2, "voc2012"),
    ]
    (found,) = tables.against_rivals(rows, ["voc2012"]).rows
    assert found[2:6] == ["hashnet", ".500", "hashnet", ".400"]
    assert "hashnet, with the branch" in dict(tables.by_length(rows, "voc2012").rows)
