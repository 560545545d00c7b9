"""Errors that are not the gallery's: they pass unchanged, or say what helps."""

import sqlite3

import pytest

from bitgaze import Gallery, GalleryCorrupt, GalleryError, Item, repair, verify_gallery
from bitgaze.gallery.connection import translated
from galleries import BITS, codes, items

OF_CALLERS = [
    OSError(13, "mine"),
    MemoryError("mine"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "mine"),
    sqlite3.OperationalError("mine"),
    sqlite3.DatabaseError("malformed JSON of mine"),
]


@pytest.fixture
def gallery(path):
    with Gallery(path, bits=BITS) as gallery:
        gallery.upsert(items(50))
        yield gallery


@pytest.mark.parametrize("error", OF_CALLERS, ids=lambda error: type(error).__name__)
def test_errors_of_a_callers_function_pass_unchanged(gallery, error):
    def fail(*_):
        raise error

    def failing():
        yield Item("new", codes(1)[0])
        raise error

    with pytest.raises(type(error)) as raised:
        gallery.duplicates(on_progress=fail)
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        gallery.upsert(failing())
    assert raised.value is error
    with pytest.raises(type(error)) as raised, gallery.transaction():
        gallery.upsert(failing())
    assert raised.value is error
    assert len(gallery) == 50


def test_too_little_memory_for_a_search_is_not_damage(gallery, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("bitgaze.hamming.HammingIndex.range_search", fail)
    with pytest.raises(MemoryError):
        gallery.search_code(codes(1)[0])


def test_too_little_memory_for_sqlite_is_not_damage(gallery, monkeypatch):
    def fail(*_):
        raise MemoryError  # as sqlite3 does

    monkeypatch.setattr("bitgaze.gallery.connection.Connection.cursor", fail)
    with pytest.raises(GalleryError, match="not enough memory") as raised:
        gallery.get("item 1")
    assert not isinstance(raised.value, GalleryCorrupt)


def test_a_system_without_another_thread_opens_galleries(gallery, monkeypatch):
    def fail(*_):
        raise RuntimeError("can't start new thread")  # as _thread does

    monkeypatch.setattr("_thread.start_new_thread", fail)
    with Gallery(gallery.path) as other:
        assert len(other) == 50
    assert verify_gallery(gallery.path).is_sound


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("g\0x", "holds a NUL character"),
        ("~nouser-of-this-name/g", "write the whole path"),
        ("x" * 300, "File name too long"),
    ],
)
def test_paths_that_cannot_be_files_are_typed_errors(gallery, tmp_path, name, message):
    path = name if name.startswith("~") else str(tmp_path / name)
    for call in (
        lambda: Gallery(path, bits=BITS),
        lambda: Gallery(path, create=False),
        lambda: gallery.backup(path),
        lambda: verify_gallery(path),
        lambda: repair(path, tmp_path / "out"),
        lambda: repair(gallery.path, path),
    ):
        with pytest.raises(GalleryError, match=message):
            call()
    assert [file.name for file in tmp_path.iterdir() if "-" not in file.name] == [gallery.path.name]


@pytest.mark.parametrize("name", ["SHMMAP", "SHMOPEN", "SHMLOCK"])
def test_a_network_drive_is_named_as_the_cause(path, name):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = getattr(sqlite3, f"SQLITE_IOERR_{name}")
    message = str(translated(error, path, 5))
    assert str(path) in message
    assert "put the gallery on a local disk" in message


def test_fields_are_the_names_in_metadata(gallery):
    assert gallery.fields() == ["i"]
    gallery.set_metadata("item 1", {"year": 1, "album": None})
    assert gallery.fields() == ["album", "i", "year"]
    gallery.remove(*gallery)
    assert gallery.fields() == []


def test_a_long_transaction_notes_few_cursors(gallery):
    with gallery.transaction():
        gallery.upsert(items(2000, seed=3))
        assert len(gallery._store._db._cursors) <= 1000
    assert gallery._store._db._cursors == []
