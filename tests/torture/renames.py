"""Images that are renamed, swapped and rewritten while a sync reads them never get a wrong code.

    python tests/torture/renames.py --count 1000

Each case syncs a folder several times. At random points of a sync (while it lists, digests, decodes
and commits) files change places, or get other pixels of the same size and time. After each sync,
every item that counts as unchanged has the code and digest of its file; after one more sync,
without changes, every item has.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from quick import QuickEncoder, smooth_image
from supervised import Case, main, run

from bitgaze import Gallery
from bitgaze.encoding import images
from bitgaze.gallery.items import content_digest
from bitgaze.gallery.sync import ingest, moves, sync

_IMAGES, _SYNCS = 6, 3
_TIME_NS = 10**18


def make_case(root: Path) -> Case:
    """A case for `supervised.run`."""
    work = Path(tempfile.mkdtemp(dir=root))
    encoder = QuickEncoder()

    def case(seed: int) -> str:
        random = np.random.default_rng(seed)
        with tempfile.TemporaryDirectory(dir=work) as name:
            folder = Path(name, "images")
            folder.mkdir()
            for number in range(_IMAGES):
                _write(folder / f"{number}.bmp", random)
            with Gallery(Path(name, "g.bitgaze"), encoder=encoder) as gallery:
                changes = 0
                for _ in range(_SYNCS):
                    with _changing(folder, random) as done:
                        gallery.sync(folder, allow_empty=True)
                    changes += len(done)
                    _check(gallery, encoder, is_quiet=False)
                report = gallery.sync(folder, allow_empty=True)
                assert not report.failed, report.failed
                _check(gallery, encoder, is_quiet=True)
                assert sorted(gallery) == sorted(map(str, folder.iterdir()))
        return "quiet" if not changes else "changed"

    return case


def _write(path: Path, random: np.random.Generator) -> None:
    """Write an image into a file, in place; all have one size and one modification time."""
    with path.open("r+b" if path.exists() else "wb") as file:
        smooth_image(int(random.integers(1 << 30))).save(file, "BMP")
    os.utime(path, ns=(_TIME_NS, _TIME_NS))


@contextmanager
def _changing(folder: Path, random: np.random.Generator) -> Iterator[list[str]]:
    """Changes files at random points of what runs inside."""
    done: list[str] = []
    waiting: list[tuple[Path, Path]] = []  # to be swapped back

    def then(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if random.random() < rate:
                done.append(_change(folder, random, waiting))
            result = original(*args, **kwargs)
            if random.random() < rate:
                done.append(_change(folder, random, waiting))
            return result

        return call

    rate = random.choice([0.02, 0.1, 0.4])
    points = [
        (images, "_digest"),
        (images, "_open_at_once"),
        (images, "_settled"),
        (images, "_rgb"),
        (os, "scandir"),
        (sync, "scan"),
        (sync, "compare"),
        (sync, "plan_moves"),
        (moves, "is_current"),
        (ingest, "adapted"),
        (ingest, "_is_key_in_use"),
    ]
    # One thread, so that a seed is one case.
    patches = [mock.patch.object(ingest, "available_cores", return_value=1)]
    patches += [
        mock.patch.object(module, name, then(getattr(module, name))) for module, name in points
    ]
    for patch in patches:
        patch.start()
    try:
        yield done
    finally:
        for patch in patches:
            patch.stop()


def _change(folder: Path, random: np.random.Generator, waiting: list[tuple[Path, Path]]) -> str:
    paths = sorted(folder.iterdir())
    one, other = (paths[i] for i in random.choice(len(paths), 2, replace=False))
    kind = str(random.choice(["swap", "swap", "back", "rewrite", "rename", "replace", "copy"]))
    if kind == "back" and waiting and all(path.exists() for path in waiting[-1]):
        _swap(*waiting.pop())
    elif kind in ("swap", "back"):
        _swap(one, other)
        waiting.append((one, other))
    elif kind == "rewrite":
        _write(one, random)
    elif kind == "rename":
        one.rename(folder / f"{int(random.integers(100))}.bmp")
    elif kind == "replace" and len(paths) > 3:
        one.replace(other)
    elif len(paths) < 2 * _IMAGES:
        _write(folder / f"{int(random.integers(100))}.bmp", random)
    return kind


def _swap(one: Path, other: Path) -> None:
    aside = one.parent.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _check(gallery: Gallery, encoder: QuickEncoder, *, is_quiet: bool) -> None:
    for key in gallery:
        item = gallery.get(key)
        assert item.file is not None
        assert item.path is not None
        try:
            status = os.stat(item.path)  # noqa: PTH116
        except FileNotFoundError:
            assert not is_quiet, f"{key} is gone"
            continue
        state = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if is_quiet or state == (item.file.size, item.file.mtime_ns, item.file.ctime_ns):
            assert item.file.content == content_digest(item.path), f"{key}: wrong digest"
            right = encoder.encode([item.path]).codes[0]
            assert item.code.tobytes() == right.tobytes(), f"{key}: wrong code"


def rename(seeds: range, jobs: int) -> Counter[str]:
    """Run one case for each seed; returns how many had changes during a sync."""
    with tempfile.TemporaryDirectory() as root:
        return run(partial(make_case, Path(root)), seeds, jobs=jobs)


if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 1000, rename))
