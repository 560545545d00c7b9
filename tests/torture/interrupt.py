"""Ctrl-C at random moments of small reads and writes: the gallery stays as usable as before.

    python tests/torture/interrupt.py --count 10000

Each case runs one kind of call over and over until a signal interrupts it, and then checks what
the interruption left behind. Every other case keeps the exception, as interactive sessions do.
"""

import random
import signal
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

import numpy as np
from supervised import Case, main, run

from bitgaze import Gallery, Item

BITS = 128
# Always hold the same number, in metadata and code.
_TOGETHER = ("a", "b", "c")
_OTHERS = 100
_SECONDS = (2e-4, 1.5e-3)
# On a disk a case takes ten times as long.
_MEMORY = Path("/dev/shm")


def _code(n: int) -> np.ndarray:
    return np.frombuffer(np.random.default_rng(n).bytes(BITS // 8), np.uint8)


def _state(gallery: Gallery, number: int) -> list[Item]:
    return [Item(key, _code(number), {"number": number}) for key in _TOGETHER]


def _read(gallery: Gallery, number: int) -> None:
    len(gallery)
    _ = "item 5" in gallery, "missing" in gallery
    gallery.get("a")
    gallery.search_code(_code(3), 3)
    gallery.search_code(_code(3), 3, where={"number": {">": 5}})
    list(gallery)


def _upsert(gallery: Gallery, number: int) -> None:
    gallery.upsert(_state(gallery, number))


def _transaction(gallery: Gallery, number: int) -> None:
    with gallery.transaction():
        for item in _state(gallery, number):
            gallery.remove(item.key)
            gallery.add_code(item.key, item.code, item.metadata)
        gallery.search_code(_code(3), 3)


def _refused(gallery: Gallery, number: int) -> None:
    with suppress(KeyError):
        gallery.remove("a", "missing")
    with suppress(RuntimeError), gallery.transaction():
        gallery.set_metadata("a", {})
        raise RuntimeError


def _rename(gallery: Gallery, number: int) -> None:
    for old, new in (("item 7", "renamed"), ("renamed", "item 7")):
        if old in gallery:
            gallery.rename(old, new)
    gallery.compact()


CALLS: tuple[Callable[[Gallery, int], None], ...] = (
    _read,
    _upsert,
    _transaction,
    _refused,
    _rename,
)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def make_case() -> Case:
    signal.signal(signal.SIGALRM, _interrupt)
    folder = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
    path = Path(folder.name) / "g.bitgaze"
    gallery = Gallery(path, bits=BITS)
    gallery.upsert([Item(f"item {n}", _code(n), {"number": n}) for n in range(_OTHERS)])
    gallery.upsert(_state(gallery, 0))
    numbers = count(1)
    timeout = _busy_timeout(gallery)

    def case(seed: int) -> str:
        _ = folder  # deleted with the case
        call = CALLS[seed % len(CALLS)]
        moment = random.Random(seed).uniform(*_SECONDS)
        kept = None
        try:
            signal.setitimer(signal.ITIMER_REAL, moment)
            while True:
                call(gallery, next(numbers))
        except KeyboardInterrupt as error:
            kept = error if seed % 2 else None
        assert not gallery._store._db.in_transaction, "a transaction is left open"
        assert _is_free(gallery), "the lock is left held"
        with closing(sqlite3.connect(path, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")  # raises if the write lock is left held
            other.execute("ROLLBACK")
            busy = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            assert not busy, "a snapshot is left open"
        assert _busy_timeout(gallery) == timeout, "the timeout is changed"
        _check_items(gallery)
        with Gallery(path, create=False) as other_gallery:
            _check_items(other_gallery)
            other_gallery.upsert(_state(other_gallery, next(numbers)))
            expected = other_gallery.get("a").metadata
        assert gallery.get("a").metadata == expected, "a commit of another process is not seen"
        del kept
        return call.__name__.strip("_")

    return case


def _check_items(gallery: Gallery) -> None:
    assert len(gallery) == len(list(gallery)) == _OTHERS + len(_TOGETHER)
    number = gallery.get("a").metadata["number"]
    assert gallery.get("a").code.tobytes() == _code(number).tobytes()
    for key in _TOGETHER[1:]:
        assert gallery.get(key).metadata == {"number": number}
        assert gallery.get(key).code.tobytes() == _code(number).tobytes()


def _busy_timeout(gallery: Gallery) -> int:
    return gallery._store._db.execute("PRAGMA busy_timeout").fetchone()[0]


def _is_free(gallery: Gallery) -> bool:
    """Whether another thread gets the gallery's lock."""
    got: list[bool] = []

    def acquire() -> None:
        got.append(gallery._store._lock.acquire(timeout=0.5))
        if got[0]:
            gallery._store._lock.release()

    thread = threading.Thread(target=acquire)
    thread.start()
    thread.join()
    return got[0]


def interrupt(seeds: range, jobs: int) -> Counter[str]:
    """Interrupt calls once for each seed, cycling through their kinds."""
    return run(make_case, seeds, jobs=jobs)


if __name__ == "__main__":
    import interrupt as module  # by the name that child processes import

    sys.exit(main(__doc__.partition("\n")[0], "count", 10_000, module.interrupt))
