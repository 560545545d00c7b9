"""CIFAR-10 in its published forms, with few images made here."""

import io
import os
import pickle
import pickletools
import tarfile

import numpy as np
import pytest

from attention_hashing.data import labelled
from attention_hashing.data.errors import DataError
from bitgaze.encoding.images import Preprocess

NAMES = ["airplane", "bird", "cat"]
IMAGES = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(10) % 3


def python2_pickle(value):
    """Pickle as Python 2 with numpy 1 did: text without an encoding, old module names."""
    content = bytearray(pickle.dumps(value, protocol=3))
    for opcode, _, position in pickletools.genops(bytes(content)):
        if opcode.name == "SHORT_BINBYTES":
            content[position : position + 1] = b"U"
        elif opcode.name in ("BINBYTES", "BINUNICODE"):
            content[position : position + 1] = b"T"
    return bytes(content).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python_version():
    files = {"batches.meta": python2_pickle({b"label_names": [name.encode() for name in NAMES]})}
    for number in range(5):
        rows = slice(2 * number, 2 * number + 2)
        data = np.ascontiguousarray(IMAGES[rows].transpose(0, 3, 1, 2)).reshape(2, 3072)
        batch = {b"data": data, b"labels": LABELS[rows].tolist(), b"batch_label": b"training"}
        files[f"data_batch_{number + 1}"] = python2_pickle(batch)
    return files | {"test_batch": b"left alone"}


def binary_version():
    files = {"batches.meta.txt": "\n".join([*NAMES, ""]).encode()}
    planes = IMAGES.transpose(0, 3, 1, 2).reshape(10, 3072)
    records = np.concatenate([LABELS[:, None].astype(np.uint8), planes], axis=1)
    for number in range(5):
        files[f"data_batch_{number + 1}.bin"] = records[2 * number : 2 * number + 2].tobytes()
    return files | {"test_batch.bin": b"left alone"}


def write(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pack(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def check(data):
    assert np.array_equal(data.images, IMAGES)
    assert data.labels.tolist() == LABELS.tolist()
    assert data.classes == tuple(NAMES)


@pytest.mark.parametrize(
    ("name", "files"), [("py", python_version()), ("bin", binary_version())], ids=["py", "bin"]
)
def test_a_folder_as_published(tmp_path, name, files):
    folder = write(tmp_path / f"cifar-10-batches-{name}", files)
    check(labelled.read(folder))
    check(labelled.read(tmp_path))


@pytest.mark.parametrize(
    ("name", "files"),
    [("python", python_version()), ("binary", binary_version())],
    ids=["python", "binary"],
)
def test_an_archive_as_published(tmp_path, name, files):
    archive = pack(tmp_path / f"cifar-10-{name}.tar.gz", files)
    check(labelled.read(archive))
    check(labelled.read(tmp_path))
    assert list(tmp_path.iterdir()) == [archive]


def test_the_images_can_be_trained_on(tmp_path):
    data = labelled.read(write(tmp_path / "cifar-10-batches-bin", binary_version()))
    assert len(data.digest()) == 64
    image, one_hot = labelled.Views(data, Preprocess(32), epoch_seed=None)[4]
    assert np.array_equal(image, IMAGES[4])
    assert one_hot.tolist() == [0, 1, 0]
    assert labelled.Views(data, Preprocess(32), epoch_seed=1)[4][0].shape == (32, 32, 3)


class Program:
    def __reduce__(self):
        return os.mkdir, ("it-ran",)


def test_a_pickle_that_runs_a_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = pickle.dumps(Program())
    folder = write(tmp_path / "cifar-10-batches-py", python_version() | {"data_batch_2": program})
    with pytest.raises(DataError, match="a damaged copy .it would call posix.mkdir"):
        labelled.read(folder)
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("files", [python_version(), binary_version()], ids=["py", "bin"])
def test_damaged_or_missing_batches(tmp_path, files):
    folder = write(tmp_path / "cifar", files)
    third = next(p for p in folder.iterdir() if p.name.startswith("data_batch_3"))
    third.write_bytes(third.read_bytes()[:-1])
    with pytest.raises(DataError, match="not CIFAR-10, or a damaged copy"):
        labelled.read(folder)
    third.unlink()
    with pytest.raises(DataError, match="CIFAR-10 lacks 'data_batch_3"):
        labelled.read(folder)


def test_labels_without_a_class_and_a_broken_archive(tmp_path):
    files = binary_version() | {"batches.meta.txt": b"airplane\nbird\n"}
    with pytest.raises(DataError, match=r"labels 0\.\.2, 2 classes"):
        labelled.read(write(tmp_path / "cifar", files))
    archive = tmp_path / "cifar-10-python.tar.gz"
    archive.write_bytes(pack(tmp_path / "whole.tar.gz", python_version()).read_bytes()[:2000])
    with pytest.raises(DataError, match="not an archive, or a damaged one"):
        labelled.read(archive)
