"""Galleries in read-only files and folders, and in folders without access."""

import os
import subprocess
import sys

import numpy as np
import pytest

from bitgaze import Gallery, Item, repair
from galleries import codes, items


def without_privileges(script, path):
    """Run a script in a process that is bound by permissions, even if started by root."""
    prelude = """
import ctypes, os, sys, numpy as np
from pathlib import Path
from bitgaze import Gallery, GalleryError, Item
if os.geteuid() == 0:  # capset(2): drop all of root's capabilities
    assert ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522), (ctypes.c_uint32 * 6)()) == 0
path = Path(sys.argv[1])
code = np.zeros(16, np.uint8)
def refused(call, *arguments):
    try:
        call(*arguments)
    except GalleryError as error:
        return str(error)
    raise AssertionError("no GalleryError was raised")
"""
    run = [sys.executable, "-c", prelude + script, path]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("file_mode", "folder_mode"), [(0o444, 0o755), (0o644, 0o555)])
def test_a_read_only_gallery_can_be_searched(tmp_path, file_mode, folder_mode):
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
    path.parent.chmod(0o555)  # while a writer has the gallery open
    with Gallery(path) as second:
        assert "newer" in second
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)


def test_a_folder_without_access_raises_a_typed_error(tmp_path):
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


def test_an_unreadable_log_is_not_ignored(tmp_path):
    path = tmp_path / "archive" / "test.bitgaze"
    path.parent.mkdir()
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
        content = path.read_bytes(), path.with_name("test.bitgaze-wal").read_bytes()
    path.write_bytes(content[0])
    path.with_name("test.bitgaze-wal").write_bytes(content[1])
    path.parent.chmod(0o555)
    script = """
assert "recent changes are in its log (test.bitgaze-wal)" in refused(Gallery, path)
path.parent.chmod(0o755)
assert len(Gallery(path)) == 3
"""
    try:
        without_privileges(script, path)
    finally:
        path.parent.chmod(0o755)


def test_a_read_only_reader_sees_commits_of_a_writer(path, monkeypatch):
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


def test_a_read_only_gallery_can_be_backed_up_and_repaired_elsewhere(tmp_path):
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


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
@pytest.mark.parametrize(("folder_mode", "expected"), [(0o755, 0o600), (0o2775, 0o664)])
def test_a_new_gallery_is_private_unless_its_folder_is_shared(
    path, tmp_path, folder_mode, expected
):
    tmp_path.chmod(folder_mode)
    before = os.umask(0o002)
    try:
        (tmp_path / "link").symlink_to(tmp_path / "linked")
        for name in ("g", "link"):
            with Gallery(tmp_path / name, bits=64) as gallery:
                gallery.add_code("a", np.zeros(8, np.uint8))
                gallery.backup(tmp_path / f"{name} copy")
                files = [file for file in tmp_path.iterdir() if file.exists()]
                modes = {file.name: file.stat().st_mode & 0o777 for file in files}
                assert set(modes.values()) == {expected}, modes
        repair(tmp_path / "g", tmp_path / "repaired")
        assert (tmp_path / "repaired").stat().st_mode & 0o777 == expected
        (tmp_path / "g").chmod(0o640)
        Gallery(tmp_path / "g").close()
        assert (tmp_path / "g").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
