"""Measure a flat file: how long it takes to open, to write and to search, and what memory it takes.

    python benchmarks/flat.py [--items 10000000] [--bits 128] [--open 100000000] [--folder /tmp]

Opens a file with holes in place of its sections, of the length that they have with --open items:
opening reads the header alone. Then writes a file of --items random codes with a key each, 47 bytes
an item at 128 bits. "cold": after the system was asked to forget the file's pages. Deletes both.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from bitgaze import FlatGallery, simd
from bitgaze.cores import available_cores
from bitgaze.gallery.flat.header import Header, Section, aligned
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat

_REPEATS = 11
_OPEN = """
import sys, time
from bitgaze import FlatGallery
started = time.perf_counter()
FlatGallery(sys.argv[1])
print(1000 * (time.perf_counter() - started))
"""
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
    parser.add_argument("--items", type=int, default=10_000_000)
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--open", type=int, default=100_000_000, help="items of the file of holes")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    print(f"codes of {options.bits} bits, kernel {simd()}, {available_cores()} cores,", end=" ")
    print(f"Python {platform.python_version()}", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "x.flat")
        write_holes(path, options.open, options.bits)
        measure_open(path)
        path.unlink()
        measure(path, options.items, options.bits)


def write_holes(path: Path, items: int, bits: int) -> None:
    """Write the header of a file with this many items, and nothing else."""
    info = b'{"model": null, "calibration": null, "written_by": "a benchmark"}'
    header = Header(items, bits, 1)
    lengths = header.lengths() | {"info": len(info), "records": 15 * items}
    header.sections.update(dict.fromkeys(lengths, Section(0, 0)))  # so that it has its size
    end = header.size()
    for name, length in lengths.items():
        crc = zlib.crc32(info) if name == "info" else 0
        header.sections[name] = Section(aligned(end), length, crc)
        end = aligned(end) + length
    with path.open("wb") as file:
        file.write(header.to_bytes(end))
        file.seek(header.sections["info"].offset)
        file.write(info)
        file.truncate(end)


def measure_open(path: Path) -> None:
    """In a new process each time: what it opens first is the file."""
    for name in ("cold", "warm"):
        times = []
        for _ in range(_REPEATS):
            if name == "cold":
                forget(path)
            done = subprocess.run(
                [sys.executable, "-c", _OPEN, path], capture_output=True, text=True, check=True
            )
            times.append(float(done.stdout))
        print(
            f"open {FlatGallery(path)!r}, {name}: {statistics.median(times):.2f} ms, at most "
            f"{max(times):.2f}, median and most of {_REPEATS}",
            flush=True,
        )


def measure(path: Path, items: int, bits: int) -> None:
    started = time.perf_counter()
    write_flat(path, Origin(bits, 0), items, batches(items, bits))
    print(f"write      {time.perf_counter() - started:9.1f} s, {items:,} items,", end=" ")
    print(f"{path.stat().st_size:,} bytes", flush=True)

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
