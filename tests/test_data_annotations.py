"""Images with several labels and boxes: the reader, and the protocols drawn on it."""

import numpy as np
import pytest

from attention_hashing.data import annotations, labelled, protocols
from attention_hashing.data.errors import DataError
from attention_hashing.data.folders import read
from attention_hashing.evaluation.split import drawn


@pytest.fixture
def table(make_image, tmp_path):
    """Write an annotations.tsv with these lines beside four images of 40 x 30 px."""
    for seed, name in enumerate(["1", "2", "3", "4"]):
        make_image(f"{name}.png", seed, (40, 30))

    def write(*lines):
        (tmp_path / "annotations.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return tmp_path

    return write


LINES = (
    "1.png\tdog,cat\tdog:4,3,20,30 cat:20,0,40,15\ttrain",
    "2.png\tdog\t\ttrain",
    "",
    "3.png\tcat",
    "4.png\tdog,bird\tbird:0,0,40,30\ttest",
)


def test_labels_boxes_and_parts(table):
    found = annotations.read(table(*LINES))
    assert [path.name for path in found.paths] == ["1.png", "2.png", "3.png", "4.png"]
    assert found.classes == ("bird", "cat", "dog")
    assert found.one_hot().tolist() == [[0, 1, 1], [0, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert found.parts == ["train", "train", "", "test"]
    assert found.boxes[0].labels.tolist() == [2, 1]
    expected = [[0.1, 0.1, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]]
    assert np.allclose(found.boxes[0].corners, expected)
    assert found.boxes[1].corners.shape == (0, 4)
    assert found.boxes[3].corners.tolist() == [[0, 0, 1, 1]]


def test_training_reads_the_part_named_train_and_evaluation_everything(table):
    folder = table(*LINES)
    assert [path.name for path in labelled._read_any(folder).images] == ["1.png", "2.png"]
    assert [path.name for path in read(folder)] == ["1.png", "2.png", "3.png", "4.png"]
    assert drawn(folder, 1, seed=0).labels.tolist() == annotations.read(folder).one_hot().tolist()
    assert len(labelled.read(table("1.png\ta", "2.png\ta", "3.png\tb", "4.png\tb"))) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1.png", "line 1: expected path, labels, boxes and part"),
        ("1.png\tdog,", "line 1: expected path, labels"),
        ("1.png\tdog\t\ttrain\tmore", "line 1: expected path, labels"),
        ("5.png\tdog", "5.png does not exist"),
        ("1.png\tdog\n1.png\tcat", "line 2: 1.png is listed twice"),
        ("1.png\tdog\tdog:1,2,3", "expected label:x0,y0,x1,y1, found 'dog:1,2,3'"),
        ("1.png\tdog\tdog:1,2,3,x", "expected label:x0,y0,x1,y1"),
        ("1.png\tdog\tcat:1,2,3,4", "a box of 'cat', which is not a label of the image"),
        ("1.png\tdog\tdog:1,2,41,4", "dog:1,2,41,4 is not inside 40 x 30 px"),
        ("1.png\tdog\tdog:3,2,3,4", "is not inside"),
        ("", "lists no image"),
    ],
)
def test_invalid_lines(table, line, message):
    with pytest.raises(DataError, match=message):
        annotations.read(table(line))


def test_no_table(tmp_path):
    with pytest.raises(DataError, match="annotations.tsv: No such file"):
        annotations.read(tmp_path)
    (tmp_path / "annotations.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="not a text file in UTF-8"):
        annotations.read(tmp_path)


def test_the_protocols_of_several_labels():
    rng = np.random.default_rng(0)
    labels = rng.random((1200, 4)) < 0.4
    labels[:, 0] |= ~labels.any(1)
    data = labelled.Labelled(rng.integers(0, 256, (1200, 2, 2, 3), np.uint8), labels, tuple("abcd"))
    seen, others = (protocols.draw(name, data, 3) for name in ("voc2012", "voc2012-others"))
    order = np.random.default_rng(3).permutation(1200)
    assert seen.queries.tolist() == others.queries.tolist() == sorted(order[:300])
    assert seen.training.tolist() == others.training.tolist() == sorted(order[300:1100])
    assert seen.database.tolist() == sorted(order[300:])
    assert others.database.tolist() == sorted(order[1100:])
    with pytest.raises(DataError, match="1100 images, expected more than 1100"):
        protocols.draw("voc2012", data.subset(np.arange(1100)), 0)


def test_the_complete_set_is_required(table, monkeypatch):
    monkeypatch.setitem(protocols._OF_SEVERAL_LABELS, "voc2012", 4)
    data = protocols.images("voc2012-others", table(*LINES))
    assert data.counts().tolist() == [1, 2, 3]
    with pytest.raises(DataError, match="found 1 images, but voc2012 has 4"):
        protocols.images("voc2012", table(LINES[0]))


def test_the_protocol_of_groceries(table, monkeypatch):
    monkeypatch.setattr(protocols, "_GROCERY", {"iconic": 1, "train": 2, "test": 1})
    lines = [
        "1.png\tpear,fruit\t\ttest",
        "2.png\tpear,fruit\t\ttrain",
        "3.png\tmilk,drinks\t\ttrain",
        "4.png\tpear,fruit\t\ticonic",
    ]
    data = protocols.images("grocery", table(*lines))
    assert [path.name for path in data.images] == ["4.png", "2.png", "3.png", "1.png"]
    assert (data.classes, data.labels.tolist()) == (("milk", "pear"), [1, 1, 0, 1])
    for seed in (0, 1):
        drawn = protocols.draw("grocery", data, seed)
        assert [part.tolist() for part in (drawn.queries, drawn.training)] == [[0], [1, 2]]
        assert drawn.database.tolist() == [3]
    with pytest.raises(DataError, match="3 images, but grocery has 4"):
        protocols.draw("grocery", data.subset(np.arange(3)), 0)
    with pytest.raises(DataError, match=r"parts have {'test': 1, 'train': 2} images, but those"):
        protocols.images("grocery", table(*lines[:3]))


def test_unused_classes_are_dropped_from_several_labels():
    labels = np.array([[1, 0, 1], [1, 0, 0]], bool)
    data = labelled.Labelled(np.zeros((2, 2, 2), np.uint8), labels, tuple("abc"))
    found = data.with_present_classes()
    assert found.classes == ("a", "c")
    assert found.labels.tolist() == [[1, 1], [1, 0]]
