"""Damaged and foreign files: every answer is correct, or a typed error is raised."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest
from inside import files, item_of_file

from bitgaze import Gallery, GalleryCorrupt, GalleryError, Item, verify_gallery
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
            "PRAGMA user_version = 4",
            "gallery format 4, but this version of bitgaze reads formats up to 3",
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
        ("DELETE FROM item WHERE slot = 4999", "4999 items but 5000 codes"),
        ("DELETE FROM item WHERE slot = 0", "the item in slot 0 is missing"),
        ("UPDATE item SET slot = 9999 WHERE slot = 7", "10000 items but 5000 codes"),
        ("UPDATE chunk SET items = items + 1 WHERE n = 1", "parts are of different states"),
        ("UPDATE info SET value = zeroblob(16) WHERE name = 'state'", "parts are of different"),
        ("DELETE FROM info WHERE name = 'state'", "parts are of different states"),
        ("UPDATE file_id SET id = randomblob(16)", "parts are of different states"),
        ("UPDATE file_id SET id = 7", "the file's id is damaged"),
        ("DELETE FROM file_id", "the file's id is damaged"),
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
        "content = 0",
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
        with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged: 'it"):
            list(gallery)
        # A column of the metadata answers: only a hit reads its item.
        assert len(gallery.search_code(codes(1)[0], where={"i": 5})) == 1
        with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged"):
            gallery.search_code(codes(1)[0], where={"i": 8000})
        assert "nobody" not in gallery


def test_an_item_that_is_gone_raises_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(100))
    execute(path, "DELETE FROM item WHERE slot = 7")
    with Gallery(path) as gallery:
        for use in (
            lambda: gallery.get("item 7"),
            lambda: "item 7" in gallery,
            lambda: list(gallery),
            lambda: gallery.search_code(codes(100)[7], k=1),
            lambda: gallery.add_code("item 7", codes(1)[0]),
        ):
            with pytest.raises(GalleryCorrupt, match="slot 7 is missing|key index is damaged"):
                use()
        assert gallery.get("item 8").metadata == {"i": 8}
    assert any("slot 7 is missing" in problem for problem in verify_gallery(path).problems)


def test_a_schema_that_is_not_text_raises_a_typed_error(path):
    Gallery(path).close()
    execute(
        path,
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_schema SET sql = CAST(sql AS BLOB) WHERE name = 'chunk'",
    )
    with pytest.raises(GalleryCorrupt, match="the tables are not those of a gallery"):
        Gallery(path)


def test_an_absurd_length_raises_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
        with pytest.raises(ValueError, match="more than 16,777,216 bytes"):
            gallery.set_metadata("item 1", {"x": "x" * (65 << 20)})
        assert gallery.get("item 1").metadata == {"i": 1}
    execute(path, f"UPDATE item SET metadata = zeroblob({65 << 20}) WHERE slot = 1")
    with Gallery(path) as gallery, pytest.raises(GalleryCorrupt, match="a length in the file is d"):
        gallery.get("item 1")


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


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE lookup SET entries = zeroblob(length(entries))",
        "UPDATE lookup SET entries = x''",
        "UPDATE lookup SET entries = x'00'",
        "UPDATE lookup SET entries = 'text'",
        "UPDATE lookup SET crc = crc + 1",
        "DELETE FROM lookup",
        "UPDATE lookup SET n = n + 100",
        # Another bucket, with its checksum, in its place.
        "UPDATE lookup SET (entries, crc) = (SELECT entries, crc FROM lookup AS other"
        " WHERE other.n = (lookup.n + 1) % 4)",
    ],
)
def test_a_damaged_key_index_raises_a_typed_error(path, damage):
    with Gallery(path) as gallery:
        gallery.upsert(items(100))
    execute(path, damage)
    with Gallery(path) as gallery:
        assert len(gallery) == len(list(gallery)) == 100
        assert gallery.search_code(codes(100)[7], k=1)[0].key == "item 7"
        for use in (
            lambda: "item 7" in gallery,
            lambda: "no item" in gallery,  # cannot be known
            lambda: gallery.get("no item"),
            lambda: gallery.search("no item"),
            lambda: gallery.add("no item", smooth_image(1)),
            lambda: gallery.upsert([Item("no item", codes(1)[0])]),
            lambda: gallery.remove("item 7"),
            lambda: gallery.rename("item 7", "another"),
            lambda: item_of_file(gallery, "/no item"),
            lambda: gallery.search_code(codes(1)[0], where={"@key": "item 7"}),
        ):
            with pytest.raises(GalleryCorrupt, match="the key index is damaged"):
                use()
        assert len(gallery) == 100
    assert any("key index is damaged" in problem for problem in verify_gallery(path).problems)


def test_an_entry_for_another_item_raises_a_typed_error(path):
    """A bucket with a valid checksum, but of another state of the file."""
    with Gallery(path) as gallery:
        gallery.upsert(items(20))
        with closing(sqlite3.connect(path)) as db:
            old = db.execute("SELECT entries, crc FROM lookup").fetchone()
        gallery.remove("item 3")
        gallery.add_code("new", codes(1)[0])
        with closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE lookup SET entries = ?, crc = ?", old)
            db.commit()
        for key in ("item 3", "item 19"):
            with pytest.raises(GalleryCorrupt, match=f"the key index is damaged at '{key}'"):
                gallery.get(key)
        assert gallery.get("item 4").metadata == {"i": 4}
    assert verify_gallery(path).problems == (
        f"{path}: the key index is damaged: bucket 0 does not match the items",
    )


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


def test_a_gallery_that_was_damaged_meanwhile_can_be_printed(path):
    with Gallery(path, bits=BITS) as gallery:
        for item in items(3):
            gallery.add_code(item.key, item.code)
        execute(path, "UPDATE chunk SET crc = crc + 1")
        with pytest.raises(GalleryCorrupt):
            len(gallery)
        assert repr(gallery) == f"Gallery({str(path)!r}, GalleryCorrupt)"
