"""File formats: older ones are upgraded, newer ones are rejected and left unchanged."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bitgaze import Gallery, GalleryCorrupt, GalleryError, repair
from bitgaze.gallery.file_format import FORMAT_VERSION, new_file
from conftest import ROOT
from galleries import execute

# Written by the version of bitgaze that had format 1. Never regenerate it.
OLD = ROOT / "tests" / "data" / "format-1.bitgaze"


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copy(OLD, tmp_path / "old.bitgaze"))


def version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def expected_codes():
    rng = np.random.default_rng(0)
    return {f"/photos/{n}.jpg": rng.integers(0, 256, 16, np.uint8) for n in range(24)}


def test_format_1_is_upgraded(old):
    assert version(old) == 1
    codes = expected_codes()
    del codes["/photos/5.jpg"]
    for _ in range(2):
        with Gallery(old) as gallery:
            assert set(gallery) == set(codes)
            for key, code in codes.items():
                item, n = gallery.get(key), int(key[8:-4])
                assert (item.code == code).all()
                assert item.metadata == ({"n": n, "name": "größe"} if n % 2 else {})
                assert (item.file is None) == (n >= 20)
            assert gallery.get("/photos/7.jpg").file.content == bytes([7] * 16)
            assert gallery.calibration is not None
            assert len(gallery.search("/photos/7.jpg", where={"name": "größe"}, k=99)) == 11
        assert version(old) == FORMAT_VERSION == 2
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_failed_upgrade_leaves_the_file_unchanged(old):
    execute(old, "CREATE TABLE more(x)")
    before = old.read_bytes()
    with pytest.raises(GalleryCorrupt, match="the tables are not those of a gallery"):
        Gallery(old)
    assert old.read_bytes() == before

    execute(old, "DROP TABLE more", "UPDATE item SET metadata = x'ff00' WHERE slot = 3")
    with Gallery(old) as gallery, pytest.raises(GalleryCorrupt, match="slot 3"):
        gallery.get(str(list(expected_codes())[3]))


def test_format_1_in_a_read_only_folder_is_rejected(old, monkeypatch):
    """Patches os.access, since root can write everything."""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    before = old.read_bytes()
    with pytest.raises(
        GalleryError,
        match="gallery format 1 and must be upgraded, but the file or its folder is read-only",
    ):
        Gallery(old)
    assert old.read_bytes() == before


def test_a_newer_format_is_rejected(old):
    execute(old, "PRAGMA user_version = 3")
    before = old.read_bytes()
    with pytest.raises(
        GalleryError, match="format 3, but this version of bitgaze reads formats up to 2; upd"
    ):
        Gallery(old)
    assert old.read_bytes() == before


def test_repair_reads_only_the_newest_format(old, tmp_path):
    execute(old, "UPDATE chunk SET crc = crc + 1")
    before = old.read_bytes()
    out = tmp_path / "out.bitgaze"
    with pytest.raises(
        GalleryError, match="format 1; upgrade it with `bitgaze info -g .*`, then repair"
    ):
        repair(old, out)
    assert old.read_bytes() == before
    with pytest.raises(GalleryCorrupt, match="chunk 0"):
        Gallery(old)
    report = repair(old, out)
    assert (report.kept, len(report.lost), report.unreadable) == (0, 23, 0)
    execute(old, "PRAGMA user_version = 3")
    with pytest.raises(
        GalleryError, match="format 3, but this version of bitgaze reads formats up to 2"
    ):
        repair(old, tmp_path / "another.bitgaze")


@pytest.mark.parametrize("has_links", [True, False])
def test_a_name_that_another_process_takes_meanwhile_stays_its_own(
    tmp_path, monkeypatch, has_links
):
    def fail(*_):
        raise OSError("no hard links here")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", fail)
    out = tmp_path / "out"

    def write(content):
        with new_file(out, "a backup") as unfinished:
            unfinished.write_text("first")
            if content:
                out.write_text(content)

    with pytest.raises(GalleryError, match="was created by another process; a backup needs"):
        write("theirs")
    assert out.read_text() == "theirs"
    out.unlink()
    write("")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert out.read_text() == "first"
