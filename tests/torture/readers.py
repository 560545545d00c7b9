"""One process writes while eight read: every answer is the state of a single commit.

    python tests/torture/readers.py --seconds 60

The n-th commit stores n in every item's metadata and code, and leaves `count(n)` items. It is a
violation if a reader sees two commits in one answer, an older commit than it saw before or than was
committed before it asked, or a newer one than had begun when it got the answer.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import numpy as np

from bitgaze import Gallery, Item
from bitgaze.gallery.maintenance import verify_gallery

_BITS = 64
_READERS = 8
_MIN_ITEMS, _MAX_ITEMS = 20, 60
_CONTEXT = multiprocessing.get_context("spawn")
Number = Synchronized  # a shared int


def count(n: int) -> int:
    """The number of items after the n-th commit."""
    return _MIN_ITEMS + n * 7 % (_MAX_ITEMS - _MIN_ITEMS)


def code(n: int) -> np.ndarray:
    """The code of all items after the n-th commit."""
    return np.frombuffer(n.to_bytes(_BITS // 8, "little"), np.uint8)


def write(path: Path, begun: Number, committed: Number, end: Any) -> None:
    """Commit new codes and metadata of more or fewer items, again and again; sometimes compact."""
    n = committed.value
    with Gallery(path, timeout_s=60) as gallery:
        while not end.is_set():
            n += 1
            begun.value = n
            with gallery.transaction():
                gallery.upsert(Item(f"item {i}", code(n), {"n": n}) for i in range(count(n)))
                gallery.remove(*(f"item {i}" for i in range(count(n), len(gallery))))
            committed.value = n
            if n % 50 == 0:
                gallery.compact()


def read(
    path: Path, begun: Number, committed: Number, end: Any, asked: Number, found: Any, seed: int
) -> None:
    """Ask questions in random order."""
    random = np.random.default_rng(seed)
    latest = 0
    try:
        gallery = Gallery(path, timeout_s=60, create=False)
        while not end.is_set():
            if random.random() < 0.02:
                gallery.close()
                gallery = Gallery(path, timeout_s=60, create=False)
            question = _QUESTIONS[int(random.integers(len(_QUESTIONS)))]
            before = committed.value
            number, items = question(gallery)
            after = begun.value
            # The number of items alone can fit several commits.
            possible = [
                n
                for n in range(max(before, latest), after + 1)
                if number in (n, None) and items in (count(n), None)
            ]
            assert possible, (
                f"{question.__name__}: {items} items of commit {number}; {before} was committed "
                f"before, {latest} seen before, {after} begun"
            )
            latest = possible[0]
            with asked.get_lock():
                asked.value += 1
        gallery.close()
    except BaseException as error:
        found.put(f"reader {seed}: {error!r}")
        raise


# Each returns the commit of its answer and the number of items; None for what it does not show.
Seen = tuple[int | None, int | None]


def items_by_search(gallery: Gallery) -> Seen:
    hits = gallery.search_code(np.zeros(_BITS // 8, np.uint8), k=2 * _MAX_ITEMS)
    numbers = {hit.metadata["n"] for hit in hits}
    (n,) = numbers
    assert {hit.distance for hit in hits} == {int(np.unpackbits(code(n)).sum())}
    assert [hit.key for hit in hits] == [f"item {i}" for i in range(len(hits))]
    return n, len(hits)


def one_item(gallery: Gallery) -> Seen:
    item = gallery.get("item 3")
    n = item.metadata["n"]
    assert np.array_equal(item.code, code(n))
    return n, None


def by_key(gallery: Gallery) -> Seen:
    hits = gallery.search("item 5", k=2 * _MAX_ITEMS)
    (n,) = {hit.metadata["n"] for hit in hits}
    assert all(hit.distance == 0 for hit in hits)
    return n, len(hits)


def by_metadata(gallery: Gallery) -> Seen:
    hits = gallery.search_code(code(0), k=2 * _MAX_ITEMS, where={"n": {">=": 0}})
    (n,) = {hit.metadata["n"] for hit in hits}
    return n, len(hits)


def keys(gallery: Gallery) -> Seen:
    held = list(gallery)
    assert held == [f"item {i}" for i in range(len(held))]
    return None, len(held)


def length(gallery: Gallery) -> Seen:
    return None, len(gallery)


_QUESTIONS: list[Callable[[Gallery], Seen]] = [
    items_by_search,
    one_item,
    by_key,
    by_metadata,
    keys,
    length,
]


def readers(seconds: float, seed: int = 0, number: int = _READERS) -> str:
    """Write and read for some time.

    Returns:
        A summary in words.

    Raises:
        AssertionError: a violation, or a failed process.
    """
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "shared.bitgaze"
        with Gallery(path, bits=_BITS) as gallery:
            gallery.upsert(Item(f"item {i}", code(0), {"n": 0}) for i in range(count(0)))
        begun, committed, asked = (_CONTEXT.Value("q", 0) for _ in range(3))
        end, found = _CONTEXT.Event(), _CONTEXT.Queue()
        processes = [
            _CONTEXT.Process(target=write, args=(path, begun, committed, end)),
            *(
                _CONTEXT.Process(
                    target=read, args=(path, begun, committed, end, asked, found, seed + n)
                )
                for n in range(number)
            ),
        ]
        for process in processes:
            process.start()
        give_up = time.monotonic() + 60
        while not (committed.value and asked.value) and time.monotonic() < give_up:
            time.sleep(0.01)
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up and found.empty():
            time.sleep(0.1)
        end.set()
        problem = None if found.empty() else found.get()
        for process in processes:
            process.join(60)
        assert problem is None, problem
        assert [process.exitcode for process in processes] == [0] * len(processes)
        assert verify_gallery(path).is_sound
        assert committed.value > 0
        assert asked.value > 0
        return f"{committed.value} commits, {asked.value} answers to {number} readers"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        print(readers(arguments.seconds, arguments.seed))
    except AssertionError as error:
        sys.exit(f"VIOLATION: seed {arguments.seed}: {error}")
