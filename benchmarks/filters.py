"""The first filtered search of a process, in a gallery of a million items.

    python benchmarks/filters.py [--items 1000000] [--gallery FILE]

Fills a gallery with random codes and metadata of five fields (or takes one that an earlier run left
in FILE), then measures each kind of condition in new processes: milliseconds of the first search
with the condition, and of the second. Each figure is the median of three processes; each search
must find 10 items, or all that meet the condition if these are fewer. The file is in the system's
cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bitgaze import Gallery, Item

_BATCH = 50_000
_SEARCHED = """
import json, sys, time
import numpy as np
from bitgaze import Gallery
gallery = Gallery(sys.argv[1], create=False)
where, expected = json.loads(sys.argv[2])
code = np.zeros(16, np.uint8)
gallery.search_code(code)
times = []
for _ in range(2):
    start = time.perf_counter()
    hits = gallery.search_code(code, k=10, where=where)
    times.append(1000 * (time.perf_counter() - start))
assert len(hits) == min(expected, 10), (len(hits), expected)
start = time.perf_counter()
gallery.fields()
print(json.dumps([*times, 1000 * (time.perf_counter() - start)]))
"""


def metadata(n: int, count: int) -> dict[str, object]:
    """The fields of item n."""
    return {
        "year": 2000 + n % 25,
        "album": f"album {n % 1000}",
        "score": (n * 7919 % count) / count,
        "name": f"IMG_{n:07}.jpg",
        "tags": [f"tag {n % 40}", f"subject {n % 37}"],
    }


def wheres(count: int) -> list[tuple[dict[str, object], int]]:
    """Conditions, and the number of items that meet each."""

    def score(n: int) -> float:
        return (n * 7919 % count) / count

    conditions: list[tuple[dict[str, object], Callable[[int], bool]]] = [
        ({"year": 2007}, lambda n: n % 25 == 7),
        ({"year": {"!=": 2007}}, lambda n: n % 25 != 7),
        ({"year": {">=": 2010, "<": 2012}}, lambda n: n % 25 in (10, 11)),
        ({"album": "album 7"}, lambda n: n % 1000 == 7),
        ({"album": {"in": ["album 7", "album 8"]}}, lambda n: n % 1000 in (7, 8)),
        ({"album": {"like": "album 7_"}}, lambda n: n % 1000 in range(70, 80)),
        ({"score": {"<": 0.25}}, lambda n: score(n) < 0.25),
        ({"score": score(5)}, lambda n: score(n) == score(5)),
        ({"name": "IMG_0000123.jpg"}, lambda n: n == 123),
        ({"name": {">=": "IMG_00005"}}, lambda n: n >= 500),
        ({"name": {"like": "%0123.jpg"}}, lambda n: n % 10_000 == 123),
        ({"name": {"like": "img%"}}, lambda n: True),
        ({"tags": "tag 7"}, lambda n: n % 40 == 7),
        ({"tags": {"like": "%ject 3_"}}, lambda n: n % 37 in range(30, 37)),
        (
            {"year": 2007, "album": "album 7", "score": {"<": 0.25}},
            lambda n: n % 1000 == 7 and score(n) < 0.25,
        ),
        ({"@key": "item 77"}, lambda n: n == 77),
        ({"@key": {"like": "%77"}}, lambda n: n % 100 == 77),
        ({"@key": {"<": "item 2"}}, lambda n: str(n) < "2"),
    ]
    return [(where, sum(map(meets, range(count)))) for where, meets in conditions]


def fill(path: Path, count: int) -> None:
    """Create the gallery."""
    rng = np.random.default_rng(0)
    with Gallery(path, bits=128) as gallery:
        for first in range(0, count, _BATCH):
            codes = rng.integers(0, 256, (min(_BATCH, count - first), 16), np.uint8)
            gallery.upsert(
                Item(f"item {first + row}", code, metadata(first + row, count))
                for row, code in enumerate(codes)
            )


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--gallery", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.gallery or Path(folder) / "g.bitgaze"
        if not path.exists():
            fill(path, options.items)
        print(f"{options.items:,} items, {path.stat().st_size / 1e6:.0f} MB")
        for where, expected in wheres(options.items):
            command = [sys.executable, "-c", _SEARCHED, str(path), json.dumps([where, expected])]
            answers = [
                json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                for _ in range(3)
            ]
            first, second, names = map(statistics.median, zip(*answers, strict=True))
            print(f"{where!s:75} {first:8.1f} {second:8.1f}   fields {names:.1f}", flush=True)


if __name__ == "__main__":
    main()
