"""Processes are killed at random moments: nothing that was reported as done is lost.

    python tests/torture/kill.py --count 300

Each case starts a process on a copy of a gallery, kills it (SIGKILL), compares the gallery with
what the process had reported, and finishes the work.
"""

import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from quick import BITS, QuickEncoder, smooth_image, write_images
from supervised import Violation, main

from bitgaze import Gallery, Item
from bitgaze.gallery.maintenance import verify_gallery
from bitgaze.gallery.sync import ingest

_IMAGES = 240
_BY_HAND = 30
_NEW = 200
State = dict[str, tuple[Any, ...]]
# The fork server has no threads; a process forked from a test would inherit its locks.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["kill"])
QUICK = QuickEncoder()


@contextmanager
def hurried() -> Iterator[None]:
    """Make `sync` commit more often."""
    with patch.object(ingest, "_MAX_BATCH", 24):
        yield


def state(path: Path) -> State:
    """All items of a gallery, by key; raises if the gallery is not sound."""
    with Gallery(path, encoder=QUICK, create=False) as gallery:
        held = {key: _plain(gallery.get(key)) for key in gallery}
        assert len(held) == len(gallery)
    found = verify_gallery(path)
    assert found.is_sound, found
    return held


class Scene:
    """A gallery, and a folder that has changed since it was synced.

    Attributes:
        folder: the images.
        start: the gallery before the sync; each case works on a copy.
        synced: the gallery after the sync.
        states: items of the gallery "before" and "synced", and then "adapted".
    """

    def __init__(self, root: Path) -> None:
        self.folder, self.start = root / "images", root / "before.bitgaze"
        self.synced = root / "synced.bitgaze"
        write_images(self.folder, range(_IMAGES))
        with Gallery(self.start, encoder=QUICK) as gallery:
            gallery.sync(self.folder)
            for n in range(_BY_HAND):
                gallery.add(_token(n), smooth_image(10_000 + n), {"n": n})
                gallery.set_metadata(_file(self.folder, n), {"of a file": n})
        self.states = {"before": state(self.start)}
        self._change_folder()
        shutil.copy(self.start, self.synced)
        with Gallery(self.synced, encoder=QUICK) as gallery:
            gallery.sync(self.folder)
        self.states["synced"] = state(self.synced)
        adapted = root / "adapted.bitgaze"
        shutil.copy(self.synced, adapted)
        with Gallery(adapted, encoder=QUICK) as gallery:
            gallery.adapt(_by_hand)
        self.states["adapted"] = state(adapted)

    def _change_folder(self) -> None:
        write_images(self.folder, range(_IMAGES, _IMAGES + _NEW))
        for n in range(0, 40):  # another image under the same name
            smooth_image(20_000 + n).save(_file(self.folder, n))
        for n in range(60, 80):
            Path(_file(self.folder, n)).rename(self.folder / f"renamed {n}.png")
        for n in range(100, 120):
            Path(_file(self.folder, n)).unlink()


Report = Callable[[Any], None]


def sync(path: Path, folder: Path, seed: int, report: Report) -> None:
    """Sync, and report how many new images another process sees: they must not disappear."""
    with Gallery(path, encoder=QUICK) as gallery, Gallery(path) as other:

        def count_new(done: int, total: int) -> None:
            if done % 15 == 0:
                report(sum(key in other for key in _new_keys(folder)))

        gallery.sync(folder, on_progress=count_new)
        report("synced")


def check_sync(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    before, synced = (scene.states[name] for name in ("before", "synced"))
    for key, item in held.items():
        assert item in (before.get(key), synced.get(key)), f"{key}: {item}"
    old, new = (_contents(items) for items in (before, synced))
    found = _contents(held)
    assert old & new <= found, "an image of both states is missing in between"
    done = max((report for report in reports if report != "synced"), default=0)
    there = sum(key in held for key in _new_keys(scene.folder))
    assert there >= done, f"{done} images reported, {there} found"
    assert set(before) - set(held) <= set(before) - set(synced)
    assert "synced" not in reports or held == synced


def adapt(path: Path, folder: Path, seed: int, report: Report) -> None:
    with Gallery(path, encoder=QUICK) as gallery:
        gallery.adapt(_by_hand, on_progress=lambda done, _: done % 60 == 0 and report(done))
        report("adapted")


def check_adapt(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    synced, adapted = (scene.states[name] for name in ("synced", "adapted"))
    expected = [adapted] if "adapted" in reports else [synced, adapted]
    assert held in expected


def remove(path: Path, folder: Path, seed: int, report: Report) -> None:
    with Gallery(path, encoder=QUICK) as gallery:
        for keys in _groups(list(gallery), seed):
            if any(key in gallery for key in keys):
                gallery.remove(*keys)
            report(keys)
        report("removed")


def check_remove(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    before = scene.states["before"]
    groups = _groups(list(before), seed)
    done = sum(report != "removed" for report in reports)
    left = [set(before).difference(*groups[:n]) for n in (done, done + 1)]
    assert set(held) in left, f"{done} removals reported"
    assert all(item == before[key] for key, item in held.items())


def compact(path: Path, folder: Path, seed: int, report: Report) -> None:
    with Gallery(path, encoder=QUICK) as gallery:
        report("opened")
        gallery.remove(*(key for key in gallery if key.endswith("7.png")))
        report("removed")
        gallery.compact()
        report("compacted")


def check_compact(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    before = scene.states["before"]
    removed = {key: item for key, item in before.items() if not key.endswith("7.png")}
    assert held in ([removed] if "removed" in reports else [before, removed])


def edit(path: Path, folder: Path, seed: int, report: Report) -> None:
    with Gallery(path, encoder=QUICK) as gallery:
        for change, _ in _edits(list(gallery), seed):
            change(gallery)
            report("edited")


def check_edit(scene: Scene, held: State, reports: list[Any], seed: int) -> None:
    before = scene.states["before"]
    edits = _edits(list(before), seed)
    expected = dict(before)
    for _, model in edits[: len(reports)]:
        model(expected)
    if held != expected and len(reports) < len(edits):
        edits[len(reports)][1](expected)
    assert held == expected, f"{len(reports)} edits reported"


_WORK = {
    "sync": (sync, check_sync),
    "adapt": (adapt, check_adapt),
    "remove": (remove, check_remove),
    "edit": (edit, check_edit),
    "compact": (compact, check_compact),
}


@hurried()
def kill(seeds: range, jobs: int) -> Counter[str]:
    """Kill a process for each seed, cycling through the kinds of work."""
    words: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        scene = Scene(Path(name))
        path = Path(name) / "killed.bitgaze"
        times = {work: _run(work, scene, path, 0, None)[1] for work in _WORK}
        for seed in seeds:
            work = list(_WORK)[seed % len(_WORK)]
            try:
                words[_case(work, scene, path, seed, times[work])] += 1
            except Exception as error:
                raise Violation(f"seed {seed}, {work}: {error!r}") from error
    return words


def _case(work: str, scene: Scene, path: Path, seed: int, seconds: float) -> str:
    reports, _ = _run(work, scene, path, seed, seconds)
    held = state(path)
    before = scene.states["synced" if work == "adapt" else "before"]
    check = _WORK[work][1]
    check(scene, held, reports, seed)
    is_done = reports[-1:] == [{"sync": "synced", "adapt": "adapted"}.get(work)]
    # The next process continues after the killed one.
    if work in ("sync", "adapt"):
        _WORK[work][0](path, scene.folder, seed, lambda _: None)
        finished = scene.states["synced" if work == "sync" else "adapted"]
        assert state(path) == finished, "the continued work ends in another state"
    return f"{work} " + ("done" if is_done else "begun" if held == before else "part done")


def _run(
    work: str, scene: Scene, path: Path, seed: int, seconds: float | None
) -> tuple[list[Any], float]:
    """What a process reported, and how long it ran; with `seconds`, kills it within that time."""
    for name in ("", "-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    shutil.copy(scene.synced if work == "adapt" else scene.start, path)
    random = np.random.default_rng(seed)
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    process = _CONTEXT.Process(target=_child, args=(theirs, work, path, scene.folder, seed))
    process.start()
    theirs.close()
    assert ours.recv() == "ready"
    start = time.monotonic()
    reports: list[Any] = []
    if seconds is not None:
        wait = float(random.uniform(0, seconds))
        if random.random() < 0.5:  # just after a report, close to a commit
            awaited = int(random.integers(1, 12))
            while len(reports) < awaited and process.is_alive():
                if ours.poll(0.05):
                    try:
                        reports.append(ours.recv())
                    except EOFError:
                        break
            wait = float(random.uniform(0, 0.02))
        time.sleep(wait)
        process.kill()
    while True:
        try:
            reports.append(ours.recv())
        except EOFError:
            break
    process.join()
    assert seconds is not None or process.exitcode == 0
    return reports, time.monotonic() - start


@hurried()
def _child(pipe: Connection, work: str, path: Path, folder: Path, seed: int) -> None:
    pipe.send("ready")
    _WORK[work][0](path, folder, seed, pipe.send)


def _groups(keys: list[str], seed: int) -> list[list[str]]:
    """Random keys in groups of one to nine."""
    random = np.random.default_rng(seed)
    keys = random.permutation(sorted(keys))[:150].tolist()
    groups = []
    while keys:
        size = int(random.integers(1, 10))
        groups.append(keys[:size])
        keys = keys[size:]
    return groups


def _edits(
    keys: list[str], seed: int
) -> list[tuple[Callable[[Gallery], None], Callable[[State], None]]]:
    """Changes of single items, each as applied to a gallery and to its model."""
    random = np.random.default_rng(seed)
    keys = random.permutation(sorted(keys)).tolist()
    edits: list[tuple[Callable[[Gallery], None], Callable[[State], None]]] = []
    for n in range(60):
        key, new, code = keys[n], f"new {n}", random.bytes(BITS // 8)
        array = np.frombuffer(code, np.uint8)
        match int(random.integers(4)):
            case 0:
                item = Item(new, array, {"new": n})
                edits.append((lambda g, i=item: g.upsert([i]), _setting(new, _plain(item))))
            case 1:
                edits.append((lambda g, k=key: g.remove(k), lambda s, k=key: s.pop(k)))
            case 2:
                edits.append(
                    (
                        lambda g, k=key, n=n: g.set_metadata(k, {"set": n}),
                        lambda s, k=key, n=n: s.update({k: (s[k][0], {"set": n}, s[k][2])}),
                    )
                )
            case 3:
                edits.append(
                    (
                        lambda g, k=key, w=new: g.rename(k, w),
                        lambda s, k=key, w=new: s.update({w: s.pop(k)}),
                    )
                )
    return edits


def _setting(key: str, item: tuple[Any, ...]) -> Callable[[State], None]:
    return lambda held: held.update({key: item})


def _plain(item: Item) -> tuple[Any, ...]:
    return item.code.tobytes(), item.metadata, item.file


def _contents(held: State) -> set[bytes]:
    return {file.content for _, _, file in held.values() if file is not None}


def _file(folder: Path, seed: int) -> str:
    return str(folder / f"{seed // 50}" / f"p{seed:04}.png")


def _token(n: int) -> str:
    return np.random.default_rng(n).bytes(12).hex()


def _new_keys(folder: Path) -> list[str]:
    return [_file(folder, n) for n in range(_IMAGES, _IMAGES + _NEW)]


def _by_hand(key: str) -> Any:
    return smooth_image(10_000 + [_token(n) for n in range(_BY_HAND)].index(key))


if __name__ == "__main__":
    import kill as module  # by the name that child processes import

    sys.exit(main(__doc__.partition("\n")[0], "count", 300, module.kill))
