"""Sync options: patterns, several folders, links, metadata for new images, progress, dry runs."""

import os
import shutil
import sys
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import pytest
from inside import move

from bitgaze import Gallery, GalleryError
from bitgaze.encoding import images
from bitgaze.gallery.sync import folders as listing
from bitgaze.gallery.sync import ingest
from bitgaze.gallery.sync import sync as syncing
from bitgaze.gallery.sync.patterns import PathFilter
from conftest import smooth_image
from galleries import touch


def fill(root, *names, seed=0):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed + number).save(path)
    return root


def below(root, gallery):
    return sorted(str(Path(key).relative_to(root)) for key in gallery)


def contents(gallery):
    """Everything in the gallery, for comparison."""
    items = [gallery.get(key) for key in gallery]
    return [(item.key, item.code.tobytes(), item.metadata, item.file) for item in items]


@pytest.mark.parametrize(
    ("include", "exclude", "accepted"),
    [
        ([], [], "a.png B.PNG c.jpg 2024/d.png 2024/raw/e.png raw/f.jpg 2024/raw/old/g.jpg"),
        (["*.png"], [], "a.png B.PNG 2024/d.png 2024/raw/e.png"),
        (["*.PNG", "c.*"], [], "a.png B.PNG c.jpg 2024/d.png 2024/raw/e.png"),
        ([], ["*.png"], "c.jpg raw/f.jpg 2024/raw/old/g.jpg"),
        (["raw"], [], "2024/raw/e.png raw/f.jpg 2024/raw/old/g.jpg"),
        ([], ["raw/"], "a.png B.PNG c.jpg 2024/d.png"),
        (["RAW"], ["old"], "2024/raw/e.png raw/f.jpg"),
        ([], ["*/raw/*"], "a.png B.PNG c.jpg 2024/d.png"),
        (["2024/raw"], [], "2024/raw/e.png 2024/raw/old/g.jpg"),
        (["/raw"], [], "raw/f.jpg"),
        (["raw/*"], [], "raw/f.jpg"),
        (["2024/*.png"], ["2024/raw/*"], "2024/d.png"),
        (["?.jpg"], [], "c.jpg raw/f.jpg 2024/raw/old/g.jpg"),
        (["[ab].png"], [], "a.png B.PNG"),
        (["202*g.jpg"], [], ""),  # a name holds no "/"
        (["2024"], ["2024"], ""),
    ],
)
def test_patterns_select_images(include, exclude, accepted):
    names = "a.png B.PNG c.jpg 2024/d.png 2024/raw/e.png raw/f.jpg 2024/raw/old/g.jpg"
    hidden = " .h.png 2024/.h/i.png"
    path_filter = PathFilter(include, exclude)
    assert [
        name for name in (names + hidden).split() if path_filter.accepts(name)
    ] == accepted.split()


@pytest.mark.parametrize(("include", "exclude"), [(["*.png"], []), ([], ["b"]), (["a/*"], ["c"])])
def test_sync_includes_the_images_that_patterns_select(gallery, tmp_path, include, exclude):
    names = ["1.png", "2.jpg", "a/3.png", "a/c/4.png", "b/5.png", "b/a/6.jpg", "c/7.png"]
    root = fill(tmp_path / "photos", *names)
    gallery.sync(root, include=include, exclude=exclude)
    path_filter = PathFilter(include, exclude)
    chosen = [name for name in names if path_filter.accepts(name)]
    assert 0 < len(chosen) < len(names)
    assert below(root, gallery) == chosen


def test_an_excluded_folder_is_not_scanned(gallery, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", "a.png", "raw/b.png")
    scandir = os.scandir

    def refuse(path):
        assert not str(path).endswith("raw")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = gallery.sync(root, exclude=["raw"])
    assert (len(report.added), report.failed) == (1, {})


def test_items_of_excluded_images_stay_until_their_files_are_gone(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "b.jpg", "c.png", "raw/d.png", "raw/e.png")
    gallery.sync(root)
    before = contents(gallery)
    smooth_image(9).save(root / "raw" / "d.png")
    report = gallery.sync(root, include=["*.png"], exclude=["raw"])
    assert (report.unchanged, report.excluded, report.removed) == (2, 3, [])
    assert contents(gallery) == before
    (root / "b.jpg").unlink()
    (root / "raw" / "d.png").rename(root / "new.png")
    (root / "raw" / "e.png").unlink()
    (root / "raw").rmdir()
    report = gallery.sync(root, include=["*.png"], exclude=["raw"])
    assert (report.unchanged, report.excluded, report.missing) == (2, 0, {})
    assert sorted(report.removed) == [
        str(root / name) for name in ("b.jpg", "raw/d.png", "raw/e.png")
    ]
    assert report.added == [str(root / "new.png")]


def test_items_of_an_excluded_disk_that_is_away_stay(gallery, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", "a.png", "raw/d.png", "dead/e.png")
    gallery.sync(root)
    shutil.rmtree(root / "raw")
    (root / "raw").mkdir()
    lstat = os.lstat

    def fail(path):
        if "dead" in str(path):
            raise OSError(116, "Stale file handle")
        return lstat(path)

    monkeypatch.setattr(os, "lstat", fail)
    report = gallery.sync(root, exclude=["raw", "dead"])
    assert (report.missing, report.excluded) == ({str(root / "raw"): 1}, 1)
    assert len(gallery) == 3


SYSTEM = (
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "2024/@EADIR/b.png",
    "#recycle/c.png",
    "$RECYCLE.BIN/S-1-5/d.png",
    ".Trash-1000/files/e.png",
    "__MACOSX/f.png",
    "lost+found/g.png",
    ".stversions/h.png",
    ".thumbnails/i.png",
    "System Volume Information/j.png",
    "My.photoslibrary/resources/derivatives/k.png",
    "My.photoslibrary/l.png",
)
ORDINARY = (
    "m.png",
    "recycle/n.png",
    "My.photoslibrary/originals/0/o.png",
    "Old.aplibrary/Masters/p.png",
)


def test_system_folders_are_left_out(gallery, tmp_path):
    root = fill(tmp_path / "photos", *SYSTEM, *ORDINARY, ".hidden/q.png")
    report = gallery.sync(root)
    assert below(root, gallery) == sorted(ORDINARY)
    assert report.system_folders == 11
    report = gallery.sync(root, all_folders=True)
    assert below(root, gallery) == sorted((*SYSTEM, *ORDINARY))
    assert report.system_folders == 0
    report = gallery.sync(root)
    assert (report.unchanged, report.excluded) == (len(ORDINARY), len(SYSTEM))
    (root / SYSTEM[0]).unlink()
    (root / SYSTEM[0]).parent.rmdir()
    (root / "@eaDir").rmdir()
    assert gallery.sync(root).removed == [str(root / SYSTEM[0])]
    assert gallery.sync(root / "#recycle").unchanged == 1  # named by the user


def test_a_bitgazeignore_file_hides_images(gallery, tmp_path):
    names = [
        "a.png",
        "b.jpg",
        "raw/c.png",
        "sub/d.jpg",
        "sub/keep.jpg",
        "sub/raw/e.png",
        "sub/f.png",
    ]
    root = fill(tmp_path / "photos", *names)
    gallery.sync(root)
    (root / ".bitgazeignore").write_text("# mine\n*.jpg\n/raw/\n")
    (root / "sub" / ".bitgazeignore").write_text("!keep.jpg\nf.png\n")
    report = gallery.sync(root)
    assert (report.unchanged, report.excluded, report.removed) == (3, 4, [])
    with Gallery(tmp_path / "new.bitgaze", encoder=gallery.encoder) as new:
        new.sync(root)
        assert below(root, new) == ["a.png", "sub/keep.jpg", "sub/raw/e.png"]
    (root / "b.jpg").unlink()
    assert gallery.sync(root).removed == [str(root / "b.jpg")]
    (root / "sub" / ".bitgazeignore").write_bytes(b"\xff\xfe")
    with pytest.raises(GalleryError, match="sub/.bitgazeignore: .*decode"):
        gallery.sync(root)


def test_a_bitgazeignore_file_of_windows_hides_images(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "secret.png", "private.png")
    (root / ".bitgazeignore").write_bytes(b"\xef\xbb\xbfsecret*\r\nprivate*\r\n")
    assert gallery.sync(root).added == [str(root / "a.png")]


def test_a_bitgazeignore_file_without_pathspec_stops(gallery, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", "a.png")
    (root / ".bitgazeignore").write_text("a.png\n")
    monkeypatch.setitem(sys.modules, "pathspec", None)
    with pytest.raises(GalleryError, match=r"pip install 'bitgaze\[ignore\]'"):
        gallery.sync(root)
    assert len(gallery) == 0


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("photos/2024", "a.png [x].png raw/d.png"),
        ("photos/2024/raw/", "a.png 2024/b.png [x].png raw/d.png"),
        ("photos/a.png", "2024/b.png 2024/raw/c.png [x].png raw/d.png"),
        ("photos/[x].png", "a.png 2024/b.png 2024/raw/c.png raw/d.png"),
        ("link/raw", "a.png 2024/b.png 2024/raw/c.png [x].png"),
        ("RA?", "a.png 2024/b.png [x].png"),
        ("[ab].png", "2024/raw/c.png [x].png raw/d.png"),
        ("2024/*", "a.png [x].png raw/d.png"),
        ("*/photos/*/raw", "a.png 2024/b.png [x].png raw/d.png"),
        ("photo", "a.png 2024/b.png 2024/raw/c.png [x].png raw/d.png"),
    ],
)
def test_forget_removes_folders_and_patterns(gallery, tmp_path, monkeypatch, target, left):
    monkeypatch.chdir(tmp_path)
    root = fill(
        tmp_path / "photos", "a.png", "2024/b.png", "2024/raw/c.png", "[x].png", "raw/d.png"
    )
    (tmp_path / "link").symlink_to("photos", target_is_directory=True)
    gallery.sync(root)
    gallery.add(str(root / "2024" / "by hand.png"), smooth_image(9))
    shutil.rmtree(root / "2024")
    count = 5 - len(left.split())
    assert len(gallery.forget(target, dry_run=True)) == count
    assert len(gallery) == 6
    assert len(gallery.forget(target)) == count
    assert below(root, gallery) == sorted([*left.split(), "2024/by hand.png"])
    for wrong in ((), ("",), ("//",)):
        with pytest.raises(ValueError, match="nothing"):
            gallery.forget(*wrong)


def test_items_of_a_hidden_folder_stay(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", ".private/b.png")
    gallery.sync(root / ".private")
    assert below(root, gallery) == [".private/b.png"]
    report = gallery.sync(root)
    assert (report.removed, report.excluded) == ([], 1)
    assert below(root, gallery) == [".private/b.png", "a.png"]
    assert gallery.sync(root, root / ".private").unchanged == 2


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_invalid_patterns_are_rejected(gallery, tmp_path, argument):
    for wrong, error, message in (
        ("*.png", TypeError, "must be a list of patterns, got a str"),
        ([1], TypeError, "patterns must be str, got int"),
        ([""], ValueError, "'' matches nothing; use"),
        (["/"], ValueError, "'/' matches nothing; use"),
    ):
        with pytest.raises(error, match=f"{argument}.*{message}"):
            gallery.sync(tmp_path, **{argument: wrong})


def test_sync_of_several_folders(gallery, tmp_path):
    one = fill(tmp_path / "one", "a.png")
    two = fill(tmp_path / "two", "b.png", seed=5)
    assert len(gallery.sync(one, two).added) == 2
    assert gallery.sync(two, one).unchanged == 2
    (one / "a.png").rename(one / "c.png")
    (two / "b.png").unlink()
    smooth_image(9).save(two / "d.png")
    report = gallery.sync(one, two)
    assert report.moved == [(str(one / "a.png"), str(one / "c.png"))]
    assert report.removed == [str(two / "b.png")]
    assert report.added == [str(two / "d.png")]


def test_no_folder_or_a_missing_one_raises(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png")
    with pytest.raises(ValueError, match="no folder given"):
        gallery.sync()
    with pytest.raises(GalleryError, match="none: not a folder"):
        gallery.sync(root, tmp_path / "none")
    assert len(gallery) == 0


@pytest.mark.parametrize("is_emptied", [False, True])
def test_an_image_can_move_between_folders(gallery, tmp_path, is_emptied):
    one = fill(tmp_path / "one", "a.png", *([] if is_emptied else ["stays.png"]))
    two = fill(tmp_path / "two", "b.png", seed=5)
    gallery.sync(one, two, metadata=lambda path: {"was": path})
    before = contents(gallery)
    (one / "a.png").rename(two / "c.png")
    report = gallery.sync(one, two)
    assert report.moved == [(str(one / "a.png"), str(two / "c.png"))]
    assert report.added == report.removed == []
    assert gallery.get(str(two / "c.png")).metadata == {"was": str(one / "a.png")}
    assert {row[1] for row in contents(gallery)} == {row[1] for row in before}


def test_one_empty_folder_among_several_is_kept_and_stops_no_other(gallery, tmp_path):
    one = fill(tmp_path / "one", "a.png", "b.png")
    two = fill(tmp_path / "two", "c.png", seed=5)
    gallery.sync(one, two)
    (one / "a.png").rename(two / "d.png")
    (one / "b.png").unlink()
    smooth_image(9).save(two / "new.png")
    for dry_run in (True, False):
        report = gallery.sync(one, two, dry_run=dry_run)
        assert (report.missing, report.removed, len(report.moved)) == ({str(one): 1}, [], 1)
        assert report.added == [str(two / "new.png")]
    report = gallery.sync(one, two, allow_empty=True)
    assert report.removed == [str(one / "b.png")]


@pytest.mark.parametrize("is_nested", [False, True])
def test_folders_that_are_all_empty_raise(gallery, tmp_path, is_nested):
    one = fill(tmp_path / "one", *([] if is_nested else ["a.png"]), "sub/b.png")
    two = one / "sub" if is_nested else fill(tmp_path / "two", "c.png", seed=5)
    gallery.sync(one, two)
    for path in [*one.rglob("*.png"), *two.rglob("*.png")]:
        path.unlink(missing_ok=True)
    before = contents(gallery)
    for dry_run in (True, False):
        with pytest.raises(GalleryError, match="no images found, .* from this folder"):
            gallery.sync(one, two, dry_run=dry_run)
    assert contents(gallery) == before


@pytest.mark.parametrize("order", [1, -1])
def test_folders_can_be_nested(gallery, tmp_path, order):
    root = fill(tmp_path / "photos", "a.png", "sub/b.png", "sub/raw/c.png", "raw/d.png")
    folders = [root, root / "sub", root / "raw", root][::order]
    # Patterns are relative to the innermost folder that was given.
    report = gallery.sync(*folders, exclude=["sub/raw", "raw"])
    assert report.skipped == {}
    assert below(root, gallery) == ["a.png", "raw/d.png", "sub/b.png"]
    assert gallery.sync(*folders, exclude=["sub/raw", "raw"]).unchanged == 3
    report = gallery.sync(*folders, include=["b.png", "/sub/b.png"])
    assert (report.unchanged, report.excluded) == (1, 2)


def test_a_folder_given_under_two_names_is_scanned_once(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "sub/b.png")
    link = tmp_path / "link"
    link.symlink_to(root, target_is_directory=True)
    for folders in ((link, root), (root, link)):
        report = gallery.sync(*folders)
        assert report.skipped == {str(link): "a link to a folder that was found elsewhere"}
        assert below(root, gallery) == ["a.png", "sub/b.png"]


def test_an_image_with_several_links_is_indexed_once(gallery, tmp_path):
    root = fill(tmp_path / "photos", "z/a.png")
    outside = fill(tmp_path / "outside", "b.png", seed=5) / "b.png"
    (root / "album.png").symlink_to(root / "z" / "a.png")
    (root / "one.png").symlink_to(outside)
    (root / "two.png").symlink_to(outside)
    (root / "gone.png").symlink_to(tmp_path / "none.png")
    report = gallery.sync(root)
    again = "a link to an image that was found elsewhere"
    assert report.skipped == {str(root / name): again for name in ("album.png", "two.png")}
    assert list(report.failed) == [str(root / "gone.png")]
    assert below(root, gallery) == ["one.png", "z/a.png"]
    assert gallery.sync(root).unchanged == 2


@pytest.mark.parametrize(
    ("first", "second"),
    [("link", "disk"), ("disk", "link"), ("link/sub", "disk"), ("link", "disk/sub")],
)
def test_a_linked_folder_keeps_the_name_that_the_gallery_knows(gallery, tmp_path, first, second):
    disk = fill(tmp_path / "disk", "a.png", "sub/b.png", "sub/c.png")
    (tmp_path / "link").symlink_to("disk", target_is_directory=True)
    gallery.sync(tmp_path / first)
    before = contents(gallery)
    report = gallery.sync(tmp_path / second)
    assert (report.moved, report.removed, report.failed) == ([], [], {})
    assert [row for row in contents(gallery) if row in before] == before
    assert len(gallery) == 3
    smooth_image(8).save(disk / "sub" / "new.png")
    (disk / "sub" / "b.png").unlink()
    report = gallery.sync(tmp_path / second)
    assert (len(report.added), len(report.removed)) == (1, 1)
    assert len(gallery) == 3
    assert gallery.sync(tmp_path / first).added == []


def test_a_link_to_what_the_gallery_holds_is_skipped(gallery, tmp_path):
    outside = fill(tmp_path / "outside", "b.png", "sub/c.png", seed=5)
    gallery.sync(outside)
    root = fill(tmp_path / "photos", "a.png")
    (root / "usb").symlink_to(outside, target_is_directory=True)
    (root / "one.png").symlink_to(outside / "b.png")
    report = gallery.sync(root)
    assert report.skipped == {
        str(root / "usb"): f"the gallery holds this folder as {outside}",
        str(root / "one.png"): f"the gallery holds this image in {outside}",
    }
    assert report.added == [str(root / "a.png")]
    assert gallery.sync(outside, root).unchanged == 3


@pytest.mark.parametrize("inode", [0, 7])
def test_file_systems_without_inode_numbers_hide_nothing(gallery, tmp_path, monkeypatch, inode):
    root = fill(tmp_path / "photos", "a.png", "b.png", "one/c.png", "one/two/d.png", "three/c.png")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "up").symlink_to(".", target_is_directory=True)

    class Status:
        st_ino, st_nlink = inode, 2

        def __init__(self, status):
            self._status = status

        def __getattr__(self, name):
            return getattr(self._status, name)

    class Entry:
        def __init__(self, entry):
            self._entry = entry

        def __getattr__(self, name):
            return getattr(self._entry, name)

        def stat(self):
            return Status(self._entry.stat())

    class System:
        def __getattr__(self, name):
            return getattr(os, name)

        def stat(self, path):
            return Status(Path(path).stat())

        @contextmanager
        def scandir(self, path):
            with os.scandir(path) as entries:
                yield map(Entry, entries)

    monkeypatch.setattr(listing, "os", System())
    report = gallery.sync(root)
    assert (len(report.added), report.failed) == (5, {})
    assert list(report.skipped) == [str(root / "up"), str(root / "link.png")]


def test_a_hard_link_is_another_name_of_one_image(gallery, tmp_path):
    root = fill(tmp_path / "photos", "b.png", "sub/c.png")
    gallery.sync(root, metadata=lambda path: {"album": 1})
    (root / "a.png").hardlink_to(root / "sub" / "c.png")
    (root / "sub" / "d.png").hardlink_to(root / "a.png")
    known = root / "sub" / "c.png"
    for _ in range(2):  # the item keeps its name
        report = gallery.sync(root)
        assert set(report.skipped) == {str(root / "a.png"), str(root / "sub" / "d.png")}
        assert report.skipped[str(root / "a.png")] == f"a hard link to {known}"
        assert (report.moved, report.unchanged) == ([], 2)
    assert gallery.duplicates() == []
    known.unlink()
    assert gallery.sync(root).moved == [(str(known), str(root / "a.png"))]
    assert gallery.get(str(root / "a.png")).metadata == {"album": 1}


def test_a_log_of_the_gallery_that_vanishes_stops_nothing(gallery, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", "a.png")
    known_names = syncing.known_names

    def vanish(*arguments):
        roots, known = known_names(*arguments)
        known.own.add(str(tmp_path / "gone-journal"))
        return roots, known

    monkeypatch.setattr(syncing, "known_names", vanish)
    assert len(gallery.sync(root).added) == 1


@pytest.mark.parametrize("link", ["hard", "soft", "none"])
def test_the_gallery_itself_is_never_opened(tmp_path, encoder, monkeypatch, link):
    root = fill(tmp_path / "photos", "a.png")
    path = root / "gallery.png"
    with Gallery(path, encoder=encoder) as gallery:
        expected = [path]
        if link == "hard":
            for suffix in ("", "-wal"):
                (root / f"other{suffix}.jpg").hardlink_to(f"{path}{suffix}")
                expected.append(root / f"other{suffix}.jpg")
        elif link == "soft":
            (root / "other.jpg").symlink_to(path)
            expected.append(root / "other.jpg")
        opened = []
        open_at_once = images._open_at_once
        monkeypatch.setattr(
            images, "_open_at_once", lambda *call: opened.append(call[0]) or open_at_once(*call)
        )
        report = gallery.sync(root)
        assert report.skipped == dict.fromkeys(map(str, expected), "the gallery's own file")
        assert (report.added, report.failed) == ([str(root / "a.png")], {})
        assert opened == [str(root / "a.png")]


def test_metadata_is_requested_for_new_images_only(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "b.png", "c.png")
    (root / "broken.png").write_text("not an image")
    requested = []

    def album(path):
        requested.append(path)
        return None if path.endswith("b.png") else {"album": Path(path).stem, "n": [1, None]}

    gallery.sync(root, metadata=album)
    assert requested == [str(root / name) for name in ("a.png", "b.png", "c.png")]
    found = {name: gallery.get(str(root / f"{name}.png")).metadata for name in "abc"}
    assert found == {
        "a": {"album": "a", "n": [1, None]},
        "b": {},
        "c": {"album": "c", "n": [1, None]},
    }
    requested.clear()
    smooth_image(8).save(root / "a.png")
    (root / "b.png").rename(root / "d.png")
    report = gallery.sync(root, metadata=album)
    assert (len(report.updated), len(report.moved), requested) == (1, 1, [])
    assert gallery.get(str(root / "a.png")).metadata == {"album": "a", "n": [1, None]}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["album"], "must be a dict or None, got list"),
        ({"x": {1}}, "cannot be represented in JSON: .*set is not JSON"),
        ({"x": float("nan")}, "cannot be represented in JSON"),
        ({1: "x"}, "must be str, got int: 1"),
    ],
)
def test_invalid_metadata_is_rejected(gallery, tmp_path, wrong, message):
    root = fill(tmp_path / "photos", "a.png")
    with pytest.raises(TypeError, match=f"metadata of .*a.png {message}"):
        gallery.sync(root, metadata=lambda path: wrong)
    assert len(gallery) == 0


def nothing(root, gallery):
    pass


def everything(root, gallery):
    (root / "a.png").rename(root / "new.png")
    smooth_image(30).save(root / "a.png")
    smooth_image(31).save(root / "b.png")
    touch(root / "c.png")
    (root / "d.png").unlink()
    (root / "e.png").rename(root / "f.png")
    smooth_image(32).save(root / "sub" / "g.png")


def swapped(root, gallery):
    (root / "a.png").rename(root / "t")
    (root / "b.png").rename(root / "a.png")
    (root / "t").rename(root / "b.png")


def keys_in_use(root, gallery):
    gallery.add(str(root / "new.png"), smooth_image(40))
    gallery.add(str(root / "moved.png"), smooth_image(41))
    smooth_image(42).save(root / "new.png")
    (root / "a.png").rename(root / "moved.png")


def own_key(root, gallery):
    item = gallery.get(str(root / "a.png"))
    move(gallery, (item.key, "mine", item.file))
    smooth_image(43).save(root / "a.png")


def equal_names(root, gallery):
    for name in (b"/n\xff.png", b"/n\\xff.png"):
        smooth_image(44).save(tmp := root / "tmp.png")
        os.rename(tmp, os.fsencode(root) + name)


@pytest.mark.parametrize("act", [nothing, everything, swapped, keys_in_use, own_key, equal_names])
def test_a_dry_run_predicts_the_report_and_changes_nothing(gallery, tmp_path, monkeypatch, act):
    names = ["a.png", "b.png", "c.png", "d.png", "e.png", "f.png", "sub/h.png"]
    root = fill(tmp_path / "photos", *names)
    gallery.sync(root)
    act(root, gallery)
    before = contents(gallery)
    with monkeypatch.context() as patched:
        patched.setattr(gallery._store, "writing", None)  # the gallery is not locked for writing
        patched.setattr(gallery, "transaction", None)
        patched.setattr(gallery.encoder, "encode", None)
        predicted = gallery.sync(root, dry_run=True, metadata=pytest.fail)
    assert contents(gallery) == before
    assert asdict(predicted) == asdict(gallery.sync(root))
    assert gallery.sync(root, dry_run=True).added == []


def test_a_dry_run_on_an_empty_gallery(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "b.png")
    predicted = gallery.sync(root, dry_run=True)
    assert predicted.added == [str(root / name) for name in ("a.png", "b.png")]
    assert len(gallery) == 0


def test_progress_includes_comparing(gallery, tmp_path):
    root = fill(tmp_path / "photos", "a.png", "b.png", "c.png")
    gallery.sync(root)
    for name in ("a.png", "b.png", "c.png"):
        touch(root / name)
    smooth_image(9).save(root / "d.png")
    shown = []
    gallery.sync(root, on_progress=lambda done, total: shown.append((done, total)))
    assert shown[:3] == [(1, 3), (2, 3), (3, 3)]
    assert shown[-1] == (1, 1)


def test_interrupted_comparing_can_be_continued(gallery, tmp_path, monkeypatch):
    root = fill(tmp_path / "photos", *(f"{number:02}.png" for number in range(40)))
    gallery.sync(root)
    for path in root.iterdir():
        touch(path)

    def interrupt(done, total):
        if done == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gallery.sync(root, on_progress=interrupt)
    read = []
    monkeypatch.setattr(gallery.encoder, "encode", None)
    original = ingest._read
    monkeypatch.setattr(ingest, "_read", lambda path: read.append(path) or original(path))
    assert gallery.sync(root).unchanged == 40
    assert read == [str(root / f"{number:02}.png") for number in range(32, 40)]
