"""The first filtered search of a process, in a gallery of a million items.

    python benchmarks/filters.py [--items 1000000] [--gallery FILE]

Fills a gallery with random codes and metadata of five fields (or takes one that an earlier run left
in FILE), then measures each kind of condition in new processes: milliseconds of the first search
with the condition, and of the second. Each figure is the median of three processes; the number of
items that meet a condition is checked. The file is in the system's cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
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
    albums = len(range(7, count, 1000))
    return [
        ({"year": 2007}, len(range(7, count, 25))),
        ({"year": {"!=": 2007}}, count - len(range(7, count, 25))),
        ({"year": {">=": 2010, "<": 2012}}, count // 25),
        ({"album": "album 7"}, albums),
        ({"album": {"in": ["album 7", "album 8"]}}, albums),
        ({"album": {"like": "album 7_"}}, albums),
        ({"score": {"<": 0.25}}, count // 4),
        ({"score": (5 * 7919 % count) / count}, 1),
        ({"name": "IMG_0000123.jpg"}, 1),
        ({"name": {">=": "IMG_00005"}}, count - 50_000),
        ({"name": {"like": "%0123.jpg"}}, count // 10_000),
        ({"name": {"like": "img%"}}, count),
        ({"tags": "tag 7"}, len(range(7, count, 40))),
        ({"tags": {"like": "%ject 3_"}}, count // 37),
        ({"nothing": 1}, 0),
        ({"year": 2007, "album": "album 7", "score": {"<": 0.25}}, albums // 4),
        ({"@key": "item 77"}, 1),
        ({"@key": {"like": "%77"}}, count // 100),
        ({"@key": {"<": "item 2"}}, count // 9),
    ]


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
