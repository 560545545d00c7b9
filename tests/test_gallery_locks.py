"""A gallery whose locks were lost, whose file was replaced, or whose process was forked."""

import os
import shutil
import subprocess
import sys
import traceback

import pytest

from bitgaze import Gallery, GalleryError, verify_gallery
from galleries import BITS, codes, items

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX locks and fork")


@pytest.fixture
def gallery(path):
    with Gallery(path, bits=BITS) as gallery:
        gallery.upsert(items(30))
        yield gallery


def add_in_another_process(path, count):
    code = (
        "import numpy as np, sys\n"
        "from bitgaze import Gallery\n"
        "with Gallery(sys.argv[1], create=False) as gallery:\n"
        "    for n in range(int(sys.argv[2])):\n"
        "        gallery.add_code(f'theirs {n}', np.zeros(16, np.uint8))\n"
    )
    subprocess.run([sys.executable, "-c", code, path, str(count)], check=True)


def in_a_child(function):
    """Call a function in a forked child; returns whether it raised nothing."""
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("is_written_between", [False, True])
def test_nothing_is_lost_when_the_process_copies_its_gallery(gallery, is_written_between):
    shutil.copy(gallery.path, gallery.path.with_name("copy"))  # drops SQLite's locks
    if is_written_between:
        gallery.add_code("between", codes(1)[0])
    add_in_another_process(gallery.path, 20)
    gallery.add_code("ours", codes(1)[0])
    assert len(gallery) == 51 + is_written_between
    gallery.close()
    found = verify_gallery(gallery.path)
    assert found.is_sound
    assert found.items == 51 + is_written_between


def test_a_transaction_that_lost_its_locks_writes_nothing(gallery):
    shutil.copy(gallery.path, gallery.path.with_name("copy"))
    for end in ("", "-shm", "-wal"):  # as if replaced by another gallery
        shutil.copy(f"{gallery.path}{end}", f"{gallery.path}.new{end}")

    def write():
        with gallery.transaction():
            gallery.add_code("ours", codes(1)[0])
            for end in ("", "-shm", "-wal"):
                os.replace(f"{gallery.path}.new{end}", f"{gallery.path}{end}")  # noqa: PTH105

    with pytest.raises(GalleryError, match="use backup"):
        write()
    assert len(gallery) == 30
    assert "ours" not in gallery


def test_a_gallery_that_replaces_the_file_is_read(gallery, tmp_path):
    with Gallery(tmp_path / "other", bits=BITS) as other:
        other.upsert(items(3, seed=1))
    for end in ("-wal", "-shm"):
        os.unlink(f"{gallery.path}{end}")  # noqa: PTH108
    (tmp_path / "other").replace(gallery.path)
    assert len(gallery) == 3
    gallery.add_code("ours", codes(1)[0])
    assert len(gallery) == 4


def test_a_forked_child_reads_and_does_not_write(gallery):
    def use():
        assert gallery.get("item 3").metadata == {"i": 3}
        for write in (
            lambda: gallery.add_code("child", codes(1)[0]),
            lambda: gallery.remove("item 1"),
        ):
            with pytest.raises(GalleryError, match=r"before this process was forked.* open it"):
                write()
        with Gallery(gallery.path, create=False) as own:
            own.add_code("child", codes(1)[0])
        assert "child" in gallery
        gallery.close()

    assert in_a_child(use)
    gallery.add_code("parent", codes(1)[0])
    assert len(gallery) == 32
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


def test_a_child_that_was_forked_in_a_transaction_leaves_it_alone(gallery):
    def use():
        with pytest.raises(GalleryError, match="a transaction was open when this process was for"):
            len(gallery)
        with Gallery(gallery.path, create=False) as own:
            assert len(own) == 30

    with gallery.transaction():
        gallery.remove("item 1")
        gallery.add_code("parent", codes(1)[0])
        gallery.add_code("parent 2", codes(1)[0])
        assert in_a_child(use)
    assert len(gallery) == 31
    gallery.close()
    assert verify_gallery(gallery.path).is_sound


def test_a_gallery_stays_itself_when_the_working_directory_changes(tmp_path, monkeypatch):
    for name, key in (("a", "mine"), ("b", "other")):
        (tmp_path / name).mkdir()
        with Gallery(tmp_path / name / "g", bits=BITS) as gallery:
            gallery.add_code(key, codes(1)[0])
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    with Gallery("g", bits=BITS) as gallery:
        for folder in ("b", "empty"):
            monkeypatch.chdir(tmp_path / folder)
            assert "mine" in gallery
            assert "other" not in gallery
            gallery.add_code(f"written in {folder}", codes(1)[0])
            gallery.rename(f"written in {folder}", folder)
            gallery.compact()
            gallery.backup("copy")
            assert (tmp_path / folder / "copy").exists()
        add_in_another_process(tmp_path / "a" / "g", 1)
        assert len(gallery) == 4
    with Gallery(tmp_path / "b" / "g") as other:
        assert list(other) == ["other"]
    assert not (tmp_path / "empty" / "g").exists()
