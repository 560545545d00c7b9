"""Images that are gone: deleted on purpose, or on a disk that is away."""

import shutil

import pytest

from bitgaze.cli.main import main
from bitgaze.gallery.sync import guard
from conftest import smooth_image


@pytest.fixture
def library(tmp_path, monkeypatch, gallery):
    """A function that makes and syncs a library, with a number of images in each folder."""
    monkeypatch.setattr(guard, "MAX_DELETED", 5)
    root = tmp_path / "library"
    seeds = iter(range(1000))

    def make(**counts):
        for name, count in counts.items():
            folder = root / name.replace("_", "/")
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                smooth_image(next(seeds), (8, 8)).save(folder / f"{number}.png")
        assert not gallery.sync(root, metadata=lambda path: {"album": "Rome"}).failed
        return root

    return make


def unmount(folder):
    """Leave an empty mount point."""
    folder.rename(folder.parent.parent / "away")
    folder.mkdir()


def mount(folder):
    shutil.rmtree(folder)
    (folder.parent.parent / "away").rename(folder)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "counts", [{"local": 2, "nas": 9}, {"local": 2, "nas": 1}, {"local": 2, "nas_2020": 2}]
)
def test_items_of_a_disk_that_is_away_stay(gallery, library, counts, dry_run):
    root = library(**counts)
    before = {key: gallery.get(key).metadata for key in gallery}
    unmount(root / "nas")
    report = gallery.sync(root, dry_run=dry_run)
    assert report.missing == {str(root / "nas"): sum(counts.values()) - 2}
    assert (report.removed, report.unchanged) == ([], 2)
    mount(root / "nas")
    assert gallery.sync(root).unchanged == sum(counts.values())
    assert {key: gallery.get(key).metadata for key in gallery} == before


def test_allow_empty_removes_them(gallery, library):
    root = library(local=2, nas=9)
    unmount(root / "nas")
    report = gallery.sync(root, allow_empty=True)
    assert (len(report.removed), report.missing) == (9, {})


def test_images_deleted_one_by_one_are_removed(gallery, library):
    root = library(local=2, album=9)
    for number in range(3):
        (root / "album" / f"{number}.png").unlink()
        report = gallery.sync(root)
        assert (len(report.removed), report.missing) == (1, {})


@pytest.mark.parametrize(("name", "parent"), [("album", "local"), ("2020/album", "2020")])
def test_a_small_album_is_removed_with_its_folder(gallery, library, name, parent):
    root = library(**{"local": 1, name: 5, parent: 2})
    shutil.rmtree(root / name)
    report = gallery.sync(root)
    assert (len(report.removed), report.missing) == (5, {})


def test_a_folder_emptied_on_purpose_is_removed_once_it_is_deleted(gallery, library):
    root = library(local=2, album=1)
    (root / "album" / "0.png").unlink()
    assert gallery.sync(root).missing == {str(root / "album"): 1}
    (root / "album").rmdir()
    assert len(gallery.sync(root).removed) == 1


def test_a_folder_that_keeps_other_files_is_not_a_mount_point(gallery, library):
    root = library(local=2, album=5)
    (root / "album" / "notes.txt").write_text("sorted out")
    for path in (root / "album").glob("*.png"):
        path.unlink()
    assert len(gallery.sync(root).removed) == 5


@pytest.mark.parametrize("leftover", [None, "notes.txt"])
def test_a_large_folder_that_lost_all_images_is_kept(gallery, library, leftover):
    root = library(local=20, disk_a=3, disk_b=3)
    shutil.rmtree(root / "disk")
    if leftover:
        (root / "disk").mkdir()
        (root / "disk" / leftover).write_text("sorted out")
    report = gallery.sync(root)
    assert report.missing == {str(root / "disk"): 6}
    assert report.removed == []
    assert len(gallery.sync(root, allow_empty=True).removed) == 6


def test_most_images_of_a_library_are_kept(gallery, library):
    root = library(a=4, b=4, c=4)
    for name in "abc":
        for number in range(2):
            (root / name / f"{number}.png").unlink()
    assert len(gallery.sync(root).removed) == 6  # half of them
    root = library(a=4, b=4, c=4)
    for name in "abc":
        for number in range(3):
            (root / name / f"{number}.png").unlink()
    report = gallery.sync(root)
    assert (report.missing, report.removed) == ({str(root): 9}, [])
    assert len(gallery.sync(root, allow_empty=True).removed) == 9


def test_images_replaced_under_new_names_show_that_the_folder_is_there(gallery, library):
    root = library(local=20, album=9)
    for number in range(9):
        (root / "album" / f"{number}.png").unlink()
        smooth_image(500 + number).save(root / "album" / f"{number}.webp")
    report = gallery.sync(root)
    assert (len(report.removed), len(report.added)) == (9, 9)
    assert (report.missing, report.waiting) == ({}, 0)


@pytest.mark.parametrize("name", ["library", "disk"])
def test_another_disk_with_images_replaces_the_items(gallery, library, monkeypatch, name):
    root = library(disk=2)
    device = guard._device
    monkeypatch.setattr(guard, "_device", lambda folder: device(folder) + folder.endswith(name))
    for number in range(2):
        (root / "disk" / f"{number}.png").unlink()
        smooth_image(500 + number).save(root / "disk" / f"{number}.jpg")
    report = gallery.sync(root)
    assert (len(report.removed), len(report.added), report.missing) == (2, 2, {})


def test_another_disk_without_images_keeps_the_items(gallery, library, monkeypatch):
    root = library(local=1, disk=2)
    disk = root / "disk"
    unmount(disk)
    (disk / "notes.txt").write_text("another disk")
    device = guard._device
    monkeypatch.setattr(guard, "_device", lambda folder: device(folder) + folder.endswith("disk"))
    report = gallery.sync(root)
    assert (report.missing, report.removed) == ({str(disk): 2}, [])
    mount(disk)
    assert gallery.sync(root).unchanged == 3


@pytest.mark.parametrize("is_moved", [False, True])
def test_new_images_wait_while_most_images_are_gone(gallery, library, is_moved, capsys):
    root = library(local=3, nas=6)
    unmount(root / "nas")
    (shutil.move if is_moved else shutil.copy)(root / "local" / "0.png", root / "nas" / "new.png")
    for _ in range(2):
        report = gallery.sync(root)
        assert (report.missing, report.waiting) == ({str(root / "nas"): 6}, 1)
        assert report.removed == report.added == report.moved == []
    assert main(["index", str(root), "-g", str(gallery.path)]) == 1
    assert "1 new image waits" in capsys.readouterr().err
    mount(root / "nas")
    report = gallery.sync(root)
    assert (len(report.removed), report.unchanged) == (int(is_moved), 9 - is_moved)
    assert report.waiting == 0


@pytest.mark.parametrize("where", ["nas", "nas/new", "."])
def test_a_few_new_images_do_not_take_the_place_of_a_disk(gallery, library, where):
    root = library(nas=2, nas_2020=2) if where == "." else library(local=2, nas=2, nas_2020=2)
    unmount(root if where == "." else root / "nas")
    (root / where).mkdir(exist_ok=True)
    smooth_image(500).save(root / where / "screenshot.png")
    kept = root if where == "." else root / "nas"
    for _ in range(2):
        report = gallery.sync(root)
        assert (report.missing, report.waiting) == ({str(kept): 4}, 1)
        assert report.removed == report.added == []
    mount(kept)
    assert gallery.sync(root).missing == {}
    unmount(kept)
    smooth_image(500).save(kept / "screenshot.png")
    report = gallery.sync(root, allow_empty=True)
    assert (len(report.removed), len(report.added)) == (4, 1)


def test_images_renamed_in_a_folder_show_that_it_is_there(gallery, library):
    root = library(local=9, album=8)
    (root / "album" / "0.png").rename(root / "album" / "renamed.png")
    for number in range(1, 8):
        (root / "album" / f"{number}.png").unlink()
    report = gallery.sync(root)
    assert (len(report.moved), len(report.removed), report.missing) == (1, 7, {})


def test_a_moved_folder_is_not_gone(gallery, library):
    root = library(local=2, album=9)
    (root / "album").rename(root / "renamed")
    (root / "album").mkdir()
    report = gallery.sync(root)
    assert (len(report.moved), report.removed, report.missing) == (9, [], {})


def test_the_command_says_what_it_keeps(gallery, library, capsys):
    root = library(local=2, nas=3)
    unmount(root / "nas")
    arguments = ["index", str(root), "-g", str(gallery.path)]
    assert main(arguments) == 1
    done = capsys.readouterr()
    assert f"kept 3 images of {root / 'nas'}: gone from there" in done.err
    assert "0 removed, 2 unchanged" in done.out
    assert main([*arguments, "--allow-empty"]) == 0
    assert "3 removed, 2 unchanged" in capsys.readouterr().out
