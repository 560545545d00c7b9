"""Folders of images: class folders are read once, and alike, for training and for evaluation."""

import pytest

from attention_hashing.data import labelled
from attention_hashing.data.errors import DataError
from attention_hashing.data.folders import images_below, read
from attention_hashing.evaluation.split import drawn, given


def test_training_and_evaluation_see_the_same_images(make_image, tmp_path):
    """Including those in folders inside a class folder, excluding those outside class folders."""
    names = ["a/1.jpg", "a/more/2.png", "a/more/and more/3.JPG", "b/4.jpg", "b/5.webp"]
    for seed, name in enumerate([*names, "outside.jpg"]):
        make_image(name, seed)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "c").mkdir()
    trained, measured = labelled.read(tmp_path), read(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in trained.images] == names
    assert list(measured) == trained.images
    of_training = [(trained.classes[label],) for label in trained.labels]
    assert of_training == list(measured.values()) == [("a",)] * 3 + [("b",)] * 2
    split = drawn(tmp_path, 2, seed=0)
    assert split.paths == trained.images
    assert split.labels.tolist() == trained.labels.tolist()
    assert split.classes == trained.classes


def test_training_and_evaluation_raise_the_same_error(make_image, tmp_path):
    make_image("outside.jpg")
    for reader in (labelled.read, read, images_below):
        with pytest.raises(DataError, match="none: not a folder|none: contains no images"):
            reader(tmp_path / "none")
    with pytest.raises(DataError, match="found 0 class, expected at least 2"):
        labelled.read(tmp_path)
    with pytest.raises(DataError, match="contains no class folders with images"):
        read(tmp_path)
    assert issubclass(DataError, ValueError)


def test_train_and_test_folders_are_not_read_as_classes(make_image, tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            for seed in range(2):
                make_image(f"{part}/{name}/{seed}.jpg", seed)
    with pytest.raises(DataError, match="the classes are inside train/; name that folder"):
        read(tmp_path)
    assert list(read(tmp_path / "train")) == labelled.read(tmp_path).images
    split = given(tmp_path / "train", tmp_path / "test")
    assert (len(split.queries), len(split.database), split.classes) == (4, 4, ("a", "b"))
    # A class that happens to have that name is one.
    for name in ("ship", "train"):
        make_image(f"vehicles/{name}/1.jpg")
    assert list(read(tmp_path / "vehicles").values()) == [("ship",), ("train",)]


def test_images_below_a_folder_come_by_path(make_image, tmp_path):
    for name in ("b/1.png", "a.jpg", "b/a/2.gif", "c.txt.jpg"):
        make_image(name)
    found = [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)]
    assert found == ["a.jpg", "b/1.png", "b/a/2.gif", "c.txt.jpg"]
