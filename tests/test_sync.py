"""Sync of one folder: what it adds, updates, moves, removes and leaves alone."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from inside import move
from PIL import Image

from bitgaze import Gallery, GalleryError, Item
from bitgaze.encoding import images
from bitgaze.encoding.images import printable
from bitgaze.gallery import items
from bitgaze.gallery.items import content_digest
from bitgaze.gallery.sync import folders, ingest
from bitgaze.gallery.sync.folders import file_state
from bitgaze.gallery.sync.report import KEY_IN_USE
from conftest import smooth_image
from galleries import run_processes, touch


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for seed, name in enumerate(["a.png", "b.jpg", "sub/c.webp"]):
        smooth_image(seed).save(root / name)
    return root


def names(gallery):
    return sorted(Path(key).name for key in gallery)


def encodes_nothing(gallery, monkeypatch):
    def refuse(sources, **_):
        assert list(sources) == [], "an image was encoded again"
        return original([])

    original = gallery.encoder.encode
    monkeypatch.setattr(gallery.encoder, "encode", refuse)


def test_new_images_are_added_and_found(gallery, folder):
    report = gallery.sync(folder)
    assert report.added == [str(folder / name) for name in ("a.png", "b.jpg", "sub/c.webp")]
    assert not report.failed
    hit = gallery.search(folder / "sub" / "c.webp", k=1)[0]
    assert hit.key == hit.path == str(folder / "sub" / "c.webp")
    assert hit.distance == 0


def test_a_second_sync_opens_no_file(gallery, folder, monkeypatch):
    gallery.sync(folder)
    monkeypatch.setattr("bitgaze.gallery.sync.ingest._read", None)  # calling it would raise
    monkeypatch.setattr(gallery._store, "writing", None)  # nor is the gallery locked
    report = gallery.sync(folder)
    assert report.unchanged == 3
    assert [report.added, report.updated, report.moved, report.removed] == [[], [], [], []]


def test_a_changed_image_is_encoded_again_and_keeps_its_metadata(gallery, folder):
    gallery.sync(folder)
    key = str(folder / "a.png")
    item = gallery.get(key)
    gallery.upsert([type(item)(key, item.code, {"album": 1}, item.file)])
    smooth_image(9).save(folder / "a.png")
    touch(folder / "a.png")
    report = gallery.sync(folder)
    assert report.updated == [key]
    assert report.unchanged == 2
    assert gallery.get(key).metadata == {"album": 1}
    assert gallery.search(smooth_image(9), k=1)[0].key == key


def test_a_touched_image_is_not_encoded_again(gallery, folder, monkeypatch):
    gallery.sync(folder)
    touch(folder / "a.png")
    encodes_nothing(gallery, monkeypatch)
    assert gallery.sync(folder).unchanged == 3
    monkeypatch.setattr("bitgaze.gallery.sync.ingest._read", None)
    assert gallery.sync(folder).unchanged == 3


def test_a_renamed_image_is_not_encoded_again(gallery, folder, monkeypatch):
    gallery.sync(folder)
    code = gallery.get(str(folder / "a.png")).code.tobytes()
    (folder / "a.png").rename(folder / "sub" / "renamed.png")
    encodes_nothing(gallery, monkeypatch)
    report = gallery.sync(folder)
    assert report.moved == [(str(folder / "a.png"), str(folder / "sub" / "renamed.png"))]
    assert report.removed == []
    assert gallery.get(str(folder / "sub" / "renamed.png")).code.tobytes() == code
    assert names(gallery) == ["b.jpg", "c.webp", "renamed.png"]


def name_items(gallery):
    """Store the present name of every item's file as its metadata."""
    for key in list(gallery):
        item = gallery.get(key)
        gallery.upsert([Item(key, item.code, {"was": Path(item.path).name}, item.file)])


def origins(gallery):
    """Present name of each file to its name when `name_items` ran."""
    return {Path(key).name: gallery.get(key).metadata.get("was") for key in gallery}


@pytest.mark.parametrize(
    ("renames", "expected", "removed"),
    [
        ("a>t b>a t>b", {"a": "b", "b": "a", "c": "c", "d": "d"}, []),
        ("a>t b>a c>b t>c", {"a": "b", "b": "c", "c": "a", "d": "d"}, []),
        ("c>e b>c a>b", {"b": "a", "c": "b", "e": "c", "d": "d"}, []),
        ("a>b", {"b": "a", "c": "c", "d": "d"}, ["b"]),
        ("a>b c>a", {"a": "c", "b": "a", "d": "d"}, ["b"]),
        ("d>b", {"a": "a", "b": "d", "c": "c"}, ["b"]),
    ],
)
def test_an_item_follows_its_image(
    gallery, tmp_path, encoder, monkeypatch, renames, expected, removed
):
    for seed, name in enumerate("abcd"):
        smooth_image(seed).save(tmp_path / f"{name}.png")
    gallery.sync(tmp_path)
    name_items(gallery)
    for rename in renames.split():
        old, new = rename.split(">")
        (tmp_path / f"{old}.png").rename(tmp_path / f"{new}.png")
    encodes_nothing(gallery, monkeypatch)
    report = gallery.sync(tmp_path)
    png = {f"{new}.png": f"{old}.png" for new, old in expected.items()}
    assert origins(gallery) == png
    assert {Path(new).name: Path(old).name for old, new in report.moved} == {
        new: old for new, old in png.items() if new != old
    }
    assert report.removed == [str(tmp_path / f"{name}.png") for name in removed]
    assert report.added == report.updated == []
    monkeypatch.undo()
    for key in gallery:
        assert gallery.search(Path(key), k=1)[0].distance == 0
        assert gallery.get(key).path == key
    assert gallery.sync(tmp_path).unchanged == len(gallery)


def test_a_new_image_under_an_old_name_gets_a_new_item(gallery, folder):
    gallery.sync(folder)
    name_items(gallery)
    (folder / "a.png").rename(folder / "kept.png")
    smooth_image(14).save(folder / "a.png")
    report = gallery.sync(folder)
    assert report.moved == [(str(folder / "a.png"), str(folder / "kept.png"))]
    assert report.added == [str(folder / "a.png")]
    assert origins(gallery) == {
        "a.png": None,
        "b.jpg": "b.jpg",
        "c.webp": "c.webp",
        "kept.png": "a.png",
    }


def test_renamed_equal_images_keep_their_items(gallery, folder, monkeypatch):
    shutil.copy(folder / "a.png", folder / "a2.png")
    gallery.sync(folder)
    name_items(gallery)
    (folder / "a.png").rename(folder / "x.png")
    (folder / "a2.png").rename(folder / "x2.png")
    encodes_nothing(gallery, monkeypatch)
    assert len(gallery.sync(folder).moved) == 2
    assert origins(gallery)["x.png"] == "a.png"
    assert origins(gallery)["x2.png"] == "a2.png"


def test_a_rename_to_a_key_in_use_waits(gallery, folder, monkeypatch):
    gallery.sync(folder)
    name_items(gallery)
    key = str(folder / "renamed.png")
    gallery.add(key, smooth_image(7), {"mine": True})
    (folder / "a.png").rename(folder / "renamed.png")
    for _ in range(2):
        report = gallery.sync(folder)
        assert report.failed == {key: KEY_IN_USE}
        assert report.removed == []
    move(gallery, (key, "by hand", None))
    encodes_nothing(gallery, monkeypatch)
    assert gallery.sync(folder).moved == [(str(folder / "a.png"), key)]
    assert gallery.get(key).metadata == {"was": "a.png"}


def test_swapped_images_of_equal_size_and_time_are_noticed(gallery, tmp_path):
    for seed, name in enumerate("ab"):
        smooth_image(seed).save(tmp_path / f"{name}.bmp")
        os.utime(tmp_path / f"{name}.bmp", ns=(10**18, 10**18))
    gallery.sync(tmp_path)
    name_items(gallery)
    for old, new in ("at", "ba", "tb"):
        (tmp_path / f"{old}.bmp").rename(tmp_path / f"{new}.bmp")
    assert len(gallery.sync(tmp_path).moved) == 2
    assert origins(gallery) == {"a.bmp": "b.bmp", "b.bmp": "a.bmp"}


def test_a_folder_restored_from_a_copy_is_read_once(gallery, folder, tmp_path, monkeypatch):
    gallery.sync(folder)
    shutil.copytree(folder, tmp_path / "backup")  # keeps modification times
    shutil.rmtree(folder)
    (tmp_path / "backup").rename(folder)
    encodes_nothing(gallery, monkeypatch)
    assert gallery.sync(folder).unchanged == 3
    monkeypatch.setattr("bitgaze.gallery.sync.ingest._read", None)
    assert gallery.sync(folder).unchanged == 3


def test_a_removed_image_is_removed(gallery, folder):
    gallery.sync(folder)
    (folder / "b.jpg").unlink()
    report = gallery.sync(folder)
    assert report.removed == [str(folder / "b.jpg")]
    assert names(gallery) == ["a.png", "c.webp"]


def test_items_added_by_hand_and_of_other_folders_stay(gallery, folder, tmp_path):
    gallery.add("by hand", smooth_image(7))
    other = tmp_path / "photos2"  # the other folder's name is a prefix
    other.mkdir()
    smooth_image(8).save(other / "d.png")
    gallery.sync(other)
    gallery.sync(folder)
    (folder / "a.png").unlink()
    gallery.sync(folder)
    assert names(gallery) == ["b.jpg", "by hand", "c.webp", "d.png"]


def test_an_item_added_by_hand_is_not_overwritten(gallery, folder):
    key = str(folder / "a.png")
    gallery.add(key, smooth_image(7), {"mine": True})
    report = gallery.sync(folder)
    assert report.failed == {key: KEY_IN_USE}
    assert gallery.get(key).metadata == {"mine": True}


def test_broken_images_are_reported_and_others_indexed(gallery, folder, encoder, examples):
    photograph = Image.open(examples / "birds" / "owl.jpg").convert("RGB")
    good = {
        "upright.jpg": photograph,
        "cmyk.jpg": smooth_image(21).convert("CMYK"),
        "palette.png": smooth_image(23).convert("P"),
    }
    for name, image in good.items():
        image.save(folder / name)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photograph.transpose(Image.Transpose.ROTATE_90)
    turned.save(folder / "rotated.jpg", exif=exif)
    deep = np.asarray(smooth_image(22).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    transparent = smooth_image(24).convert("RGBA")
    transparent.putalpha(128)
    transparent.save(folder / "transparent.png")
    smooth_image(25).save(folder / "animated.gif", save_all=True, append_images=[smooth_image(26)])
    (folder / "folder.jpg").mkdir()
    smooth_image(27).save(folder / "folder.jpg" / "inside.png")
    os.rename(folder / "a.png", os.fsencode(folder) + b"/not-utf8-\xff.png")

    smooth_image(28, (200, 200)).save(folder / "truncated.jpg")
    os.truncate(folder / "truncated.jpg", (folder / "truncated.jpg").stat().st_size // 2)
    (folder / "text.jpg").write_text("not an image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "sub" / "up").symlink_to("..", target_is_directory=True)
    (folder / "notes.txt").write_text("not indexed")
    (folder / ".hidden.jpg").write_text("not indexed")

    report = gallery.sync(folder)
    assert sorted(Path(path).name for path in report.failed) == [
        "empty.jpg",
        "loop.jpg",
        "text.jpg",
        "truncated.jpg",
    ]
    assert "truncated" in report.failed[str(folder / "truncated.jpg")]
    assert list(report.skipped) == [str(folder / "sub" / "up")]
    assert names(gallery) == sorted(
        [
            *good,
            *("b.jpg", "c.webp", "rotated.jpg", "deep.png", "transparent.png"),
            *("animated.gif", "inside.png", r"not-utf8-\xff.png"),
        ]
    )
    for key in gallery:  # failures must not shift codes to other images
        code = encoder.encode([gallery.get(key).path]).codes[0]
        assert gallery.get(key).code.tobytes() == code.tobytes()
    distances = {Path(h.key).name: h.distance for h in gallery.search(photograph, k=3)}
    assert distances["rotated.jpg"] < 16
    again = gallery.sync(folder)
    assert again.failed == report.failed
    assert again.unchanged == len(gallery)


def test_an_image_that_breaks_keeps_its_old_code(gallery, folder):
    gallery.sync(folder)
    code = gallery.get(str(folder / "a.png")).code.tobytes()
    (folder / "a.png").write_bytes(b"half copied")
    report = gallery.sync(folder)
    assert list(report.failed) == [str(folder / "a.png")]
    assert gallery.get(str(folder / "a.png")).code.tobytes() == code


def test_an_empty_folder_removes_items_only_with_allow_empty(gallery, folder):
    gallery.sync(folder)
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    gallery.add("by hand", smooth_image(7))
    with pytest.raises(
        GalleryError, match="holds 3 from this folder; nothing was removed .*allow_empty"
    ):
        gallery.sync(folder)
    assert len(gallery) == 4
    report = gallery.sync(folder, allow_empty=True)
    assert len(report.removed) == 3
    assert list(gallery) == ["by hand"]
    assert gallery.sync(folder).removed == []


def test_an_unreadable_folder_keeps_its_items(gallery, folder, monkeypatch):
    gallery.sync(folder)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = gallery.sync(folder)
    assert report.failed == {str(folder / "sub"): "Permission denied"}
    assert report.removed == []
    assert len(gallery) == 3


def test_a_linked_folder_is_scanned_once(gallery, folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    smooth_image(11).save(outside / "linked.png")
    for name in ("one", "two"):
        (folder / name).symlink_to(outside, target_is_directory=True)
    report = gallery.sync(folder)
    assert names(gallery) == ["a.png", "b.jpg", "c.webp", "linked.png"]
    assert list(report.skipped) == [str(folder / "two")]


def test_an_interrupted_sync_can_be_continued(gallery, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(40):
        smooth_image(seed, (16, 16)).save(folder / f"{seed:03}.png")
    shown = []

    def interrupt(done, total):
        shown.append((done, total))
        if done == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="32 of 40 images are done and saved, 8 are left"):
        gallery.sync(folder, on_progress=interrupt)
    assert shown == [(done, 40) for done in range(1, 36)]
    assert len(gallery) == 32
    report = gallery.sync(folder)
    assert report.unchanged == 32
    assert len(report.added) == 8


def test_sync_commits_every_few_seconds(gallery, tmp_path, monkeypatch):
    for seed in range(150):
        smooth_image(seed, (8, 8)).save(tmp_path / f"{seed:03}.png")
    now = 0.0

    def encode(sources, on_progress):
        nonlocal now
        now += 0.1 * len(sources)  # ten images per second
        sizes.append(len(sources))
        return original(sources, on_progress=on_progress)

    original, sizes = gallery.encoder.encode, []
    monkeypatch.setattr(gallery.encoder, "encode", encode)
    monkeypatch.setattr("bitgaze.gallery.sync.ingest.time", SimpleNamespace(monotonic=lambda: now))
    gallery.sync(tmp_path)
    assert sizes[:4] == [32, 30, 30, 30]
    assert sum(sizes) == 150


def test_dates_that_64_bits_do_not_hold_are_clamped(gallery, folder, monkeypatch):
    for name, year in (("a.png", 2400), ("b.jpg", 1600)):
        os.utime(folder / name, ((year - 1970) * 31_556_952,) * 2)
    assert len(gallery.sync(folder).added) == 3
    assert gallery.get(str(folder / "a.png")).file.mtime_ns == 2**63 - 1
    assert gallery.sync(folder).unchanged == 3
    (folder / "a.png").rename(folder / "sub" / "renamed.png")
    os.utime(folder / "b.jpg", (13_000_000_000,) * 2)
    encodes_nothing(gallery, monkeypatch)
    report = gallery.sync(folder)
    assert (len(report.moved), report.unchanged, report.failed) == (1, 2, {})
    assert gallery.sync(folder).unchanged == 3
    assert file_state(5, -(10**30), 10**30) == (5, -(2**63), 2**63 - 1)


@pytest.mark.parametrize("error", [OverflowError("too large"), ValueError("odd"), TypeError("bad")])
@pytest.mark.parametrize(
    "step", ["folders.file_state", "ingest._read", "items.write_item", "images._rgb"]
)
def test_an_error_of_one_image_stops_no_other(gallery, folder, monkeypatch, step, error):
    smooth_image(9).save(folder / "sub" / "d.png")
    if step == "ingest._read":  # opened only to find what was renamed
        gallery.sync(folder)
        for path in (folder / "a.png", folder / "b.jpg", folder / "sub" / "c.webp"):
            path.rename(path.with_name(f"renamed {path.name}"))
    module = {"folders": folders, "ingest": ingest, "items": items, "images": images}[
        step.partition(".")[0]
    ]
    name = step.partition(".")[2]
    original = getattr(module, name)
    calls = iter(range(9))

    def fail(*arguments, **options):
        if next(calls) == 1:
            if step == "ingest._read":
                return error  # as it catches it
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(ingest, "available_cores", lambda: 1)
    monkeypatch.setattr(module, name, fail)
    report = gallery.sync(folder)
    assert list(report.failed.values()) == [str(error)]
    monkeypatch.undo()
    assert not gallery.sync(folder).failed
    assert len(gallery) == 4
    for key in gallery:
        assert gallery.search(Path(key), k=1)[0].key == key


def test_a_pipe_is_reported_and_not_opened(gallery, folder):
    gallery.sync(folder)
    (folder / "a.png").unlink()
    for name in ("a.png", "pipe.jpg"):
        os.mkfifo(folder / name)
    report = gallery.sync(folder)
    reason = "not a regular file but a pipe, a socket or a device"
    assert report.failed == {str(folder / name): reason for name in ("a.png", "pipe.jpg")}
    assert report.removed == []


def test_no_model_is_read_when_nothing_is_encoded(gallery, folder, monkeypatch):
    gallery.sync(folder)
    monkeypatch.setattr("bitgaze.gallery.gallery.Encoder", None)  # calling it would raise
    monkeypatch.setattr("bitgaze.gallery.gallery.read_model", None)
    with Gallery(gallery.path) as reopened:
        assert reopened.sync(folder).unchanged == 3
        (folder / "a.png").rename(folder / "renamed.png")
        (folder / "b.jpg").unlink()
        touch(folder / "sub" / "c.webp")
        report = reopened.sync(folder)
        assert (len(report.moved), len(report.removed), report.unchanged) == (1, 1, 1)


def test_a_missing_folder_raises(gallery, tmp_path):
    with pytest.raises(GalleryError, match="none: not a folder"):
        gallery.sync(tmp_path / "none")


def test_a_tilde_is_expanded(gallery, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert len(gallery.sync("~/photos").added) == 3


def test_a_broken_link_keeps_the_items_behind_it(gallery, folder, tmp_path):
    outside = tmp_path / "disk"
    outside.mkdir()
    smooth_image(11).save(outside / "linked.png")
    (folder / "usb").symlink_to(outside, target_is_directory=True)
    gallery.sync(folder)
    outside.rename(tmp_path / "unplugged")
    report = gallery.sync(folder)
    assert list(report.failed) == [str(folder / "usb")]
    assert report.removed == []
    assert "linked.png" in names(gallery)


def test_files_with_equal_printable_names_do_not_replace_each_other(gallery, folder):
    os.rename(folder / "a.png", os.fsencode(folder) + b"/n\xff.png")
    smooth_image(12).save(folder / "n\\xff.png")
    report = gallery.sync(folder)
    assert list(report.failed.values()) == [KEY_IN_USE]
    assert len(report.added) == len(gallery) == 3


def test_a_renamed_key_survives_touch_change_and_move(gallery, folder):
    gallery.sync(folder)
    item = gallery.get(str(folder / "a.png"))
    move(gallery, (item.key, "my name", item.file))
    touch(folder / "a.png")
    assert gallery.sync(folder).unchanged == 3
    smooth_image(13).save(folder / "a.png")
    touch(folder / "a.png")
    assert gallery.sync(folder).updated == ["my name"]
    (folder / "a.png").rename(folder / "b.jpg")
    assert gallery.sync(folder).moved == [(str(folder / "a.png"), str(folder / "b.jpg"))]
    assert gallery.get("my name").path == str(folder / "b.jpg")
    assert len(gallery) == 2


def during_encoding(gallery, monkeypatch, act):
    """Run `act` while the next sync encodes."""

    def encode(sources, **_):
        monkeypatch.undo()
        act()
        return gallery.encoder.encode(sources)

    monkeypatch.setattr(gallery.encoder, "encode", encode)


def test_images_that_change_places_during_a_sync_get_their_own_codes(gallery, folder, monkeypatch):
    def swap():
        for old, new in (("a.png", "t"), ("b.jpg", "a.png"), ("t", "b.jpg")):
            (folder / old).rename(folder / new)

    during_encoding(gallery, monkeypatch, swap)
    gallery.sync(folder)
    for _ in range(2):
        for key in gallery:
            path = Path(key)
            assert gallery.search(path, k=1)[0].key == key
            assert gallery.get(key).file.content == content_digest(path)
        assert gallery.sync(folder).unchanged == 3


@pytest.mark.parametrize("is_restored", [False, True])
def test_an_image_that_changes_while_it_is_read_is_taken_by_the_next_sync(
    gallery, folder, monkeypatch, is_restored
):
    path = folder / "a.png"
    before = path.read_bytes()
    rgb = images._rgb

    def change(*arguments):
        monkeypatch.undo()
        smooth_image(9).save(path)
        if is_restored:
            path.write_bytes(before)
        return rgb(*arguments)

    monkeypatch.setattr(ingest, "_FIRST_BATCH", 1)
    monkeypatch.setattr(images, "_rgb", change)
    report = gallery.sync(folder)
    assert report.failed == {str(path): "changed while it was being read"}
    assert names(gallery) == ["b.jpg", "c.webp"]
    assert gallery.sync(folder).added == [str(path)]
    hit = gallery.search(path, k=1)[0]
    assert (hit.key, hit.distance) == (str(path), 0)


def test_an_item_waits_while_its_image_may_be_one_that_cannot_be_read(gallery, folder, monkeypatch):
    gallery.sync(folder)
    name_items(gallery)
    (folder / "a.png").rename(folder / "t.png")
    read = ingest._read

    def rename_again(path):
        monkeypatch.undo()
        (folder / "t.png").rename(folder / "renamed.png")
        return read(path)

    monkeypatch.setattr(ingest, "_read", rename_again)
    report = gallery.sync(folder)
    assert report.failed == {str(folder / "t.png"): "No such file or directory"}
    assert report.removed == []
    assert gallery.sync(folder).moved == [(str(folder / "a.png"), str(folder / "renamed.png"))]
    assert origins(gallery)["renamed.png"] == "a.png"


def test_an_image_renamed_during_the_scan_keeps_its_item(gallery, folder, monkeypatch):
    gallery.sync(folder)
    name_items(gallery)
    scandir = os.scandir

    def rename(path):
        if str(path).endswith("sub"):  # after the folder above it
            monkeypatch.undo()
            (folder / "sub" / "c.webp").rename(folder / "renamed.webp")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", rename)
    report = gallery.sync(folder)
    assert list(report.failed) == [str(folder)]
    assert "changed while it was being listed" in report.failed[str(folder)]
    assert (report.removed, report.missing) == ([], {})
    assert len(gallery.sync(folder).moved) == 1
    assert origins(gallery)["renamed.webp"] == "c.webp"


def at_every_listing(monkeypatch, act):
    """Call a function before each listing of a folder."""
    scandir = os.scandir

    def listed(path):
        act(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listed)


@pytest.mark.parametrize("kind", ["file", "image"])
def test_a_folder_that_always_changes_holds_up_no_removal(gallery, folder, monkeypatch, kind):
    gallery.sync(folder)
    (folder / "a.png").unlink()
    count = 0

    def change(_):
        nonlocal count
        count += 1
        if kind == "image":
            smooth_image(40 + count).save(folder / f"{count}.png")
        else:
            (folder / f"{count}.part").touch()

    at_every_listing(monkeypatch, change)
    report = gallery.sync(folder)
    assert (report.removed, report.failed) == ([str(folder / "a.png")], {})
    assert 3 < count < 9


@pytest.mark.parametrize("kind", ["folder", "broken link", "folder of tiles"])
def test_removals_wait_for_a_folder_that_came_during_the_scan(gallery, folder, monkeypatch, kind):
    gallery.sync(folder)

    def move(path):
        if str(path).endswith("sub"):
            monkeypatch.undo()
            new = folder / ("@eaDir" if kind == "folder of tiles" else "new")
            new.symlink_to(folder / "nowhere") if kind == "broken link" else new.mkdir()
            (folder / "sub" / "c.webp").unlink()
            (folder / "sub" / "note.txt").touch()

    at_every_listing(monkeypatch, move)
    report = gallery.sync(folder)
    if kind == "folder of tiles":  # no image of it would be indexed
        assert (len(report.removed), report.failed) == (1, {})
    else:
        assert (report.removed, list(report.failed)) == ([], [str(folder)])


@pytest.fixture
def other(gallery, encoder):
    """The same gallery, as another process has it open."""
    with Gallery(gallery.path, encoder=encoder) as opened:
        yield opened


def test_an_item_removed_during_a_sync_is_added_again(gallery, other, folder, monkeypatch):
    gallery.sync(folder)
    smooth_image(9).save(folder / "a.png")
    touch(folder / "a.png")
    during_encoding(gallery, monkeypatch, lambda: other.remove(*list(other)))
    report = gallery.sync(folder)
    assert report.added == [str(folder / "a.png")]
    assert names(gallery) == ["a.png"]
    assert len(gallery.sync(folder).added) == 2


def test_concurrent_syncs_do_not_fail(gallery, other, folder, monkeypatch):
    during_encoding(gallery, monkeypatch, lambda: other.sync(folder))
    report = gallery.sync(folder)
    assert (report.unchanged, report.failed) == (3, {})
    name_items(gallery)
    (folder / "a.png").rename(folder / "renamed.png")
    (folder / "b.jpg").unlink()
    read = ingest.read_files

    def slow_read(*arguments):
        monkeypatch.undo()
        other.sync(folder)
        return read(*arguments)

    monkeypatch.setattr(ingest, "read_files", slow_read)
    report = gallery.sync(folder)
    assert (report.moved, report.removed, report.failed) == ([], [], {})
    assert origins(gallery) == {"renamed.png": "a.png", "c.webp": "c.webp"}


def _sync(path: Path, folder: Path) -> None:
    with Gallery(path) as gallery:
        assert not gallery.sync(folder).failed


def test_processes_can_sync_one_folder_concurrently(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for seed in range(80):
        smooth_image(seed, (16, 16)).save(folder / f"{seed:03}.png")
    path = tmp_path / "test.bitgaze"
    assert run_processes(_sync, (path, folder), (path, folder)) == [0, 0]
    with Gallery(path) as gallery:
        assert len(gallery) == 80
        assert gallery.sync(folder).unchanged == 80


def test_printable_escapes_bytes_that_are_not_text():
    assert printable(b"a\xff") == "a\\xff"
    assert printable("\u00fcber.jpg") == "\u00fcber.jpg"
