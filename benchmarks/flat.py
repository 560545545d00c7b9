"""Measure a flat file: how long it takes to write, to open and to search, and what memory it takes.

    python benchmarks/flat.py [--items 100000000] [--bits 128] [--folder /tmp]

Writes a file of random codes with a key each, 47 bytes an item, and deletes it. "cold" opens it
after the system was asked to forget its pages; a search then reads the codes from the disk.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bitgaze import FlatGallery, simd
from bitgaze.cores import available_cores
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat

_REPEATS = 20
_CHILD = """
import sys
from bitgaze import FlatGallery
import numpy as np
flat = FlatGallery(sys.argv[1])
flat.search_code(np.zeros(flat.bits // 8, np.uint8))
print(flush=True)
sys.stdin.read(1)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000_000)
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(f"{options.items:,} items of {options.bits} bits, kernel {simd()}", end=", ")
    print(f"{available_cores()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        measure(Path(folder, "x.flat"), options.items, options.bits)


def measure(path: Path, items: int, bits: int) -> None:
    started = time.perf_counter()
    write_flat(path, Origin(bits, 0), items, batches(items, bits))
    print(f"write      {time.perf_counter() - started:9.1f} s, {path.stat().st_size:,} bytes")

    forget(path)
    print(f"open, cold {milliseconds(lambda: FlatGallery(path)):9.2f} ms")
    times = [milliseconds(lambda: FlatGallery(path)) for _ in range(_REPEATS)]
    print(f"open       {statistics.median(times):9.2f} ms, at most {max(times):.2f}")

    flat = FlatGallery(path)
    random = np.random.default_rng(1)
    key = f"{int(random.integers(items)):09}"
    assert flat.get(key).key == key
    code = flat.get(key).code
    print(f"search, first {milliseconds(lambda: flat.search_code(code)):6.1f} ms")
    times = [milliseconds(lambda: flat.search_code(code)) for _ in range(_REPEATS)]
    assert flat.search_code(code)[0].key == key
    print(f"search     {statistics.median(times):9.2f} ms, k = 10, {available_cores()} threads")
    keys = [f"{slot:09}" for slot in random.integers(0, items, 1000).tolist()]
    found = milliseconds(lambda: [flat.slot(key) for key in keys])
    print(f"find a key {found:9.2f} us")
    shared(path)


def batches(items: int, bits: int) -> Iterator[Batch]:
    random = np.random.default_rng(0)
    for first in range(0, items, BATCH_ITEMS):
        count = min(BATCH_ITEMS, items - first)
        codes = np.frombuffer(random.bytes(count * bits // 8), np.uint8)
        yield Batch(
            codes.reshape(count, 1, -1),
            np.empty((count, 0, 4), np.uint16),
            [f"{slot:09}" for slot in range(first, first + count)],
            ["{}"] * count,
        )


def milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def forget(path: Path) -> None:
    """Ask the system to forget a file's pages."""
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def shared(path: Path) -> None:
    """Memory of four processes that search the same file."""
    command = [sys.executable, "-c", _CHILD, path]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)
    ]
    for child in children:
        child.stdout.readline()
    sizes = {"Rss": 0, "Pss": 0}
    for child in children:
        for line in Path(f"/proc/{child.pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] += int(rest.split()[0]) // 1024
    for child in children:
        child.communicate(b"\n")
    print(f"4 processes {sizes['Rss']:8,} MB mapped in all, {sizes['Pss']:,} MB of memory")


if __name__ == "__main__":
    main()
