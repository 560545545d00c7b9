"""A full disk and a read-only one: typed errors, and nothing is lost that was reported as done.

    python tests/torture/storage.py --count 100

If mounting is possible (root on Linux), the disk is a small tmpfs. Otherwise the size of files is
limited, which fails in the same places. Each case leaves room for a different part of the work.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kill import QUICK, Scene, State, check_compact, check_edit, check_remove, check_sync, state
from kill import compact as compact_
from kill import edit as edit_
from kill import remove as remove_
from kill import sync as sync_
from supervised import Case, main, run

from bitgaze import Gallery, repair
from bitgaze.errors import GalleryError

_DISK_BYTES = 4 << 20


def _repair(path: Path, folder: Path, seed: int, report: Callable[[object], object]) -> None:
    out = path.with_name("repaired.bitgaze")
    repair(path, out, encoder=QUICK)
    report(out)


def _check_repair(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    for items in (held, *map(state, reports)):
        assert items == scene.states["before"]


_WORK = {
    "sync": (sync_, check_sync),
    "remove": (remove_, check_remove),
    "edit": (edit_, check_edit),
    "compact": (compact_, check_compact),
    "repair": (_repair, _check_repair),
}


def make_case(root: Path) -> Case:
    """A case for `supervised.run` that cycles through the kinds of work."""
    folder = Path(tempfile.mkdtemp(dir=root))
    scene = Scene(folder)
    disk = folder / "disk"
    disk.mkdir()
    path = disk / "gallery.bitgaze"

    def case(seed: int) -> str:
        if can_mount() and seed % 6 == 5:
            _read_only(scene, path)
            return "read-only"
        random = np.random.default_rng(seed)
        name = list(_WORK)[seed % len(_WORK)]
        work, check = _WORK[name]
        reports: list[Any] = []
        with _disk(disk):
            shutil.copy(scene.start, path)
            word = f"{name} done"
            with _full(disk, int(random.random() ** 3 * 500_000)):
                try:
                    work(path, scene.folder, seed, reports.append)
                except GalleryError as error:
                    word = f"{name} refused"
                    _check_full(error)
                try:
                    with Gallery(path, encoder=QUICK, create=False) as gallery:
                        assert len(gallery) == len(list(gallery))
                except GalleryError as error:
                    word += ", unreadable until there is room"
                    _check_full(error)
            check(scene, state(path), reports, seed)
            with Gallery(path, encoder=QUICK) as gallery:  # after the disk has room again
                gallery.sync(scene.folder)
            if name == "sync":
                assert state(path) == scene.states["synced"]
            for file in disk.iterdir():
                file.unlink()
        return word

    return case


def _check_full(error: GalleryError) -> None:
    """The message names the cause; a limit of the file size raises other errors."""
    if can_mount() and "the disk is full" not in str(error):
        raise AssertionError("the message does not say that the disk is full") from error


def _read_only(scene: Scene, path: Path) -> None:
    """Reads work; writes raise GalleryError and change nothing."""
    disk = path.parent
    with _disk(disk):
        shutil.copy(scene.start, path)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        before = path.read_bytes()
        assert state(path) == scene.states["before"]
        key = next(iter(scene.states["before"]))
        with Gallery(path, encoder=QUICK) as gallery:
            assert gallery.search(key, k=1)[0].distance == 0
            for change in (
                lambda: gallery.sync(scene.folder),
                lambda: gallery.remove(key),
                lambda: gallery.rename(key, "new"),
                lambda: gallery.set_metadata(key, {}),
                gallery.compact,
            ):
                try:
                    change()
                except GalleryError:
                    continue
                raise AssertionError("a write to a read-only file raised no error")
        assert state(path) == scene.states["before"]
        assert path.read_bytes() == before
        assert [file.name for file in disk.iterdir()] == [path.name]


@contextmanager
def _disk(folder: Path) -> Iterator[None]:
    """Mount a separate file system on a folder, if possible."""
    if not can_mount():
        yield
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", folder]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def _full(disk: Path, left: int) -> Iterator[None]:
    """Leave `left` bytes free on the disk, or else limit the size of files."""
    if can_mount():
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            status = os.statvfs(disk)
            file.write(bytes(max(0, status.f_bavail * status.f_frsize - left)))
        try:
            yield
        finally:
            ballast.unlink()
        return
    largest = max(file.stat().st_size for file in disk.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left % largest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def can_mount() -> bool:
    """Whether this process can mount file systems."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    if not _MOUNTS:
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True)
            if done.returncode == 0:
                subprocess.run(["umount", folder], check=True)
            _MOUNTS.append(done.returncode == 0)
    return _MOUNTS[0]


_MOUNTS: list[bool] = []


def fill(seeds: range, jobs: int) -> Counter[str]:
    """Fill a disk for each seed."""
    with tempfile.TemporaryDirectory() as name:
        return run(partial(make_case, Path(name)), seeds, jobs=jobs, seconds=60)


if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 100, fill))
