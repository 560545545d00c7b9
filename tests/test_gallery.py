import multiprocessing
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import files, item_of_file, move

import oracle
from bitgaze import (
    FingerprintMismatch,
    Gallery,
    GalleryCorrupt,
    GalleryError,
    ImageError,
    Item,
    ModelError,
)
from bitgaze.encoding.calibration import at_odds
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.encoder import Encoder
from bitgaze.gallery.file_format import CHUNK_CODES, seal_info
from bitgaze.gallery.items import FileState
from conftest import smooth_image

BITS = 128


def codes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, BITS // 8), dtype=np.uint8)


def items(count, seed=0):
    return [Item(f"item {i}", code, {"i": i}) for i, code in enumerate(codes(count, seed))]


def tables(value, bits=BITS):
    """A calibration as the file holds it, the same value everywhere."""
    row = ", ".join([str(value)] * (bits + 1))
    return f'{{"duplicate": [{row}], "kind": [], "false_match": [{row}]}}'


@pytest.fixture
def path(tmp_path):
    return tmp_path / "test.bitgaze"


@pytest.fixture
def gallery(path):
    with Gallery(path) as opened:
        yield opened


def test_a_image_is_found_by_path_bytes_image_array_and_key(gallery, make_image):
    for seed in range(5):
        gallery.add(f"p{seed}", smooth_image(seed), {"seed": seed})
    file = make_image("query.png", seed=3)
    queries = [
        file,
        str(file),
        file.read_bytes(),
        smooth_image(3),
        np.asarray(smooth_image(3)),
        "p3",
    ]
    for query in queries:
        hits = gallery.search(query, k=2)
        assert hits[0].key == "p3"
        assert hits[0].distance == 0
        assert hits[0].metadata == {"seed": 3}
        assert hits[0].path is None
        assert hits[1].distance > 0


def test_a_new_gallery_waits_for_another_that_writes_to_the_same_file(path):
    """What one of two processes that make a gallery at once does to the other."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.2, other.execute, ["ROLLBACK"])
    end.start()
    with Gallery(path) as gallery:
        assert len(gallery) == 0
    end.join()
    other.close()


def test_everything_is_there_after_reopening(path):
    stored = items(CHUNK_CODES + 5)
    with Gallery(path) as gallery:
        gallery.upsert(stored)
    with Gallery(path, create=False) as gallery:
        assert len(gallery) == len(stored)
        assert list(gallery) == [item.key for item in stored]
        for item in (stored[0], stored[CHUNK_CODES], stored[-1]):
            found = gallery.get(item.key)
            assert np.array_equal(found.code, item.code)
            assert found.metadata == item.metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # one file, nothing beside it


def test_search_is_exact_and_radius_cuts(gallery):
    stored = items(500)
    gallery.upsert(stored)
    query = codes(1, seed=9)[0]
    distances, positions = oracle.search(np.stack([i.code for i in stored]), query[None], 20)
    hits = gallery.search_code(query, k=20)
    assert [(hit.distance, hit.key) for hit in hits] == [
        (d, f"item {i}") for d, i in zip(distances[0], positions[0], strict=True)
    ]
    radius = int(distances[0][7])
    near = gallery.search_code(query, k=20, radius=radius)
    assert near == [hit for hit in hits if hit.distance <= radius]
    assert len(near) < 20
    assert gallery.search_code(query, radius=0) == []
    assert len(gallery.search_code(query, k=1000)) == 500


def test_a_key_is_text(gallery):
    gallery.upsert([Item("5", codes(1)[0])])
    for use in (
        gallery.get,
        gallery.remove,
        lambda key: move(gallery, (key, "new", None)),
        lambda key: move(gallery, ("5", key, None)),
        lambda key: gallery.add(key, smooth_image(1)),
        lambda key: gallery.upsert([Item(key, codes(1)[0])]),
    ):
        for key in (5, b"5", None, Path("5")):
            with pytest.raises(TypeError, match=f"a key is a str, not {type(key).__name__}"):
                use(key)
            assert key not in gallery
    assert list(gallery) == ["5"]


def test_an_empty_gallery(gallery):
    assert len(gallery) == 0
    assert list(gallery) == []
    assert gallery.search(smooth_image(1)) == []
    assert "x" not in gallery
    assert 3 not in gallery


@given(st.lists(st.tuples(st.sampled_from(["upsert", "remove", "move"]), st.integers(0, 11))))
def test_any_sequence_of_changes_equals_a_dictionary(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("model") / "g.bitgaze"
    expected = {}
    with Gallery(path) as gallery:
        for number, (step, which) in enumerate(steps):
            key = f"k{which}"
            if step == "upsert":
                item = Item(key, codes(1, seed=number)[0], {"n": number})
                gallery.upsert([item])
                expected[key] = item
            elif key not in expected:
                with pytest.raises(KeyError, match=key):
                    gallery.remove(key) if step == "remove" else move(gallery, (key, "other", None))
            elif step == "remove":
                gallery.remove(key)
                del expected[key]
            else:
                target = f"k{(which + 1) % 12}"
                if target in expected:
                    with pytest.raises(GalleryError, match="is taken"):
                        move(gallery, (key, target, None))
                else:
                    move(gallery, (key, target, None))
                    old = expected.pop(key)
                    expected[target] = Item(target, old.code, old.metadata)
    with Gallery(path, create=False) as gallery:
        assert set(gallery) == set(expected)
        for key, item in expected.items():
            assert np.array_equal(gallery.get(key).code, item.code)
            assert gallery.get(key).metadata == item.metadata
            assert gallery.search(key, k=1)[0].distance == 0


def test_a_removed_item_leaves_no_byte_behind(path):
    stored = items(20)
    with Gallery(path) as gallery:
        gallery.upsert(stored)
        gallery.upsert([Item("the secret key", codes(1, seed=77)[0], {"the secret": "metadata"})])
        gallery.upsert([Item("after it", codes(1, seed=78)[0])])
        gallery.remove("the secret key")
    content = path.read_bytes()
    assert b"the secret" not in content
    assert codes(1, seed=77)[0].tobytes() not in content
    assert codes(1, seed=78)[0].tobytes() in content


def test_a_removed_item_leaves_no_byte_in_the_log(path):
    def is_found():
        return any(b"the secret" in file.read_bytes() for file in path.parent.iterdir())

    secret = Item("the secret key", codes(1, seed=77)[0], {"the secret": "metadata"})
    with Gallery(path) as writer, Gallery(path) as reader:
        writer.upsert([*items(20), secret])
        assert secret.key in reader
        assert is_found()
        writer.remove(secret.key)
        assert not is_found()
        assert len(reader) == 20
        writer.upsert([secret])
        with reader._store.reading():  # its snapshot is in the log: the bytes cannot go yet
            assert secret.key in reader
            writer.remove(secret.key)
            assert secret.key in reader
        writer.remove("item 0")
        assert not is_found()
        assert len(reader) == 19


def test_a_failed_change_changes_nothing(gallery):
    gallery.upsert(items(3))
    before = gallery.search_code(codes(1)[0])
    bad = [
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], {"a": object()})]),
        (ValueError, [Item("new", codes(1)[0]), Item("x", codes(1)[0][:8])]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0].astype(int))]),
        (ValueError, [Item("new", codes(1)[0]), Item("\udcff", codes(1)[0])]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], None)]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], [1])]),
        (TypeError, [Item("new", codes(1)[0]), Item(5, codes(1)[0])]),
        (ValueError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], {"a": float("nan")})]),
    ]
    for error, batch in bad:
        with pytest.raises(error):
            gallery.upsert(batch)
        assert gallery.search_code(codes(1)[0]) == before
        assert "new" not in gallery
    with pytest.raises(KeyError, match="no item 'none'"):
        gallery.remove("item 0", "none")
    assert "item 0" in gallery


def test_add_refuses_a_taken_key_and_a_broken_image(gallery):
    gallery.add("a", smooth_image(1))
    with pytest.raises(GalleryError, match="key 'a' is taken; remove it first"):
        gallery.add("a", smooth_image(2))
    with pytest.raises(ImageError, match="not an image"):
        gallery.add("b", b"broken")
    assert list(gallery) == ["a"]


def test_of_threads_that_add_one_key_one_wins(path, encoder):
    everyone = threading.Barrier(4)

    class Slow:
        """An encoder that returns when all threads have begun to encode."""

        model, fingerprint = encoder.model, encoder.fingerprint

        def encode(self, sources):
            everyone.wait(timeout=60)
            return encoder.encode(sources)

    outcome = []

    def add(number):
        try:
            gallery.add("same", smooth_image(number), {"number": number})
            outcome.append(number)
        except GalleryError:
            outcome.append(None)

    with Gallery(path, encoder=Slow()) as gallery:
        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winner = max(number for number in outcome if number is not None)
        assert outcome.count(None) == 3
        assert gallery.get("same").metadata == {"number": winner}


def test_a_transaction_is_kept_whole_or_not_at_all(path):
    with Gallery(path) as gallery, Gallery(path) as other:
        gallery.upsert(items(3))
        with gallery.transaction():
            gallery.remove("item 0")
            gallery.upsert([Item("new", codes(1, seed=5)[0])])
            assert gallery.search("new", k=1)[0].distance == 0
            assert "item 0" in other
        for reader in (gallery, other):
            assert list(reader) == ["item 2", "item 1", "new"]

        def fail(caught=()):
            with gallery.transaction():
                gallery.remove("item 1")
                with suppress(caught):
                    gallery.remove("none")

        with pytest.raises(KeyError, match="none"):
            fail()
        with pytest.raises(GalleryError, match="failed; it was undone"):
            fail(caught=KeyError)
        with pytest.raises(UnicodeDecodeError), gallery.transaction():
            b"\xff".decode()  # not the file's: it stays what it is
        for reader in (gallery, other):
            assert list(reader) == ["item 2", "item 1", "new"]
            assert gallery.search_code(codes(1, seed=5)[0], k=1)[0].key == "new"


def test_items_change_places(gallery):
    gallery.upsert(items(3))
    before = {key: gallery.get(key) for key in gallery}
    move(gallery, ("item 0", "item 1", None), ("item 1", "item 0", None), ("item 2", "new", None))
    for key, old in [("item 0", "item 1"), ("item 1", "item 0"), ("new", "item 2")]:
        assert np.array_equal(gallery.get(key).code, before[old].code)
        assert gallery.get(key).metadata == before[old].metadata
    for moves, error in [
        ([("item 0", "a", None), ("item 1", "a", None)], GalleryError),
        ([("item 0", "a", None), ("item 1", "new", None)], GalleryError),
        ([("item 0", "a", None), ("item 0", "b", None)], ValueError),
        ([("item 0", "a", None), ("a", "b", None)], KeyError),
    ]:
        with pytest.raises(error):
            move(gallery, *moves)
        assert list(gallery) == ["item 1", "item 0", "new"]


def test_arguments_out_of_range(gallery, tmp_path):
    gallery.upsert(items(3))
    with pytest.raises(ValueError, match="k"):
        gallery.search("item 0", k=0)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        gallery.search("item 0", radius=-1)
    with pytest.raises(ImageError, match="No such file"):
        gallery.search("no such key or file")
    with pytest.raises(KeyError, match="no item 'x'"):
        gallery.get("x")
    with pytest.raises(GalleryError, match="no such gallery; `bitgaze index"):
        Gallery(tmp_path / "none.bitgaze", create=False)
    assert not (tmp_path / "none.bitgaze").exists()
    with pytest.raises(GalleryError, match="there is no folder"):
        Gallery(tmp_path / "none" / "a.bitgaze")


def test_a_closed_gallery(path):
    gallery = Gallery(path)
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        len(gallery)


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory):
    """The shipped model with one bit of one weight changed: same shapes, another model."""
    content = bytearray(DEFAULT_MODEL.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path_factory.mktemp("other") / "other.onnx"
    path.write_bytes(content)
    return Encoder(path)


def test_codes_of_two_models_never_meet(path, other_encoder):
    with Gallery(path) as gallery:
        gallery.add("a", smooth_image(1))
    with pytest.raises(FingerprintMismatch, match=r"are of model 'general-128' .*not of"):
        Gallery(path, encoder=other_encoder)
    theirs = path.with_name("other.bitgaze")
    with Gallery(theirs, encoder=other_encoder) as gallery:
        gallery.add("a", smooth_image(1))
    with Gallery(theirs) as gallery:  # without a model: what needs none still works
        assert gallery.search("a")[0].distance == 0
        for use in (
            lambda: gallery.search(smooth_image(1)),
            lambda: gallery.add("b", smooth_image(2)),
            lambda: gallery.adapt(lambda _: smooth_image(1)),
        ):
            with pytest.raises(FingerprintMismatch, match="open it with the model that made it"):
                use()
        assert list(gallery) == ["a"]


def test_foreign_files_are_left_alone(tmp_path):
    text = tmp_path / "text.bitgaze"
    text.write_text("this is not a database, whatever its name says" * 100)
    with pytest.raises(GalleryCorrupt, match=r"text\.bitgaze: not a gallery"):
        Gallery(text)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    before = foreign.read_bytes()
    with pytest.raises(GalleryError, match="an SQLite file, but not a bitgaze gallery"):
        Gallery(foreign)
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("mark", ["application_id = 1", "application_id = -1", "user_version = 7"])
def test_a_foreign_file_without_tables_is_left_alone(path, mark):
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA {mark}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(GalleryError, match="an SQLite file, but not a bitgaze gallery"):
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
        ("PRAGMA user_version = 3", "gallery format 3, this version of bitgaze reads up to 2"),
        ("PRAGMA user_version = 0", "gallery format 0; the first one is 1"),
        ("PRAGMA user_version = -1", "gallery format -1; the first one is 1"),
        ("UPDATE info SET value = 12 WHERE name = 'bits'", "info is damaged"),
        ("UPDATE info SET value = 'x' WHERE name = 'calibration'", "info is damaged"),
        *(
            (f"UPDATE info SET value = '{table}' WHERE name = 'calibration'", "info is damaged")
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
        ("UPDATE info SET value = 5 WHERE name = 'model'", "test.bitgaze: info is damaged"),
        ("UPDATE info SET value = x'ff' WHERE name = 'model'", "info is damaged: .*model is b"),
        ("DELETE FROM info WHERE name = 'model'", "info is damaged"),
        ("DELETE FROM info WHERE name = 'fingerprint'", "info is damaged"),
        ("UPDATE info SET value = 64 WHERE name = 'bits'", "5000 items|damaged|missing"),
        ("UPDATE chunk SET codes = zeroblob(length(codes)) WHERE n = 0", "chunk 0 .* is damaged"),
        ("UPDATE chunk SET codes = x'00' WHERE n = 1", "chunk 1 .* is damaged"),
        ("UPDATE chunk SET codes = 'text' WHERE n = 1", "chunk 1 .* is damaged"),
        ("DELETE FROM chunk WHERE n = 0", "chunk 0 .* is missing"),
        ("DELETE FROM chunk WHERE n = 1", "5000 items, but 4096 codes"),
        ("DELETE FROM item WHERE slot = 7", "4999 items, but 5000 codes"),
        ("UPDATE item SET slot = 9999 WHERE slot = 7", "5000 items"),
        ("DROP TABLE chunk", "its tables are not those of a gallery"),
        ("DROP TABLE item", "its tables are not those"),
        ("CREATE TABLE more(x)", "its tables are not those"),
        ("CREATE TRIGGER x AFTER INSERT ON item BEGIN DELETE FROM chunk; END", "its tables are"),
        ("UPDATE info SET value = 'y' WHERE name = 'model'", "checksum is of other entries"),
        (f"UPDATE info SET value = '{tables(0.25)}' WHERE name = 'calibration'", "checksum"),
        ("UPDATE info SET value = 'x' WHERE name = 'fingerprint'", "checksum"),
        ("DELETE FROM info WHERE name = 'crc'", "info is damaged: KeyError"),
    ],
)
def test_a_damaged_gallery_gives_a_typed_error(path, sql, message):
    with Gallery(path) as gallery:
        gallery.upsert(items(5000))
    db = sqlite3.connect(path)
    db.execute(sql)
    db.commit()
    db.close()
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
def test_a_damaged_item_gives_a_typed_error_when_it_is_read(path, damage):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    db = sqlite3.connect(path)
    db.execute(f"UPDATE item SET {damage} WHERE slot = 1")
    db.commit()
    db.close()
    code = codes(3)[1]
    with Gallery(path) as gallery:
        assert len(gallery) == 3
        for use in (
            list,
            lambda opened: opened.search_code(code),
            lambda opened: files(opened, "/"),
        ):
            with pytest.raises(
                GalleryCorrupt, match=r"test\.bitgaze: (the item in slot 1|its text)"
            ):
                use(gallery)
        if not damage.startswith("key"):
            for use in (gallery.get, gallery.search):
                with pytest.raises(GalleryCorrupt, match="the item in slot 1 is damaged"):
                    use("item 1")
            gallery.remove("item 1")  # what cannot be read can still be removed
            assert len(gallery.search("item 0")) == 2


def test_a_damaged_item_does_not_come_out_whole_when_it_changes_its_slot(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    db = sqlite3.connect(path)
    db.execute("UPDATE item SET metadata = '{}' WHERE slot = 2")
    db.commit()
    db.close()
    with Gallery(path) as gallery:
        with pytest.raises(GalleryCorrupt, match="the item in slot 2 is damaged: 'item 2'"):
            gallery.remove("item 0")
        assert len(gallery) == 3
        gallery.remove("item 2")
        assert list(gallery) == ["item 0", "item 1"]


def test_a_schema_that_is_no_text_gives_a_typed_error(path):
    Gallery(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA writable_schema = ON")
    db.execute("UPDATE sqlite_schema SET sql = CAST(sql AS BLOB) WHERE name = 'chunk'")
    db.commit()
    db.close()
    with pytest.raises(GalleryCorrupt, match="its tables are not those of a gallery"):
        Gallery(path)


def test_a_length_that_no_memory_holds_gives_a_typed_error(path, monkeypatch):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))

        def fail(*_):
            raise MemoryError  # as sqlite3 does

        monkeypatch.setattr("bitgaze.gallery.items.read_item", fail)
        with pytest.raises(GalleryCorrupt, match="damaged lengths, or too little memory"):
            gallery.get("item 1")
        monkeypatch.undo()
        with pytest.raises(GalleryError, match="too big"):
            gallery.set_metadata("item 1", {"x": "x" * (65 << 20)})
        assert gallery.get("item 1").metadata == {"i": 1}


def test_a_truncated_file_gives_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(5000))
    content = path.read_bytes()
    for length in (100, 5000, len(content) // 2, len(content) - 4096):
        path.write_bytes(content[:length])
        with pytest.raises(GalleryError, match=r"test\.bitgaze"):
            Gallery(path)


def test_any_damage_gives_a_right_answer_or_a_typed_error(path):
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
        # Two bytes at least: SQLite takes a single one for nothing.
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


def test_a_damaged_key_index_gives_a_typed_error(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    db = sqlite3.connect(path)
    (page,) = db.execute(
        "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_item_1'"
    ).fetchone()
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    db.close()
    content = bytearray(path.read_bytes())
    start = (page - 1) * page_bytes
    index = content[start : start + page_bytes]
    # The index says "item 2" for item 1, and nothing for "item 2" itself.
    index = index.replace(b"item 2", b"item 3").replace(b"item 1", b"item 2")
    content[start : start + page_bytes] = index
    path.write_bytes(content)
    with Gallery(path) as gallery:
        assert gallery.get("item 0").metadata == {"i": 0}
        for key in ("item 1", "item 2"):
            for use in (gallery.get, gallery.remove):
                with pytest.raises(GalleryCorrupt, match="its key index is damaged"):
                    use(key)
        assert len(gallery) == 3
        for use in (
            lambda: "item 4" in gallery,  # who knows
            lambda: gallery.get("item 4"),
            lambda: gallery.search("item 4"),
            lambda: gallery.add("item 4", smooth_image(1)),
            lambda: gallery.upsert([Item("item 4", codes(1)[0])]),
            lambda: item_of_file(gallery, "/item 4"),
        ):
            with pytest.raises(GalleryCorrupt, match="its key index is damaged"):
                use()
        assert len(gallery) == 3


def test_another_connection_sees_each_commit(path):
    with Gallery(path) as writer, Gallery(path) as reader:
        writer.upsert(items(3))
        assert len(reader) == 3
        assert reader.search("item 1", k=1)[0].key == "item 1"
        writer.remove("item 0")
        assert "item 0" not in reader
        assert {hit.key for hit in reader.search_code(codes(1)[0])} == {"item 1", "item 2"}
        reader.upsert([Item("from the other", codes(1, seed=5)[0])])
        assert len(writer) == 3


def test_two_writers_do_not_lose_each_others_items(path):
    with Gallery(path) as one, Gallery(path) as two:
        for i in range(20):
            (one, two)[i % 2].upsert([Item(f"k{i}", codes(1, seed=i)[0])])
        for gallery in (one, two):
            assert len(gallery) == 20
            for i in range(20):
                assert np.array_equal(gallery.get(f"k{i}").code, codes(1, seed=i)[0])


def _write(path: Path, name: str) -> None:
    with Gallery(path) as gallery:
        for i in range(25):
            gallery.upsert([Item(f"{name}{i}", codes(1, seed=i)[0])])


def test_processes_that_create_and_write_at_once(path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with Gallery(path) as gallery:
        assert len(gallery) == 50


def test_threads_search_while_one_writes(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(200))
        wrong = []

        def look():
            for i in range(100):
                hit = gallery.search(f"item {i}", k=1)[0]
                if (hit.key, hit.distance) != (f"item {i}", 0):
                    wrong.append(hit)

        threads = [threading.Thread(target=look) for _ in range(3)]
        for thread in threads:
            thread.start()
        for i in range(50):
            gallery.upsert([Item(f"new {i}", codes(1, seed=1000 + i)[0])])
            gallery.remove(f"item {199 - i}")
        for thread in threads:
            thread.join()
        assert not wrong


def calibrate(path, kind):
    """Put falling and rising tables into a gallery's file."""
    falling = ", ".join(str(1 - distance / 128) for distance in range(129))
    rising = ", ".join(str((distance + 1) / 129) for distance in range(129))
    table = f'{{"duplicate": [{falling}], "kind": [{kind}], "false_match": [{rising}]}}'
    db = sqlite3.connect(path)
    db.execute("UPDATE info SET value = ? WHERE name = 'calibration'", [table])
    seal_info(db)
    db.commit()
    db.close()


def test_probabilities_come_from_the_models_calibration(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(50))
        calibrate(path, "")
        hits = gallery.search("item 0", k=50)
        assert hits[-1].distance > 40
        for hit in hits:
            # The table says 1 - distance / 128 at even odds; here one in 50 may be the same.
            expected = at_odds(1 - hit.distance / 128, 1 / 50)
            assert hit.duplicate == pytest.approx(expected)
            assert hit.same_kind is None  # there were no labels
        calibrate(path, ", ".join(["0.95"] * 129))
        for hit in gallery.search("item 0", k=50):
            assert hit.same_kind == pytest.approx(0.5)  # of one in twenty


def test_a_radius_for_a_rate_of_false_matches(path):
    with Gallery(path) as gallery:
        calibrate(path, "")
        assert gallery.radius(0.1) == gallery.calibration.radius(0.1) == 11
        assert gallery.radius(false_match_rate=0.5) == 63
        with pytest.raises(ValueError, match=r"rates from 0\.0078 on"):
            gallery.radius()
        with pytest.raises(ValueError, match="above 0 and below 1"):
            gallery.radius(1)


def test_without_a_calibration_nothing_is_told_of_distances(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(5))
        db = sqlite3.connect(path)
        db.execute("UPDATE info SET value = 'null' WHERE name = 'calibration'")
        seal_info(db)
        db.commit()
        db.close()
        assert gallery.calibration is None
        hit = gallery.search("item 0")[0]
        assert (hit.same_kind, hit.duplicate) == (None, None)
        with pytest.raises(GalleryError, match="does not say what distances mean.*or adapt"):
            gallery.radius()


def test_a_missing_default_model_says_so(path, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.gallery.DEFAULT_MODEL", Path("/nowhere/general.onnx"))
    with pytest.raises(ModelError, match=r"general\.onnx: cannot read the model"):
        Gallery(path)
    assert not path.exists()


def test_what_encodes_nothing_reads_no_model(path, monkeypatch):
    with Gallery(path) as gallery:
        gallery.upsert(items(3))
    monkeypatch.setattr("bitgaze.gallery.gallery.read_model", None)  # calling it would raise
    monkeypatch.setattr("bitgaze.gallery.gallery.Encoder", None)
    for create in (True, False):
        with Gallery(path, create=create) as gallery:
            assert gallery.search("item 1", k=1)[0].distance == 0


def test_any_name_is_a_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        ":memory:",
        "file:x?mode=memory",
        "100% \u00fc.bitgaze",
        b"\xff#".decode("utf-8", "surrogateescape"),
    ):
        with Gallery(name) as gallery:
            gallery.upsert(items(3))
        with Gallery(name, create=False) as gallery:
            assert len(gallery) == 3
        (tmp_path / name).unlink()


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


@pytest.mark.parametrize("key", ["plain", "nul\0in it", "größe \u212a", "", "None", "7"])
def test_what_is_read_in_bulk_has_the_checksum_that_was_written(path, key):
    """SQLite joins a row's columns as Python does, whatever is in them."""
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


def test_a_damaged_item_is_named_among_many(path):
    with Gallery(path) as gallery:
        gallery.upsert(items(9000))
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE item SET size = 3 WHERE slot = 8000")
        db.commit()
    with Gallery(path) as gallery:
        for use in (lambda: list(gallery), lambda: "nobody" in gallery):
            with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged: 'it"):
                use()
        with pytest.raises(GalleryCorrupt, match="the item in slot 8000 is damaged"):
            gallery.search_code(codes(1)[0], where={"i": 5})


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
