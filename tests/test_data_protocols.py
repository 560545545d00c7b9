"""Named retrieval protocols: their counts, their draw, and stored splits."""

import json

import numpy as np
import pytest

from attention_hashing.data import labelled, protocols
from attention_hashing.data.errors import DataError
from conftest import smooth_image
from test_cifar import IMAGES, LABELS, binary_version, pack, python_version, write

A_CLASS = 610


@pytest.fixture(scope="module")
def small():
    """Ten classes with 610 tiny images each, in mixed order."""
    labels = np.random.default_rng(5).permutation(np.repeat(np.arange(10), A_CLASS))
    values = np.random.default_rng(6).integers(0, 256, (10 * A_CLASS, 2, 2, 3), dtype=np.uint8)
    return labelled.Labelled(values, labels, tuple("abcdefghij"))


def by_class(data, positions):
    return np.bincount(data.labels[positions], minlength=10).tolist()


@pytest.mark.parametrize(("name", "of_each"), [("cifar10", 10), ("cifar10-1", 510)])
def test_the_usual_protocols(small, name, of_each):
    split = protocols.draw(name, small, 0)
    assert by_class(small, split.queries) == [100] * 10
    assert by_class(small, split.training) == [500] * 10
    assert by_class(small, split.database) == [of_each] * 10
    assert not np.intersect1d(split.queries, [*split.training, *split.database]).size
    everything = np.union1d(np.union1d(split.queries, split.training), split.database)
    assert everything.tolist() == list(range(len(small)))
    together = np.intersect1d(split.training, split.database)
    assert len(together) == (5000 if name == "cifar10-1" else 0)


def test_the_draw_is_the_documented_one(small):
    rng = np.random.default_rng(7)
    expected = ([], [], [])
    for label in range(10):
        order = rng.permutation(np.flatnonzero(small.labels == label))
        for part, some in zip(expected, np.split(order, [100, 600]), strict=True):
            part.extend(some)
    split = protocols.draw("fashion-mnist", small, 7)
    for found, part in zip((split.queries, split.training, split.database), expected, strict=True):
        assert found.tolist() == sorted(part)
    one = protocols.draw("cifar10-1", small, 7)
    assert one.queries.tolist() == split.queries.tolist()
    assert one.training.tolist() == split.training.tolist()
    assert one.digest() != split.digest() == protocols.draw("cifar10", small, 7).digest()
    assert split.digest() != protocols.draw("cifar10", small, 8).digest()


def test_unseen_classes(small):
    drawn = set()
    for seed in range(4):
        split = protocols.draw("cifar10-unseen", small, seed)
        training, queries, database = (
            np.array(by_class(small, part))
            for part in (split.training, split.queries, split.database)
        )
        seen = training > 0
        assert seen.sum() == 7
        assert training[seen].tolist() == [500] * 7
        assert queries.tolist() == (100 * ~seen).tolist()
        assert database.tolist() == ((A_CLASS - 100) * ~seen).tolist()
        assert not np.intersect1d(split.queries, split.database).size
        drawn.add(tuple(seen))
    assert len(drawn) > 1


def test_a_protocol_within_the_training_images(small):
    whole = protocols.draw("cifar10-1", small, 0)
    inner = protocols.within_training(whole)
    sizes = [len(part) for part in (inner.queries, inner.training, inner.database)]
    assert sizes == [625, 3750, 625]
    together = np.concatenate([inner.queries, inner.training, inner.database])
    assert sorted(together) == whole.training.tolist()
    assert inner.digest() == protocols.within_training(whole).digest()

    whole = protocols.draw("cifar10-unseen", small, 0)
    inner = protocols.within_training(whole)
    queries, training, database = (
        by_class(small, part) for part in (inner.queries, inner.training, inner.database)
    )
    assert sorted(training) == [0] * 5 + [500] * 5
    held_out = {place for place in range(10) if queries[place]}
    assert len(held_out) == 2
    assert held_out == {place for place in range(10) if database[place]}
    assert sum(queries) == sum(database) == 500
    assert not set(inner.queries) & set(inner.database)
    assert {*inner.queries, *inner.database, *inner.training} == {*whole.training}


def test_an_impossible_draw(small):
    with pytest.raises(ValueError, match="protocol is 'cifar100', expected one of cifar10, "):
        protocols.draw("cifar100", small, 0)
    with pytest.raises(ValueError, match="protocol is 'mnist'"):
        protocols.images("mnist", None)
    few = small.subset(np.flatnonzero((small.labels != 3) | (np.cumsum(small.labels == 3) <= 600)))
    with pytest.raises(DataError, match="class 'd' has 600 images, cifar10 requires more"):
        protocols.draw("cifar10", few, 0)
    rows = labelled.Labelled(small.images, small.one_hot() > 0, small.classes)
    with pytest.raises(DataError, match="each image must have exactly one class"):
        protocols.draw("cifar10", rows, 0)


def test_a_split_is_stored(small, tmp_path):
    split = protocols.draw("cifar10-unseen", small, 3)
    path = tmp_path / "split.json"
    split.save(path)
    found = protocols.load(path, small)
    assert (found.name, found.seed, found.digest()) == ("cifar10-unseen", 3, split.digest())
    assert found.database.tolist() == split.database.tolist()
    assert found.data is small

    values = small.images.copy()
    values[17] ^= 1
    other = labelled.Labelled(values, small.labels, small.classes)
    with pytest.raises(DataError, match="split.json: a split of other images; use"):
        protocols.load(path, other)
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"format": 2}))
    with pytest.raises(DataError, match="has format 2, this version reads 1"):
        protocols.load(path, small)
    state["queries"][5] += 1
    path.write_text(json.dumps(state))
    with pytest.raises(DataError, match="damaged: its positions differ"):
        protocols.load(path, small)
    without = {key: value for key, value in state.items() if key != "training"}
    for text in ("", "[]", json.dumps(without), json.dumps(state | {"queries": [2**70]}), "\x00"):
        path.write_text(text)
        with pytest.raises(DataError, match="split.json: not a split, or a damaged one"):
            protocols.load(path, small)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="split.json: not a split, or a damaged one"):
        protocols.load(path, small)


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar10_as_published_in_its_order(tmp_path, version):
    files = python_version() if version == "python" else binary_version()
    end = "" if version == "python" else ".bin"
    files[f"test_batch{end}"] = files[f"data_batch_1{end}"]
    pack(tmp_path / f"cifar-10-{version}.tar.gz", files)
    folder = write(tmp_path / "unpacked", files)
    for place in (tmp_path, folder):
        data = protocols._cifar10(place)
        assert np.array_equal(data.images, np.concatenate([IMAGES, IMAGES[:2]]))
        assert data.labels.tolist() == [*LABELS, *LABELS[:2]]
        with pytest.raises(DataError, match=r"found \[5, 4, 3\] images.*6000 in each"):
            protocols.images("cifar10", place)
    (folder / f"test_batch{end}").unlink()
    with pytest.raises(DataError, match="CIFAR-10 lacks 'test_batch"):
        protocols.images("cifar10", folder)


def test_cifar10_in_class_folders(tmp_path, monkeypatch):
    monkeypatch.setitem(protocols._SETS, "cifar10", 3)
    root = tmp_path / "cifar10"
    for part, names in (("train", ("0000.jpg", "0001.jpg")), ("test", ("0000.jpg",))):
        for number in range(10):
            folder = root / part / f"class{number}"
            folder.mkdir(parents=True)
            for name in names:
                smooth_image(number, (32, 32)).save(folder / name)
    data = protocols.images("cifar10-1", tmp_path)
    assert data.classes == tuple(f"class{number}" for number in range(10))
    assert data.labels.tolist() == [n // 2 for n in range(20)] + list(range(10))
    assert data.images[1] == root / "train" / "class0" / "0001.jpg"
    assert data.images[20] == root / "test" / "class0" / "0000.jpg"
    assert protocols.images("cifar10", root).images == data.images
    (root / "test" / "class4").rename(root / "test" / "other")
    with pytest.raises(DataError, match="train and test have different class folders"):
        protocols.images("cifar10", tmp_path)
    with pytest.raises(DataError, match="contains neither CIFAR-10 as published nor train/"):
        protocols.images("cifar10", root / "train")


def test_fashion_mnist_in_its_order(tmp_path, monkeypatch):
    monkeypatch.setitem(protocols._SETS, "fashion-mnist", 2)
    values = np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for part, rows in (("train", slice(14)), ("t10k", slice(14, 20))):
        for name, array in (("images-idx3", values[rows]), ("labels-idx1", labels[rows])):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (tmp_path / f"{part}-{name}-ubyte").write_bytes(header + array.tobytes())
    data = protocols.images("fashion-mnist", tmp_path)
    assert np.array_equal(data.images, values)
    assert data.labels.tolist() == labels.tolist()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte: not an IDX file"):
        protocols.images("fashion-mnist", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").rename(tmp_path / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match="ubyte.gz: not a gzip file, or a damaged one"):
        protocols.images("fashion-mnist", tmp_path)


def test_fashion_mnist_where_it_is_installed():
    folder = labelled.Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian package dataset-fashion-mnist is not installed")
    split = protocols.draw("fashion-mnist", protocols.images("fashion-mnist", folder), 0)
    assert (len(split.queries), len(split.training), len(split.database)) == (1000, 5000, 64000)
