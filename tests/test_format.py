"""File formats: older ones are upgraded, newer ones are rejected and left unchanged."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from bitgaze import Gallery, GalleryCorrupt, GalleryError, repair, verify_gallery
from bitgaze.gallery.file_format import new_file
from bitgaze.gallery.schema import FORMAT_VERSION
from conftest import ROOT
from galleries import execute

# Written by the versions of bitgaze that had these formats. Never regenerate one.
DATA = ROOT / "tests" / "data"


@pytest.fixture(params=[1, 2, 3])
def older(request, tmp_path):
    return request.param, Path(shutil.copy(DATA / f"format-{request.param}.bitgaze", tmp_path))


@pytest.fixture
def old(tmp_path):
    return Path(shutil.copy(DATA / "format-1.bitgaze", tmp_path / "old.bitgaze"))


def version(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def expected_codes():
    rng = np.random.default_rng(0)
    return {f"/photos/{n}.jpg": rng.integers(0, 256, 16, np.uint8) for n in range(24)}


def test_an_older_format_is_upgraded(older):
    number, old = older
    assert version(old) == number
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
            assert "/photos/5.jpg" not in gallery
        assert version(old) == FORMAT_VERSION == 3
    with closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert verify_gallery(old).is_sound


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
    execute(old, "PRAGMA user_version = 4")
    before = old.read_bytes()
    with pytest.raises(
        GalleryError, match="format 4, but this version of bitgaze reads formats up to 3; upd"
    ):
        Gallery(old)
    assert old.read_bytes() == before


def test_a_damaged_item_of_format_2_stays_damaged(tmp_path):
    old = Path(shutil.copy(DATA / "format-2.bitgaze", tmp_path))
    execute(old, "UPDATE item SET metadata = '{}' WHERE slot = 3")
    key = list(expected_codes())[3]
    report = repair(old, tmp_path / "repaired.bitgaze")
    assert (report.kept, report.unreadable) == (22, 1)
    with Gallery(tmp_path / "repaired.bitgaze") as repaired:
        assert key not in repaired
    assert verify_gallery(tmp_path / "repaired.bitgaze").is_sound
    assert version(old) == 2
    with Gallery(old) as gallery, pytest.raises(GalleryCorrupt, match="the item in slot 3 is dam"):
        gallery.get(key)
    (problem,) = verify_gallery(old).problems
    assert "the item in slot 3 is damaged" in problem


def test_a_damaged_info_of_format_2_stays_damaged(tmp_path):
    old = Path(shutil.copy(DATA / "format-2.bitgaze", tmp_path))
    execute(old, "UPDATE info SET value = 'x' WHERE name = 'model'")
    with pytest.raises(GalleryCorrupt, match="checksum does not match the entries"):
        Gallery(old)


def test_repair_does_not_read_format_1(old, tmp_path):
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
    execute(old, "PRAGMA user_version = 4")
    with pytest.raises(
        GalleryError, match="format 4, but this version of bitgaze reads formats up to 3"
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
