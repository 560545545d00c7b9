"""Verify, repair, backup and compact."""

import json
import shutil
import threading
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from bitgaze import (
    FingerprintMismatch,
    Gallery,
    GalleryCorrupt,
    GalleryError,
    Item,
    repair,
    verify_gallery,
)
from bitgaze.cli.main import main
from bitgaze.encoding.encoder import Encoder
from bitgaze.gallery.chunks import CHUNK_CODES
from bitgaze.gallery.connection import Connection, deadline
from bitgaze.gallery.maintenance import GalleryVerification
from conftest import smooth_image
from galleries import codes, execute


@pytest.fixture
def path(tmp_path):
    """5,000 items added by hand, in two chunks."""
    path = tmp_path / "g.bitgaze"
    with Gallery(path) as gallery:
        gallery.upsert(Item(f"k{n}", code, {"n": n}) for n, code in enumerate(codes(5000)))
    return path


@pytest.fixture
def folder(tmp_path, make_image):
    for n in range(6):
        make_image(f"photos/{n}.png", seed=n)
    return tmp_path / "photos"


def same(one, other):
    """Whether two galleries hold equal items."""
    return set(one) == set(other) and all(
        (one.get(key).code == other.get(key).code).all()
        and (one.get(key).metadata, one.get(key).file)
        == (other.get(key).metadata, other.get(key).file)
        for key in one
    )


# verify


def test_a_sound_gallery_has_no_problems(path):
    found = verify_gallery(path)
    assert (found.items, found.problems, found.is_sound) == (5000, (), True)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (
            "UPDATE item SET metadata = '{}' WHERE slot = 4000",
            "item in slot 4000 is damaged",
        ),
        ("UPDATE item SET key = x'ff' WHERE slot = 3", "item in slot 3 is damaged"),
        ("UPDATE chunk SET codes = x'00' WHERE n = 1", "chunk 1 of the codes is damaged"),
        ("UPDATE info SET value = 'x' WHERE name = 'model'", "the info table is damaged"),
        ("CREATE TABLE more(x)", "the tables are not those"),
    ],
)
def test_verify_names_the_damage(path, statement, message):
    execute(path, statement)
    before = path.read_bytes()
    found = verify_gallery(path)
    assert not found.is_sound
    assert any(message in problem for problem in found.problems), found.problems
    assert path.read_bytes() == before


def test_verify_names_at_most_twenty_problems(path):
    execute(path, "UPDATE item SET metadata = '{}' WHERE slot IN (3, 5)")
    assert len(verify_gallery(path).problems) == 2
    execute(path, "UPDATE item SET metadata = '{}' WHERE slot < 1000")
    assert len(verify_gallery(path).problems) == 20


def test_verify_of_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(GalleryError, match="no such gallery"):
        verify_gallery(tmp_path / "none.bitgaze")
    (tmp_path / "text.bitgaze").write_text("not a gallery at all" * 100)
    found = verify_gallery(tmp_path / "text.bitgaze")
    assert "not a gallery, or damaged" in found.problems[0]


# repair


def test_repairing_a_sound_gallery_copies_it(path, tmp_path):
    report = repair(path, tmp_path / "new.bitgaze")
    assert (report.kept, report.encoded, report.lost, report.unreadable) == (5000, [], {}, 0)
    with Gallery(path) as old, Gallery(tmp_path / "new.bitgaze") as new:
        assert same(old, new)
        assert (old.fingerprint, old.model_name, old.calibration) == (
            new.fingerprint,
            new.model_name,
            new.calibration,
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["g.bitgaze", "new.bitgaze"]


def test_repair_leaves_out_and_names_damaged_items(path, tmp_path):
    with Gallery(path) as gallery:
        kept = {key: gallery.get(key).code for key in gallery}
    execute(
        path,
        "UPDATE item SET metadata = '{}' WHERE slot = 7",
        "DELETE FROM item WHERE slot = 8",
        "UPDATE chunk SET crc = crc + 1 WHERE n = 1",
    )
    with pytest.raises(GalleryCorrupt):
        Gallery(path).get("k1")
    before = path.read_bytes()
    report = repair(path, tmp_path / "new.bitgaze")
    assert path.read_bytes() == before
    assert report.unreadable == 2
    assert set(report.lost) == {f"k{n}" for n in range(CHUNK_CODES, 5000)}
    assert (
        "code is damaged, and its image cannot be encoded again: added by hand"
        in report.lost["k4999"]
    )
    assert report.kept == CHUNK_CODES - 2
    assert verify_gallery(tmp_path / "new.bitgaze").is_sound
    with Gallery(tmp_path / "new.bitgaze") as new:
        assert set(new) == {f"k{n}" for n in range(CHUNK_CODES)} - {"k7", "k8"}
        assert all((new.get(key).code == kept[key]).all() for key in new)
        assert new.get("k9").metadata == {"n": 9}


@pytest.mark.parametrize("is_adapted", [False, True])
def test_repair_encodes_images_with_damaged_codes_again(tmp_path, folder, is_adapted, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.reencode.min_images", lambda bits: 4)
    path = tmp_path / "g.bitgaze"
    with Gallery(path) as gallery:
        gallery.sync(folder)
        for key in gallery:
            gallery.set_metadata(key, {"name": key[-5:]})
        if is_adapted:
            gallery.adapt()
    shutil.copy(path, tmp_path / "sound.bitgaze")
    execute(path, "UPDATE chunk SET codes = zeroblob(96)")
    (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
    (folder / "3.png").unlink()
    report = repair(path, tmp_path / "new.bitgaze")
    assert report.encoded == [str(folder / f"{n}.png") for n in (0, 2, 4, 5)]
    assert report.lost == {
        str(folder / "1.png"): "its code is damaged, and its image cannot be encoded again: "
        "changed since it was added",
        str(folder / "3.png"): "its code is damaged, and its image cannot be encoded again: "
        "No such file or directory",
    }
    with Gallery(tmp_path / "sound.bitgaze") as old, Gallery(tmp_path / "new.bitgaze") as new:
        assert new.adaptation == old.adaptation
        assert new.calibration == old.calibration
        for key in new:
            assert (new.get(key).code == old.get(key).code).all()
            assert new.get(key).metadata == old.get(key).metadata
        assert len(new) == 4


@pytest.mark.parametrize("is_adapted", [False, True])
def test_verify_finds_codes_that_are_not_their_files(tmp_path, folder, is_adapted, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.reencode.min_images", lambda bits: 4)
    path = tmp_path / "g.bitgaze"
    with Gallery(path) as gallery:
        gallery.sync(folder)
        gallery.add("by hand", folder / "0.png")
        if is_adapted:
            gallery.adapt(lambda _: folder / "0.png")
        assert verify_gallery(path, images=True) == GalleryVerification(7, (), 6, 1)
        (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
        (folder / "3.png").unlink()
        key, other = str(folder / "4.png"), str(folder / "5.png")
        gallery.upsert([replace(gallery.get(key), code=gallery.get(other).code)])
    assert verify_gallery(path).is_sound
    found = verify_gallery(path, images=True)
    assert (found.items, found.images, found.not_compared) == (7, 4, 3)
    (problem,) = found.problems
    assert f"the code of '{key}' is not that of its file" in problem


def test_a_code_is_compared_with_the_file_that_was_decoded(tmp_path, folder, monkeypatch):
    """Files are exchanged while they are encoded: no code of one gets the digest of another."""
    monkeypatch.setattr("bitgaze.gallery.reencode.min_images", lambda bits: 4)
    path, first, second = tmp_path / "g.bitgaze", folder / "0.png", folder / "1.png"
    contents = first.read_bytes(), second.read_bytes()
    encode = Encoder.encode

    def exchanging(self, sources, **options):
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        try:
            return encode(self, sources, **options)
        finally:
            first.write_bytes(contents[0])
            second.write_bytes(contents[1])

    with Gallery(path) as gallery:
        gallery.sync(folder)
        before = [gallery.get(key).code.tobytes() for key in gallery]
        monkeypatch.setattr(Encoder, "encode", exchanging)
        with pytest.raises(GalleryError, match="2 of its images .*changed since it was added"):
            gallery.adapt()
        assert [gallery.get(key).code.tobytes() for key in gallery] == before
    assert verify_gallery(path, images=True) == GalleryVerification(6, (), 4, 2)
    execute(path, "UPDATE chunk SET codes = zeroblob(96)")
    lost = repair(path, tmp_path / "new.bitgaze").lost
    assert set(lost) == {str(first), str(second)}


_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (
            "item",
            "x AS slot, x AS key, '{}' AS metadata, NULL path, NULL size, NULL mtime_ns,"
            " NULL ctime_ns, NULL content, 0 crc",
        ),
        ("chunk", "x AS n, zeroblob(16) AS codes, 0 AS crc"),
        ("info", "x AS name, 1 AS value"),
    ],
)
def test_a_view_in_place_of_a_table_ends_repair_at_once(path, tmp_path, table, columns):
    execute(
        path,
        f"ALTER TABLE {table} RENAME TO old",
        f"CREATE VIEW {table} AS {_ENDLESS} SELECT {columns} FROM c",
    )
    with pytest.raises(GalleryCorrupt, match="the tables are not those of a gallery"):
        repair(path, tmp_path / "new.bitgaze")
    assert not verify_gallery(path).is_sound


def test_repair_ignores_what_was_added_to_the_tables(path, tmp_path):
    execute(
        path,
        f"CREATE VIEW v AS {_ENDLESS} SELECT x FROM c",
        "CREATE TRIGGER t AFTER UPDATE ON item BEGIN DELETE FROM item; END",
    )
    assert repair(path, tmp_path / "new.bitgaze").kept == 5000


@pytest.mark.parametrize("work", ["SELECT count(*) FROM c", "SELECT x FROM c WHERE x < 0"])
def test_a_statement_ends_at_its_deadline(path, work):
    db = Connection.open(path, "mode=ro", 5)
    with closing(db), deadline(db, 0.2):
        for _ in range(2):
            with pytest.raises(GalleryCorrupt, match="takes too long"):
                db.execute(f"{_ENDLESS} {work}").fetchall()
    db = Connection.open(path, "mode=ro", 5)
    with closing(db), deadline(db, 60):
        assert db.execute("SELECT count(*) FROM item").fetchone() == (5000,)


def test_repair_ends_at_its_deadline(path, tmp_path, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.maintenance.seconds_allowed", lambda size: 0.001)
    with pytest.raises(GalleryCorrupt, match="takes too long"):
        repair(path, tmp_path / "new.bitgaze")


def test_images_of_own_codes_cannot_be_verified(tmp_path):
    Gallery(tmp_path / "own.bitgaze", bits=64).close()
    with pytest.raises(GalleryError, match="your own codes"):
        verify_gallery(tmp_path / "own.bitgaze", images=True)


def test_repair_of_own_codes_needs_no_model(tmp_path):
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        for n, code in enumerate(codes(5)[:, :8]):
            gallery.add_code(str(n), np.ascontiguousarray(code))
    report = repair(tmp_path / "own.bitgaze", tmp_path / "new.bitgaze")
    assert report.kept == 5
    with Gallery(tmp_path / "new.bitgaze") as new:
        assert (new.bits, new.fingerprint) == (64, None)
    execute(tmp_path / "own.bitgaze", "UPDATE chunk SET crc = 0")
    report = repair(tmp_path / "own.bitgaze", tmp_path / "newer.bitgaze")
    assert report.lost["3"] == "its code is damaged, and its model was not given"


def test_repair_raises_if_nothing_can_be_recovered(path, tmp_path, encoder):
    out = tmp_path / "new.bitgaze"
    with pytest.raises(GalleryError, match="no such gallery"):
        repair(tmp_path / "none.bitgaze", out)
    with pytest.raises(
        GalleryError, match=r"g\.bitgaze: already exists; repair needs the name of a new file"
    ):
        repair(path, path)
    with Gallery(tmp_path / "own.bitgaze", bits=64):
        pass
    with pytest.raises(FingerprintMismatch, match="not from model 'general-128'"):
        repair(tmp_path / "own.bitgaze", out, encoder=encoder)
    execute(path, "UPDATE info SET value = 64 WHERE name = 'bits'")
    with pytest.raises(GalleryCorrupt, match="the info table is damaged"):
        repair(path, out)
    path.write_bytes(b"nothing" * 1000)
    with pytest.raises(GalleryCorrupt, match="not a gallery, or damaged"):
        repair(path, out)
    with pytest.raises(GalleryError, match="no/folder"):
        repair(tmp_path / "own.bitgaze", tmp_path / "no/folder/new.bitgaze")
    assert not out.exists()


def test_repair_recovers_most_items_after_losing_a_page(path, tmp_path):
    """Whichever page is overwritten, the recovered items are correct, and they are most."""
    with Gallery(path) as gallery:
        sound = {key: (gallery.get(key).code, gallery.get(key).metadata) for key in gallery}
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    pages = len(whole) // 4096
    most_kept = 0
    for case in range(12):
        page = int(rng.integers(1, pages))
        path.write_bytes(whole[: page * 4096] + rng.bytes(4096) + whole[(page + 1) * 4096 :])
        out = tmp_path / f"{case}.bitgaze"
        try:
            report = repair(path, out)
        except GalleryCorrupt:
            continue
        assert verify_gallery(out).is_sound
        with Gallery(out) as new:
            assert len(new) == report.kept
            for key in new:
                item = new.get(key)
                assert (item.code == sound[key][0]).all()
                assert item.metadata == sound[key][1]
            most_kept = max(most_kept, len(new))
    assert most_kept > 4800


# backup, compact


def test_a_backup_is_a_snapshot(path, tmp_path):
    copy = tmp_path / "copy.bitgaze"
    with Gallery(path) as gallery:
        gallery.add("new", smooth_image(3))
        gallery.backup(copy)
        gallery.remove("new")
        with Gallery(copy) as copied:
            assert len(copied) == 5001
            copied.remove("new")
            assert same(copied, gallery)
        with pytest.raises(
            GalleryError, match="already exists; a backup needs the name of a new file"
        ):
            gallery.backup(copy)
        with pytest.raises(GalleryError, match=r"copy\.bitgaze: the folder .*such does not exist"):
            gallery.backup(tmp_path / "no/such/copy.bitgaze")
    assert verify_gallery(copy).is_sound


def test_backup_during_writes(path, tmp_path):
    """Each copy is the state between two commits, each of which adds two items."""
    is_done = threading.Event()

    def write():
        with Gallery(path, timeout_s=60) as writer:
            for n in range(0, 200, 2):
                writer.upsert(Item(f"w{n + i}", codes(1)[0]) for i in range(2))
        is_done.set()

    thread = threading.Thread(target=write)
    thread.start()
    copies = 0
    with Gallery(path) as gallery:
        while not is_done.is_set() or not copies:
            gallery.backup(tmp_path / f"{copies}.bitgaze")
            copies += 1
    thread.join()
    for n in range(copies):
        with Gallery(tmp_path / f"{n}.bitgaze") as copy:
            assert len(copy) % 2 == 0
            assert set(copy) == {f"k{i}" for i in range(5000)} | {
                f"w{i}" for i in range(len(copy) - 5000)
            }


def test_compact_shrinks_the_file(path):
    with Gallery(path) as gallery:
        gallery.remove(*(f"k{n}" for n in range(1000, 5000)))
        before = path.stat().st_size
        freed = gallery.compact()
        assert freed > before // 2
        assert path.stat().st_size == before - freed
        assert gallery.compact() == 0
        assert set(gallery) == {f"k{n}" for n in range(1000)}
        assert gallery.search("k5", k=1)[0].key == "k5"
    assert verify_gallery(path).is_sound


def test_the_log_does_not_count_as_freed(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=64) as gallery:
        gallery.upsert(Item(f"k{n}", code[:8].copy()) for n, code in enumerate(codes(3000)))
        assert 0 <= gallery.compact() < 100_000


def test_compact_waits_for_a_writer(path):
    with Gallery(path) as writer, Gallery(path, timeout_s=0.1) as gallery:
        with writer.transaction():
            writer.remove("k1")
            with pytest.raises(
                GalleryError, match=r"still writing after 0\.1 s; try again, or wait longer"
            ):
                gallery.compact()
        assert len(gallery) == 4999


# On the command line


def test_maintenance_on_the_command_line(path, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command, text in [
        (["verify"], "sound: all 5000 items and codes match their checksums\n"),
        (["backup", "copy.bitgaze"], f"copy.bitgaze: {path.stat().st_size:,} bytes\n"),
    ]:
        assert main([*command, "-g", "g.bitgaze"]) == 0
        assert capsys.readouterr().out == text
    before = path.stat().st_size
    assert main(["compact", "-g", "g.bitgaze"]) == 0
    assert capsys.readouterr().out == f"{before - path.stat().st_size:,} bytes freed\n"
    assert main(["backup", "copy.bitgaze", "-g", "g.bitgaze"]) == 2
    assert "already exists" in capsys.readouterr().err
    execute(path, "UPDATE item SET metadata = '{}' WHERE slot = 7", "UPDATE chunk SET crc = 0")
    assert main(["verify", "-g", "g.bitgaze"]) == 1
    assert "damaged: g.bitgaze: chunk 0" in (out := capsys.readouterr().out)
    assert "recover it with `bitgaze repair NEW -g g.bitgaze`" in out
    assert main(["verify", "-g", "g.bitgaze", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["sound"] is False
    assert main(["repair", "new.bitgaze", "-g", "g.bitgaze"]) == 1
    out, err = capsys.readouterr()
    assert out == ("0 kept, 0 re-encoded, 4999 lost, 1 unreadable\nnew.bitgaze: 0 images\n")
    assert "lost k0: its code is damaged" in err
    assert "`bitgaze index` restores items" in err
    assert main(["repair", "newer.bitgaze", "-g", "copy.bitgaze", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 5000


def copied(path, out):
    with Gallery(path) as gallery:
        gallery.backup(out)


@pytest.mark.parametrize("make", [copied, repair])
def test_a_new_file_contains_nothing_of_a_deleted_gallery(path, tmp_path, make):
    out, other = tmp_path / "out.bitgaze", tmp_path / "other.bitgaze"
    with Gallery(other) as gallery:
        gallery.upsert(Item(f"other{n}", code) for n, code in enumerate(codes(10, seed=1)))
        gallery.upsert([Item("last", codes(1, seed=2)[0])])
        # As left by a process that was killed, after its file was deleted.
        log = tmp_path / "out.bitgaze-wal"
        shutil.copy(f"{other}-wal", log)
        assert log.stat().st_size > 0
    with pytest.raises(GalleryError, match="out.bitgaze-wal: left over from a deleted gallery"):
        make(path, out)
    log.unlink()
    leftover = tmp_path / ".bitgaze-killed"  # left by a process that was killed
    leftover.mkdir()
    shutil.copy(other, leftover / "unfinished")
    make(path, out)
    with Gallery(path) as before, Gallery(out) as after:
        assert same(before, after)
    assert sorted(file.name for file in tmp_path.glob("out*")) == ["out.bitgaze"]


def test_threads_can_create_the_same_backup(path, tmp_path):
    out = tmp_path / "out.bitgaze"
    outcomes = []

    def back_up():
        try:
            with Gallery(path) as gallery:
                gallery.backup(out)
            outcomes.append("made")
        except GalleryError:
            outcomes.append("refused")

    threads = [threading.Thread(target=back_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    Gallery(path).close()  # connections that close at the same time can leave the log behind
    assert len(outcomes) == 4
    assert "made" in outcomes
    assert verify_gallery(out).is_sound
    assert sorted(file.name for file in tmp_path.iterdir()) == ["g.bitgaze", "out.bitgaze"]
