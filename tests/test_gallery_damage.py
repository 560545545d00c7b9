"""Damaged and foreign files: every answer is correct, or a typed error is raised."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from inside import files, item_of_file

from bitgaze import Gallery, GalleryCorrupt, GalleryError, Item
from bitgaze.gallery.items import FileState
from conftest import smooth_image
from galleries import BITS, codes, execute, items


def tables(value, bits=BITS):
    """A calibration as stored in the file, with the same value at every distance."""
    row = ", ".join([str(value)] * (bits + 1))
    return f'{{"duplicate": [{row}], "kind": [], "false_match": [{row}]}}'


def test_foreign_files_are_not_changed(tmp_path):
    text = tmp_path / "text.bitgaze"
    text.write_text("this is not a database, in spite of its name" * 100)
    with pytest.raises(GalleryCorrupt, match=r"text\.bitgaze: not a gallery"):
        Gallery(text)
    foreign = tmp_path / "foreign.db"
    execute(foreign, "CREATE TABLE mine(x)")
    before = foreign.read_bytes()
    with pytest.raises(GalleryError, match="is an SQLite file, but not a bitgaze gallery"):
        Gallery(foreign)
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("mark", ["application_id = 1", "application_id = -1", "user_version = 7"])
def test_foreign_files_without_tables_are_not_changed(path, mark):
    execute(path, f"PRAGMA {mark}")
    before = path.read_bytes()
    with pytest.raises(GalleryError, match="is an SQLite file, but not a bitgaze gallery"):
        Gallery(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_gallery(path):
    path.touch()
    with pytest.raises(GalleryError, match="not a bitgaze gallery"):
        Gallery(path, create=False)
    with Gallery(path) as gallery:
        assert len(gallery) == 0


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "PRAGMA user_version = 3",
            "gallery format 3, but this version of bitgaze reads formats up to 2",
        ),
        ("PRAGMA user_version = 0", "gallery format 0, expected at least 1"),
        ("PRAGMA user_version = -1", "gallery format -1, expected at least 1"),
        ("UPDATE info SET value = 12 WHERE name = 'bits'", "the info table is damaged"),
        ("UPDATE info SET value = 'x' WHERE name = 'calibration'", "the info table is damaged"),
        *(
            (
                f"UPDATE info SET value = '{table}' WHERE name = 'calibration'",
                "the info table is damaged",
            )
            for table in (
                "[]",
                "7",
                "{}",
                tables(7.5),
                tables("NaN"),
                tables(0.5, bits=64),
                "[" * 9999,
            )
        ),
        (
            "UPDATE info SET value = 5 WHERE name = 'model'",
            "test.bitgaze: the info table is damaged",
        ),
        (
            "UPDATE info SET value = x'ff' WHERE name = 'model'",
            "info table is damaged: .*model is b",
        ),
        ("DELETE FROM info WHERE name = 'model'", "the info table is damaged"),
        ("DELETE FROM info WHERE name = 'fingerprint'", "the info table is damaged"),
        ("UPDATE info SET value = 64 WHERE name = 'bits'", "5000 items|damaged|missing"),
        ("UPDATE chunk SET codes = zeroblob(length(codes)) WHERE n = 0", "chunk 0 .* is damaged"),
        ("UPDATE chunk SET codes = x'00' WHERE n = 1", "chunk 1 .* is damaged"),
        ("UPDATE chunk SET codes = 'text' WHERE n = 1", "chunk 1 .* is damaged"),
        ("DELETE FROM chunk WHERE n = 0", "chunk 0 .* is missing"),
        ("DELETE FROM chunk WHERE n = 1", "5000 items but 4096 codes"),
        ("DELETE FROM item WHERE slot = 7", "4999 items but 5000 codes"),
        ("UPDATE item SET slot = 9999 WHERE slot = 7", "5000 items"),
        ("DROP TABLE chunk", "the tables are not those of a gallery"),
        ("DROP TABLE item", "the tables are not those"),
        ("CREATE TABLE more(x)", "the tables are not those"),
        ("CREATE TRIGGER x AFTER INSERT ON item BEGIN DELETE FROM chunk; END", "the tables are"),
        ("UPDATE info SET value = 'y' WHERE name = 'model'", "checksum does not match the entries"),
        (f"UPDATE info SET value = '{tables(0.25)}' WHERE name = 'calibration'", "checksum"),
        ("UPDATE info SET value = 'x' WHERE name = 'fingerprint'", "checksum"),
        ("DELETE FROM info WHERE name = 'crc'", "info table is damaged: KeyError"),
    ],
)
def test_a_damaged_gallery_raises_a_typed_error(path, sql, message):
    with Gallery(path) as gallery:
        gallery.upsert(items(5000))
    execute(path, sql)
    with pytest.raises(GalleryError, match=message):
        Gallery(path)


@pytest.mark.parametrize(
    "damage",
    [
        "metadata = 'x'",
        "metadata = '[]'",
        """metadata = '{"i": 3}'""",
        "path = 'text'",
        "path = x'41', size = 1, mtime_ns = 1, ctime_ns = 1, content = x'42'",
        "key = 'item 7'",
        "key = x'ff'",
        "crc = crc + 1",
    ],
)
def test_reading_a_damaged_item_raises_a_typed_error(path, damage):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    execute(path, f"UPDATE item SET {damage} WHERE slot = 1")
    code = codes(3)[1]
    with Gallery(path) as gallery:
        assert len(gallery) == 3
        for use in (
            list,
            lambda opened: opened.search_code(code),
            lambda opened: files(opened, "/"),
        ):
            with pytest.raises(
                GalleryCorrupt, match=r"test\.bitgaze: (the item in slot 1|text in the file)"
            ):
                use(gallery)
        if not damage.startswith("key"):
            for use in (gallery.get, gallery.search):
                with pytest.raises(GalleryCorrupt, match="the item in slot 1 is damaged"):
                    use("item 1")
            gallery.remove("item 1")  # a damaged item can still be removed
            assert len(gallery.search("item 0")) == 2


def test_a_damaged_item_stays_damaged_when_its_slot_changes(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    execute(path, "UPDATE item SET metadata = '{}' WHERE slot = 2")
    with Gallery(path) as gallery:
        with pytest.raises(GalleryCorrupt, match="the item in slot 2 is damaged: 'item 2'"):
            gallery.remove("item 0")
        assert len(gallery) == 3
        gallery.remove("item 2")
        assert list(gallery) == ["item 0", "item 1"]


def test_the_error_names_the_damaged_item_among_many(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(9000))
    execute(path, "UPDATE item SET size = 3 WHERE slot = 8000")
    with Gallery(path) as gallery:
        for use in (lambda: list(gallery), lambda: "nobody" in gallery):
            with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged: 'it"):
                use()
        # A column of the metadata answers: only a hit reads its item.
        assert len(gallery.search_code(codes(1)[0], where={"i": 5})) == 1
        with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged"):
            gallery.search_code(codes(1)[0], where={"i": 8000})


def test_a_schema_that_is_not_text_raises_a_typed_error(path):
    Gallery(path).close()
    execute(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = CAST(sql AS BLOB) WHERE name = 'chunk'",
    )
    with pytest.raises(GalleryCorrupt, match="the tables are not those of a gallery"):
        Gallery(path)


def test_an_absurd_length_raises_a_typed_error(path, monkeypatch):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))

        def fail(*_):
            raise MemoryError  # as sqlite3 does

        monkeypatch.setattr("bitgaze.gallery.connection.Connection.cursor", fail)
        with pytest.raises(GalleryCorrupt, match="a length is damaged, or memory is too small"):
            gallery.get("item 1")
        monkeypatch.undo()
        with pytest.raises(ValueError, match="more than 16,777,216 bytes"):
            gallery.set_metadata("item 1", {"x": "x" * (65 << 20)})
        assert gallery.get("item 1").metadata == {"i": 1}


def test_a_truncated_file_raises_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(5000))
    content = path.read_bytes()
    for length in (100, 5000, len(content) // 2, len(content) - 4096):
        path.write_bytes(content[:length])
        with pytest.raises(GalleryError, match=r"test\.bitgaze"):
            Gallery(path)


def test_random_damage_gives_correct_answers_or_typed_errors(path):
    stored = items(300)
    with Gallery(path) as gallery:
        gallery.upsert(stored)
    content = path.read_bytes()
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(150):
        damaged = bytearray(content)
        for position in random.integers(0, len(damaged), random.integers(1, 5)):
            damaged[position] ^= 1 << random.integers(8)
        # At least two bytes: SQLite treats a file of one byte as empty.
        path.write_bytes(
            damaged[: random.integers(2, len(damaged))] if refused % 4 == 3 else damaged
        )
        try:
            with Gallery(path) as gallery:
                for key in list(gallery)[:20]:
                    assert gallery.get(key).key == key
                hits = gallery.search_code(stored[5].code, k=1)
                assert [hit.distance for hit in hits] == [0]
                gallery.upsert([Item("new", stored[0].code)])
        except GalleryError:
            refused += 1
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
    assert 0 < refused < 150


def test_a_damaged_key_index_raises_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_item_1'"
        ).fetchone()
        (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    content = bytearray(path.read_bytes())
    start = (page - 1) * page_bytes
    index = content[start : start + page_bytes]
    # The index has "item 2" for item 1, and no entry for the real "item 2".
    index = index.replace(b"item 2", b"item 3").replace(b"item 1", b"item 2")
    content[start : start + page_bytes] = index
    path.write_bytes(content)
    with Gallery(path) as gallery:
        assert gallery.get("item 0").metadata == {"i": 0}
        for key in ("item 1", "item 2"):
            for use in (gallery.get, gallery.remove):
                with pytest.raises(GalleryCorrupt, match="the key index is damaged"):
                    use(key)
        assert len(gallery) == 3
        for use in (
            lambda: "item 4" in gallery,  # cannot be known
            lambda: gallery.get("item 4"),
            lambda: gallery.search("item 4"),
            lambda: gallery.add("item 4", smooth_image(1)),
            lambda: gallery.upsert([Item("item 4", codes(1)[0])]),
            lambda: item_of_file(gallery, "/item 4"),
        ):
            with pytest.raises(GalleryCorrupt, match="the key index is damaged"):
                use()
        assert len(gallery) == 3


@pytest.mark.parametrize("key", ["plain", "nul\0in it", "größe \u212a", "", "None", "7"])
def test_checksums_in_bulk_reads_match_those_written(path, key):
    """SQLite joins the columns of a row to the same bytes as Python, whatever their content."""
    path_bytes = b"/odd \xff\x00 path"
    state = FileState(path_bytes, 2**60, -5, 0, bytes(range(16)))
    with Gallery(path) as gallery:
        gallery.upsert([Item(key, codes(1)[0], {"x": "a\0b", "y": None}, state)])
        gallery.upsert([Item(f"{key} by hand", codes(1)[0], {})])
    with Gallery(path) as gallery:
        assert list(gallery) == [key, f"{key} by hand"]
        assert files(gallery, "/") == {key: state}
        assert len(gallery.search_code(codes(1)[0], where={"x": "a\0b"})) == 1
        assert "another" not in gallery
