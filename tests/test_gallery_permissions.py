"""Galleries in files and folders that may not be written or entered."""

import subprocess
import sys

import pytest

from bitgaze import Gallery, Item
from galleries import codes, items


def without_privileges(script, path):
    """Run a script in a process that permissions bind, also if it is root's."""
    prelude = """
import ctypes, os, sys, numpy as np
from pathlib import Path
from bitgaze import Gallery, GalleryError, Item
if os.geteuid() == 0:  # capset(2): none are left, of those that root has
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()) == 0
path = Path(sys.argv[1])
code = np.zeros(16, np.uint8)
def refused(call, *arguments):
    try:
        call(*arguments)
    except GalleryError as error:
        return str(error)
    raise AssertionError("nothing was refused")
"""
    run = [sys.executable, "-c", prelude + script, path]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o644, 0o555)])
def test_a_gallery_that_may_only_be_read_is_searched(tmp_path, file_mode, folder_mode):
    path = tmp_path / "archive" / "test.bitgaze"
    path.parent.mkdir()
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    path.chmod(file_mode)
    path.parent.chmod(folder_mode)
    script = """
for create in (True, False):
    with Gallery(path, create=create) as gallery:
        assert list(gallery) == ["item 0", "item 1", "item 2"]
        assert gallery.search("item 1", k=1)[0].distance == 0
        for change in ([gallery.upsert, [Item("new", code)]], [gallery.remove, "item 0"]):
            assert "test.bitgaze: the file or its folder is read-only" in refused(*change)
        assert len(gallery) == 3
        assert os.listdir(path.parent) == [path.name]
with Gallery(path) as reader:
    path.chmod(0o644)
    path.parent.chmod(0o755)
    with Gallery(path) as writer:
        writer.upsert([Item("new", code)])
        assert "new" in reader
    writer = Gallery(path)
    writer.upsert([Item("newer", code)])
    path.parent.chmod(0o555)  # a writer is here, and stays
    with Gallery(path) as second:
        assert "newer" in second
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)


def test_a_folder_that_may_not_be_entered(tmp_path):
    path = tmp_path / "private" / "test.bitgaze"
    path.parent.mkdir(mode=0)
    script = """
for create in (True, False):
    assert "test.bitgaze" in refused(lambda: Gallery(path, create=create))
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)


def test_a_log_that_cannot_be_read_is_not_ignored(tmp_path):
    path = tmp_path / "archive" / "test.bitgaze"
    path.parent.mkdir()
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
        content = path.read_bytes(), path.with_name("test.bitgaze-wal").read_bytes()
    path.write_bytes(content[0])
    path.with_name("test.bitgaze-wal").write_bytes(content[1])
    path.parent.chmod(0o555)
    script = """
assert "changes in the log beside it" in refused(Gallery, path)
path.parent.chmod(0o755)
assert len(Gallery(path)) == 3
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)


def test_a_reader_that_may_not_write_sees_a_writer_who_may(path, monkeypatch):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))

    def access(allowed):
        monkeypatch.setattr("bitgaze.gallery.file_format.os.access", lambda *_: allowed)

    access(False)
    with Gallery(path) as reader:
        access(True)
        with Gallery(path) as writer:
            writer.upsert([Item("one", codes(1)[0])])
        access(False)
        assert "one" in reader
        access(True)
        with Gallery(path) as writer:
            writer.upsert([Item("two", codes(1)[0])])
            access(False)
            assert "two" in reader
            writer.remove("one")
            assert "one" not in reader
        assert len(reader) == 4


def test_a_gallery_that_may_only_be_read_is_saved_elsewhere(tmp_path):
    path = tmp_path / "archive" / "test.bitgaze"
    path.parent.mkdir()
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    path.parent.chmod(0o555)
    script = """
from bitgaze import repair
gallery = Gallery(path)
gallery.backup(path.parent.parent / "copy.bitgaze")
assert repair(path, path.parent.parent / "saved.bitgaze").kept == 3
for call in (gallery.backup, lambda out: repair(path, out)):
    assert "other.bitgaze" in refused(call, path.parent / "other.bitgaze")
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)
