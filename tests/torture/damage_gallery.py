"""Damaged galleries: every answer through the public API is correct, or a typed error is raised.

    python tests/torture/damage_gallery.py --count 20000

damage.py has the ways to damage a file.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from damage import ANY, SQLITE, damaged
from inside import files, move
from quick import BITS, QuickEncoder, smooth_image, write_images
from supervised import Case, main, run

from bitgaze import Gallery, Item
from bitgaze.errors import BitgazeError, GalleryError
from bitgaze.gallery.items import FileState
from bitgaze.gallery.maintenance import repair, verify_gallery

_IMAGES = 80
_SAMPLE = 40
Answers = dict[str, Any]


def galleries(folder: Path) -> list[Path]:
    """Galleries to damage: filled by hand, synced, adapted, and with several chunks of codes."""
    images = folder / "images"
    write_images(images, range(_IMAGES))
    random = np.random.default_rng(3)
    by_hand, synced, adapted, large = (
        folder / f"{name}.bitgaze" for name in ("by_hand", "synced", "adapted", "large")
    )
    codes = random.integers(0, 256, (4200, BITS // 8), dtype=np.uint8)
    with Gallery(by_hand, encoder=QuickEncoder()) as gallery:
        gallery.upsert(
            Item(f"item {n}", codes[n], {"n": n, "album": str(n % 7), "tags": ["a", "b"]})
            for n in range(160)
        )
        gallery.upsert([Item("long", codes[160], {"text": "long " * 2000})])
        gallery.remove(*(f"item {n}" for n in range(0, 30, 3)))
    for path in (synced, adapted):
        with Gallery(path, encoder=QuickEncoder()) as gallery:
            gallery.sync(images)
            gallery.add("by hand", smooth_image(_IMAGES), {"by": "hand"})
            if path == adapted:
                gallery.adapt(lambda _: smooth_image(_IMAGES))
            # Without the times and the folder of this run, so that a seed reproduces its case.
            move(gallery, *map(_elsewhere, files(gallery, images).items()))
            gallery.compact()
    with Gallery(large, encoder=QuickEncoder()) as gallery:
        gallery.upsert(Item(f"{n:x}", code, {}) for n, code in enumerate(codes))
    return [by_hand, synced, adapted, large]


def _elsewhere(held: tuple[str, FileState]) -> tuple[str, str, FileState]:
    key, file = held
    new = f"/images/{Path(key).name}"
    return key, new, FileState(new.encode(), file.size, 1_700_000_000, 1_800_000_000, file.content)


def questions(keys: Sequence[str], folder: Path) -> dict[str, Callable[[Gallery], Any]]:
    """Questions to a gallery, by name; each returns a value that can be compared."""
    query = smooth_image(7)
    code = np.full(BITS // 8, 0x5A, np.uint8)
    asked: dict[str, Callable[[Gallery], Any]] = {
        "len": len,
        "keys": list,
        "model": lambda g: (g.fingerprint, g.model_name, g.bits, g.adaptation),
        "calibration": lambda g: g.calibration,
        "files": lambda g: files(g, "/images"),
        "sync": lambda g: g.sync(folder, dry_run=True),
        "absent": lambda g: "no such key" in g,
        "search": lambda g: g.search(query, k=20),
        "search_code": lambda g: g.search_code(code, k=_SAMPLE),
        "radius": lambda g: g.search_code(code, k=_SAMPLE, radius=50),
        "where": lambda g: g.search_code(code, k=_SAMPLE, where={"album": "3"}),
        "where not": lambda g: g.search_code(code, k=_SAMPLE, where={"n": {"!=": 40}, "by": None}),
        "where key": lambda g: g.search_code(code, k=_SAMPLE, where={"@key": {">": keys[0]}}),
        "asymmetric": lambda g: g.search(query, k=5, ranking="asymmetric"),
    }
    for key in keys:
        asked[f"get {key}"] = lambda g, key=key: _plain(g.get(key))
        asked[f"in {key}"] = lambda g, key=key: key in g
    for key in keys[:5]:
        asked[f"search {key}"] = lambda g, key=key: g.search(key, k=3, exclude_self=True)
    return asked


def ask(path: Path, asked: dict[str, Callable[[Gallery], Any]]) -> Answers:
    """The answers by question, GalleryError for those that raised it; {} if it does not open."""
    try:
        gallery = Gallery(path, encoder=QUICK, create=False)
    except GalleryError:
        return {}
    with gallery:
        return {name: _answer(gallery, question) for name, question in asked.items()}


def write(path: Path) -> None:
    """Change a gallery and change it back, unless that raises GalleryError."""
    try:
        with Gallery(path, encoder=QUICK, create=False) as gallery, gallery.transaction():
            gallery.upsert([Item("new", np.zeros(BITS // 8, np.uint8), {"new": True})])
            gallery.remove("new")
    except GalleryError:
        pass


def wrong(answers: Answers, truth: Answers) -> str | None:
    """The first answer that is neither correct nor GalleryError, in words."""
    for name, answer in answers.items():
        if answer is not GalleryError and answer != truth[name]:
            pairs = [(answer, truth[name])]
            if isinstance(answer, list):  # show the first that differ
                pairs = [pair for pair in zip_longest(*pairs[0]) if pair[0] != pair[1]]
            return f"{name}: {pairs[0][0]!r}, expected {pairs[0][1]!r}"
    return None


def make_case(sources: Sequence[Path], folder: Path) -> Case:
    """A case for `supervised.run`."""
    content = [path.read_bytes() for path in sources]
    truths: list[Answers] = []
    asked, everything = [], []
    for path in sources:
        with Gallery(path, encoder=QUICK, create=False) as gallery:
            keys = list(gallery)
            everything.append({key: _plain(gallery.get(key)) for key in keys})
        assert _is_sound(path)
        random = np.random.default_rng(len(keys))
        asked.append(questions(random.permutation(keys)[:_SAMPLE].tolist(), folder / "images"))
        truths.append(ask(path, asked[-1]))
        assert not any(answer is GalleryError for answer in truths[-1].values())
    scratch = Path(tempfile.mkdtemp(dir=folder))

    def case(seed: int) -> str:
        random = np.random.default_rng(seed)
        # The large one takes ten times as long.
        which = int(random.choice(len(sources), p=[0.35, 0.3, 0.3, 0.05]))
        path = scratch / "damaged.bitgaze"
        path.write_bytes(damaged(content[which], SQLITE, random))
        answers = ask(path, asked[which])
        problem = wrong(answers, truths[which])
        assert problem is None, f"{sources[which].name}: {problem}"
        is_sound = _is_sound(path)
        is_in_full = bool(answers) and GalleryError not in answers.values()
        assert is_in_full or not is_sound, f"{sources[which].name}: verified, but not in full"
        if seed % 4 == 0:
            _check_repaired(path, everything[which], is_sound=is_sound)
        refused = sum(answer is GalleryError for answer in answers.values())
        write(path)
        problem = wrong(ask(path, asked[which]), truths[which])
        assert problem is None, f"{sources[which].name}, after a write: {problem}"
        for file in scratch.iterdir():
            file.unlink()
        if not answers:
            return "not opened"
        return "answered in full" if not refused else "answered in part"

    return case


def _is_sound(path: Path) -> bool:
    try:
        return verify_gallery(path).is_sound
    except GalleryError:
        return False


def _check_repaired(path: Path, everything: dict[str, tuple[Any, ...]], *, is_sound: bool) -> None:
    """A repaired gallery holds only original items, and all of them if it was sound."""
    out = path.with_name("repaired.bitgaze")
    before = path.read_bytes()
    try:
        report = repair(path, out, encoder=QUICK)
    except GalleryError:
        assert not is_sound
        return
    assert path.read_bytes() == before
    with Gallery(out, encoder=QUICK, create=False) as gallery:
        held = {key: _plain(gallery.get(key)) for key in gallery}
    assert _is_sound(out)
    assert len(held) == report.kept + len(report.encoded) + len(report.reduced)
    assert all(item == everything.get(key) for key, item in held.items())
    assert not is_sound or held == everything


def make_log_case(folder: Path) -> Case:
    """A case of a gallery whose process was killed, and whose log (-wal) is damaged.

    SQLite then drops the last commits, each as a whole.
    """
    scratch = Path(tempfile.mkdtemp(dir=folder))
    path, log = scratch / "killed.bitgaze", scratch / "killed.bitgaze-wal"
    states: list[dict[str, tuple[Any, ...]]] = []
    codes = np.random.default_rng(8).integers(0, 256, (60, BITS // 8), dtype=np.uint8)
    with Gallery(path, bits=BITS) as gallery:
        for n in range(0, len(codes), 10):
            gallery.upsert(Item(f"item {i}", codes[i], {"n": i}) for i in range(n, n + 10))
            states.append({key: _plain(gallery.get(key)) for key in gallery})
            if n == 0:
                gallery.compact()  # the later commits are only in the log
        content, logged = path.read_bytes(), log.read_bytes()

    def case(seed: int) -> str:
        for file in scratch.iterdir():
            file.unlink()
        path.write_bytes(content)
        log.write_bytes(damaged(logged, ANY, np.random.default_rng(seed)))
        try:
            with Gallery(path, create=False) as gallery:
                held = {key: _plain(gallery.get(key)) for key in gallery}
        except GalleryError:
            return "log refused"
        assert held in states
        assert _is_sound(path)
        return "log read in full" if held == states[-1] else "log read in part"

    return case


def damage_galleries(seeds: range, jobs: int) -> Counter[str]:
    """Damage a gallery for each seed, and a log for every tenth."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        words = run(partial(make_case, galleries(folder), folder), seeds, jobs=jobs)
        return words + run(partial(make_log_case, folder), seeds[::10], jobs=jobs)


def _plain(item: Item) -> tuple[Any, ...]:
    return item.key, item.code.tobytes(), item.metadata, item.file


def _answer(gallery: Gallery, question: Callable[[Gallery], Any]) -> Any:
    try:
        return question(gallery)
    except GalleryError:
        return GalleryError
    except (KeyError, BitgazeError) as error:  # whose text names the file
        return type(error), str(error).replace(str(gallery.path), "")


QUICK = QuickEncoder()

if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 20_000, damage_galleries))
