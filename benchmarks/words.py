"""Searches by words in a gallery of a million items: the first of a process, and later ones.

    python benchmarks/words.py [--items 1000000] [--gallery FILE]

Fills a gallery (or takes one that an earlier run left in FILE) with random codes and likely classes
of four views, 14 each. Each word is searched for in new processes; figures are medians of three:
processor time of the first search and of the second, and the growth of the process's memory. The
hits of the second equal those of the first. The file is in the system's cache.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bitgaze import Encoder, Gallery, Item
from bitgaze.encoding.likely import pack

_BATCH = 50_000
_VIEWS, _CLASSES_OF_A_VIEW = 4, 14
_WORDS = ("tabby", "dog", "animal", "vehicle", "dog, cat ball")
_SEARCHED = """
import json, resource, sys, time
from bitgaze import Gallery
gallery = Gallery(sys.argv[1], create=False)
gallery.vocabulary
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found, seconds = [], []
for _ in range(2):
    start = time.process_time()
    found.append(gallery.search_words(sys.argv[2], 10, least=0))
    seconds.append(time.process_time() - start)
assert found[0] == found[1] and len(found[0]) == 10
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
print(json.dumps([*seconds, grown]))
"""


def blocks(rng: np.random.Generator, count: int) -> list[bytes]:
    """Likely classes of images: neighbouring numbers, as alike classes have."""
    found = []
    for _ in range(count):
        views = []
        for first in rng.integers(0, 1000, _VIEWS):
            numbers = (first + rng.permutation(40)[:_CLASSES_OF_A_VIEW]) % 1000
            probabilities = np.sort(rng.dirichlet(np.full(_CLASSES_OF_A_VIEW, 0.3)))[::-1]
            views.append((numbers, np.maximum(probabilities, 2**-9).astype(np.float32)))
        found.append(pack(views))
    return found


def fill(path: Path, count: int) -> None:
    """Create the gallery."""
    rng = np.random.default_rng(0)
    distinct = blocks(rng, 5000)
    with Gallery(path, encoder=Encoder()) as gallery:
        width = gallery.bits // 8
        for first in range(0, count, _BATCH):
            codes = rng.integers(0, 256, (min(_BATCH, count - first), width), np.uint8)
            chosen = rng.integers(0, len(distinct), len(codes))
            gallery.upsert(
                Item(f"item {first + row}", code, classes=distinct[chosen[row]])
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
        for words in _WORDS:
            command = [sys.executable, "-c", _SEARCHED, str(path), words]
            answers = [
                json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                for _ in range(3)
            ]
            first, second, grown = map(statistics.median, zip(*answers, strict=True))
            print(f"{words:15} first {first:5.2f} s, second {second:5.3f} s, {grown:.0f} MB")


if __name__ == "__main__":
    main()
