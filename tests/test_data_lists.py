"""Lists of labelled images, and images with several labels."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from attention_hashing.data import labelled, lists
from attention_hashing.data.errors import DataError
from attention_hashing.evaluation import split
from bitgaze.encoding.images import Preprocess
from conftest import ROOT, smooth_image

SEVERAL = {"a.jpg": "1 0 0", "b c  d 1.jpg": "1 1 0", "sub/e.JPEG": "0 1 1", "f.png": "0 0 1"}


def write(folder, name, lines, newline="\n"):
    """Write a list and the images that it names."""
    folder.mkdir(exist_ok=True)
    for seed, path in enumerate(lines):
        (folder / path).parent.mkdir(exist_ok=True)
        if not (folder / path).exists():
            smooth_image(seed, (32, 32)).save(folder / path)
    text = newline.join(f"{path} {labels}" for path, labels in lines.items())
    (folder / name).write_text(text + newline, encoding="utf-8")
    return folder


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_several_labels_per_image(tmp_path, newline, capsys):
    found = lists.read(write(tmp_path, "train.txt", SEVERAL, newline) / "train.txt")
    assert [p.relative_to(tmp_path).as_posix() for p in found.paths] == list(SEVERAL)
    assert found.one_hot.astype(int).tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert found.classes == ("0", "1", "2")
    assert capsys.readouterr().err == ""
    assert lists.labels(found.one_hot) is found.one_hot
    assert lists.labels(found.one_hot[[0, 3]]).tolist() == [0, 2]


def test_images_in_another_folder_and_names_of_classes(tmp_path):
    write(tmp_path / "images", "train.txt", SEVERAL)
    (tmp_path / "lists").mkdir()
    path = (tmp_path / "images" / "train.txt").rename(tmp_path / "lists" / "train.txt")
    (tmp_path / "lists" / "classes.txt").write_text("sea\nsky \n\nold town\n")
    found = lists.read(path, tmp_path / "images")
    assert found.paths[0] == tmp_path / "images" / "a.jpg"
    assert found.classes == ("sea", "sky", "old town")
    with pytest.raises(ValueError, match=r"train.txt, line 1: .*lists/a\.jpg does not exist"):
        lists.read(path)
    (tmp_path / "lists" / "classes.txt").write_text("sea\nsky\n")
    with pytest.raises(ValueError, match=r"classes.txt: 2 classes, but the lists .* have 3"):
        lists.read(path, tmp_path / "images")
    (tmp_path / "lists" / "classes.txt").write_text("sea\nsky\nsea\n")
    with pytest.raises(ValueError, match=r"classes.txt: 'sea' is listed twice"):
        lists.read(path, tmp_path / "images")


def test_skipped_lines_are_reported(tmp_path, capsys):
    path = write(tmp_path, "train.txt", SEVERAL | {"g.png": "0 0 0"}) / "train.txt"
    with path.open("a") as file:
        file.write("./a.jpg\t1 0 0\n")
    assert len(lists.read(path).paths) == 4
    error = capsys.readouterr().err
    assert error.count("skipped 1 lines without a label") == 1
    assert error.count("skipped 1 lines that repeat another") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0 1\na.jpg 0 2\n", r"train\.txt, line 2: column 2 is '2', expected 0 or 1"),
        ("a.jpg 0 1\nb.jpg 0 1 1\n", "line 2: 3 columns, expected 2 as in the lines before"),
        ("a.jpg 0 1\n\nnone.jpg 0 1\n", "line 3: .*none.jpg does not exist"),
        ("a.jpg 0 1\na.jpg 1 1\n", "line 2: a.jpg is listed twice, with different labels"),
        ("a.jpg 0 1\nb.jpg\n", "line 2: expected an image and its labels, .*found 'b.jpg'"),
        ("a.jpg 0 1\n0 1\n", "line 2: expected an image and its labels, .*found '0 1'"),
        ("a.jpg cat\nnone.jpg cat\n", "line 2: .*none.jpg does not exist"),
        ("a.jpg cat\nb.jpg 3\n", "line 2: '3' gives numbers of classes, the .* names of labels"),
        ("a.jpg 7\nb.jpg 0 1\n", "line 2: '0 1' gives 2 columns of 0 and 1, the .* numbers of cl"),
        ("a.jpg 0 1\nb.jpg cat\n", "line 2: 'cat' gives names of labels, the .* 2 columns of 0"),
        ("a.jpg 3 7\n", "line 1: column 1 is '3', expected 0 or 1; put commas between numbers"),
        ("a.jpg cat,,dog\n", "line 1: expected different labels between commas, found"),
        ("a.jpg cat,cat\n", "line 1: expected different labels between commas, found"),
        ("a.jpg cat\na.jpg dog\n", "line 2: a.jpg is listed twice, with different labels"),
        ("", "train.txt: no image has a label"),
        ("\n \n", "train.txt: no image has a label"),
        ("a.jpg 0 0\n", "train.txt: no image has a label"),
        (b"a.jpg 0 1\nb.jpg\xff 0 1\n", "train.txt: not a text file in UTF-8"),
    ],
)
def test_an_invalid_list(tmp_path, text, message):
    for name in ("a.jpg", "b.jpg"):
        smooth_image(1, (32, 32)).save(tmp_path / name)
    (tmp_path / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        lists.read(tmp_path / "train.txt")
    with pytest.raises(DataError, match=message):
        labelled.read(tmp_path)


NUMBERS = {f"{n}.png": str(n % 3 * 5) for n in range(6)}  # classes 0, 5 and 10


def test_numbers_of_classes(tmp_path):
    """As in ImageNet's lists: a class per image, not columns."""
    found = lists.read(write(tmp_path, "train.txt", NUMBERS) / "train.txt")
    assert found.classes == ("0", "5", "10")
    assert lists.labels(found.one_hot).tolist() == [0, 1, 2, 0, 1, 2]
    (tmp_path / "classes.txt").write_text("\n".join(f"name {n}" for n in range(11)))
    named = lists.read(tmp_path / "train.txt")
    assert named.names() == [(f"name {n % 3 * 5}",) for n in range(6)]
    (tmp_path / "classes.txt").write_text("\n".join(f"name {n}" for n in range(10)))
    with pytest.raises(DataError, match=r"line 3: .*classes\.txt does not name class 10"):
        lists.read(tmp_path / "train.txt")


def test_two_classes_by_number_are_no_columns(tmp_path):
    lines = {f"{n}.png": str(n % 2) for n in range(4)}
    data = labelled.read(write(tmp_path, "train.txt", lines))
    assert (data.classes, data.labels.tolist()) == (("0", "1"), [0, 1, 0, 1])


def test_names_of_labels(tmp_path):
    lines = {"a b.png": "old  town", "b.png": "cat, old town", "c.png": "cat", "d.png": "cat"}
    data = labelled.read(write(tmp_path, "train.txt", lines))
    assert data.classes == ("cat", "old town")
    assert data.labels.astype(int).tolist() == [[0, 1], [1, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize("name", ["mine.txt", "mine.csv", "labels.csv", "train.txt"])
def test_training_and_evaluation_read_a_file_alike(tmp_path, name):
    """A list or table is found by its own name, or in its folder by a fixed one."""
    write(tmp_path, "unused.txt", NUMBERS)
    separator = "," if name.endswith("csv") else " "
    lines = [f"{path}{separator}{label}" for path, label in NUMBERS.items()]
    (tmp_path / name).write_text("\n".join(lines))
    data = labelled.read(tmp_path / name)
    assert (data.classes, data.labels.tolist()) == (("0", "5", "10"), [0, 1, 2, 0, 1, 2])
    measured = split.drawn(tmp_path / name, 3, 0)
    assert (measured.paths, measured.classes) == (data.images, data.classes)
    assert measured.labels.tolist() == data.labels.tolist()
    if name in ("labels.csv", "train.txt"):
        assert labelled.read(tmp_path).digest() == data.digest()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "path,label\n1.png,cat\n", "line 1: 'path' is no image; .*heading, delete it"),
        ("x.txt", "path label\n1.png cat\n", "line 1: expected an .*if this is a heading, delete"),
        ("x.csv", "0.png,0,1\n1.png,1,0\n", "has columns of 0 and 1, expected names of labels"),
        ("x.csv", "0.png,cat,cat\n", r"line 1: expected path,label,label,\.\.\., found"),
        ("x.csv", "0.png,cat\nnone.png,dog\n", "line 2: .*none.png does not exist"),
        ("x.csv", "0.png;cat\n", "line 1: '0.png;cat' is no image"),
        ("x.csv", "\n", "x.csv: lists no image"),
        ("x.tsv", "0.png\tcat\n", "x.tsv: not a folder, nor a table .* or list"),
    ],
)
def test_files_that_are_no_lists(tmp_path, name, text, message):
    write(tmp_path, "unused.txt", NUMBERS)
    (tmp_path / name).write_text(text)
    for reader in (labelled.read, lambda place: split.drawn(place, 1, 0)):
        with pytest.raises(DataError, match=message):
            reader(tmp_path / name)


def test_queries_and_database_by_name(tmp_path):
    """Each may lack a class of the other."""
    write(tmp_path, "database.txt", {"a.png": "2", "b.png": "10"})
    write(tmp_path, "test.txt", {"q.png": "10", "r.png": "3"})
    images = split.listed(tmp_path)
    assert images.classes == ("2", "3", "10")
    assert images.labels.tolist() == [2, 1, 0, 2]


def test_a_missing_list(tmp_path):
    with pytest.raises(ValueError, match="none.txt: No such file"):
        lists.read(tmp_path / "none.txt")
    assert not lists.is_list(tmp_path / "none.txt")


def test_a_train_txt_of_another_format_is_ignored(tmp_path):
    for name in ("cats/1.png", "cats/2.png", "dogs/1.png", "dogs/2.png"):
        write(tmp_path, "unused.txt", {name: ""})
    (tmp_path / "train.txt").write_text("Images to train on.\n0.1 0 1\n")
    assert labelled.read(tmp_path).classes == ("cats", "dogs")


def test_training_data_with_one_label_each(tmp_path):
    lines = {f"{n}.png": "0 1" if n % 3 else "1 0" for n in range(6)}
    data = labelled.read(write(tmp_path, "train.txt", lines))
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [0, 1, 1, 0, 1, 1]
    assert data.one_hot().tolist() == [[1, 0], [0, 1], [0, 1], [1, 0], [0, 1], [0, 1]]


def several(rows):
    rows = np.array(rows, bool)
    images = np.arange(len(rows), dtype=np.uint8)[:, None, None] * np.ones((8, 8), np.uint8)
    return labelled.Labelled(images, rows, tuple("abcdef"[: rows.shape[1]]))


def test_training_data_with_several_labels_each(tmp_path):
    data = labelled.read(write(tmp_path, "train.txt", SEVERAL))
    assert data.labels.dtype == bool
    assert data.counts().tolist() == [2, 2, 2]
    one_hot = data.one_hot()
    assert one_hot.dtype == np.float32
    assert one_hot.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]
    image, row = labelled.Views(data, Preprocess(32), epoch_seed=3)[1]
    assert (image.dtype, image.shape) == (torch.uint8, (32, 32, 3))
    assert row.dtype == torch.float32
    assert row.tolist() == [1, 1, 0]
    part = data.subset(np.array([2, 0]))
    assert part.labels.tolist() == [[False, True, True], [True, False, False]]
    assert [p.name for p in part.images] == ["e.JPEG", "a.jpg"]


def test_the_digest_depends_on_every_label():
    first, other = several([[1, 0], [1, 1]]), several([[1, 1], [1, 1]])
    assert first.digest() == several([[1, 0], [1, 1]]).digest() != other.digest()


def test_training_data_of_several_labels_that_cannot_be_trained_on(tmp_path):
    write(tmp_path, "train.txt", {"a.jpg": "1", "b.jpg": "1"})
    with pytest.raises(DataError, match="found 1 class, expected at least 2"):
        labelled.read(tmp_path)
    write(tmp_path, "train.txt", {"a.jpg": "1 1", "b.jpg": "1 0"})
    with pytest.raises(DataError, match="class '1' has 1 image, expected at least 2"):
        labelled.read(tmp_path)


def test_a_held_out_share_leaves_every_class_an_image():
    generator = np.random.default_rng(0)
    rows = generator.random((40, 3)) < 0.5
    rows[:, 0] |= ~rows.any(1)
    rows = np.hstack([rows, np.arange(40)[:, None] < 2])  # two images have the rare class
    data = several(rows)
    for seed in range(20):
        rest, held = data.split(0.5, seed)
        assert (len(rest), len(held)) == (20, 20)
        assert rest.counts().min() >= 1
        found = np.sort(np.concatenate([rest.images[:, 0, 0], held.images[:, 0, 0]]))
        assert found.tolist() == list(range(40))
    again, other = data.split(0.5, 3)[1], data.split(0.5, 4)[1]
    assert np.array_equal(again.images, data.split(0.5, 3)[1].images)
    assert not np.array_equal(again.images, other.images)
    with pytest.raises(ValueError, match=r"held-out share of 0\.99 .40 images. leaves a class"):
        data.split(0.99, 0)


def test_lists_of_queries_and_of_the_database(tmp_path):
    write(tmp_path, "database.txt", SEVERAL)
    assert split.listed(tmp_path / "sub") is None
    with pytest.raises(
        ValueError, match=r"database.txt: both test.txt and database.txt are required"
    ):
        split.listed(tmp_path)
    write(tmp_path, "test.txt", {"q.png": "0 1 0", "r.png": "1 1 1"})
    images = split.listed(tmp_path)
    assert [images.paths[q].name for q in images.queries] == ["q.png", "r.png"]
    stored = [images.paths[d].relative_to(tmp_path).as_posix() for d in images.database]
    assert stored == list(SEVERAL)
    assert images.labels[images.queries].tolist() == [[False, True, False], [True] * 3]
    write(tmp_path, "test.txt", {"q.png": "0 1"})
    with pytest.raises(ValueError, match=r"test.txt has 2 columns, .*database.txt 3"):
        split.listed(tmp_path)
    write(tmp_path, "test.txt", {"q.png": "0 1 0", "sub/../a.jpg": "1 0 0"})
    with pytest.raises(ValueError, match=r"a\.jpg is a query and in the database"):
        split.listed(tmp_path)


def test_evaluate_takes_the_lists(tmp_path, monkeypatch, capsys):
    import evaluate

    colours = {f"d{n}.png": "0 1" if n % 2 else "1 0" for n in range(12)}
    write(tmp_path, "database.txt", colours)
    write(tmp_path, "test.txt", {"q.png": "1 1"})
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path)])
    assert evaluate.main() == 0
    printed = capsys.readouterr().out
    assert "1 queries, 12 in the database, 2 classes" in printed
    assert re.search(r"tie-aware +1\.0000", printed)  # every image shares a label with it
    for extra in (["--queries", "3"], ["--seed", "0"], ["--queries", str(tmp_path)]):
        monkeypatch.setattr(sys, "argv", ["evaluate.py", str(tmp_path), *extra])
        assert evaluate.main() == 2
        assert "lists define the queries; omit --queries and --seed" in capsys.readouterr().err


def test_lists_and_splits_do_not_import_torch():
    script = (
        "import sys; sys.modules['torch'] = None; "
        "from attention_hashing.data import lists; from attention_hashing.evaluation import split"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT / "export", capture_output=True)
    assert done.returncode == 0, done.stderr


def test_training_and_evaluation_with_several_labels(tmp_path):
    """Both stages, then evaluation, where sharing a label counts as correct."""
    from attention_hashing import training
    from attention_hashing.evaluation.metrics import mean_by_code
    from attention_hashing.evaluation.neighbours import neighbour_precision

    lines = {f"{n}.png": "1 0 0" if n % 3 else "0 1 1" for n in range(16)}
    data = labelled.read(write(tmp_path, "train.txt", lines))
    rest, held = data.split(0.25, seed=0)
    config = training.Config(
        bits=8,
        size=32,
        branch_epochs=1,
        hash_epochs=1,
        batch_size=8,
        hidden=8,
        several_labels=True,
    )
    network = training.train(rest, config, tmp_path, torch.device("cpu"))
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert 0 < neighbour_precision(network, config, rest, held) < 1
    codes = np.where(data.labels[:, :1], 0, 255).astype(np.uint8)
    assert mean_by_code(codes, data.labels, np.arange(16)) == 1
