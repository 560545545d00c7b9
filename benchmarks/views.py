"""Search by views (ViewIndex) compared with merging the distances of single codes in numpy.

    python benchmarks/views.py [--items N] [--views V] [--bits B]

Items are random, or learned: codes of CIFAR-10 test images as in benchmarks/search.py, repeated
with about one bit in 32 flipped; the other views differ from the first in 3 bits of 16. One core,
medians of processor time. Every result is verified before it is timed.

Rivals compute the same distances: "numpy" counts the differing bits of every pair of views;
"indexes" has a HammingIndex for each view of the items and asks it for all distances of each view
of the query.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze import HammingIndex, ViewIndex, simd

Codes = NDArray[np.uint8]

QUERIES = 1000
SINGLE_QUERIES = 11  # searched one by one
REPEATS = 11
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--bits", type=int, default=128)
    parser.add_argument("--memory", action="store_true", help="print only the memory of an index")
    arguments = parser.parse_args()
    if arguments.memory:
        print(f"{bytes_per_item(arguments.items, arguments.views, arguments.bits):.2f}")
        return
    memory = subprocess.run(
        [sys.executable, *sys.argv, "--memory"], capture_output=True, text=True, check=True
    )
    print(
        f"kernel {simd()}; {arguments.items} items of {arguments.views} views of {arguments.bits} "
        f"bits; resident memory {memory.stdout.strip()} bytes an item"
    )
    print(
        "| codes | one query, ms | batch of 100, ms a query | batch of 1000 "
        "| queries of one view | x numpy | x indexes |\n" + "|---" * 7 + "|"
    )
    for kind in (random_items, learned_items):
        print(compare(kind, arguments.items, arguments.views, arguments.bits), flush=True)


def compare(kind: Callable[[int, int, int], Codes], count: int, views: int, bits: int) -> str:
    """One row of the table."""
    items = kind(count + QUERIES, views, bits)
    items, queries = items[:count], items[count:].copy()
    index = ViewIndex(bits, views)
    index.reserve(count)
    index.add(items)
    indexes = [HammingIndex(bits) for _ in range(views)]
    for view, one in enumerate(indexes):
        one.add(np.ascontiguousarray(items[:, view]))

    def all_distances(query: Codes) -> NDArray[np.int32]:
        return np.stack([[scattered(one, code) for one in indexes] for code in query])

    found = zip(*index.search(queries[:3], K, threads=1), strict=True)
    for query, (distances, ids) in zip(queries[:3], found, strict=True):
        for rival in (numpy_distances(items, query), all_distances(query)):
            expected = nearest(rival)
            check(distances, expected[0])
            check(ids, expected[1])

    singles = [
        median(lambda q=q: index.search(queries[q : q + 1], K, threads=1))
        for q in range(SINGLE_QUERIES)
    ]
    single = float(np.mean(singles))
    batch, large = (
        median(lambda n=n: index.search(queries[:n], K, threads=1)) / n for n in (100, QUERIES)
    )
    regions = queries[:100, :1].copy()
    region = median(lambda: index.search(regions, K, threads=1)) / 100
    numpy_s = median(lambda: nearest(numpy_distances(items, queries[0])), 3)
    indexes_s = median(lambda: nearest(all_distances(queries[0])), 3)
    cells = [kind.__name__.split("_")[0], *(f"{1e3 * s:.2f}" for s in (single, batch, large))]
    cells += [f"{1e3 * region:.2f}", f"{numpy_s / single:.0f}", f"{indexes_s / single:.0f}"]
    return "| " + " | ".join(cells) + " |"


def numpy_distances(items: Codes, query: Codes) -> NDArray[np.int32]:
    """Hamming distances, shape (query views, item views, n)."""
    words = items.view(np.uint64)
    every = [
        np.bitwise_count(words ^ code.view(np.uint64)).sum(2, dtype=np.int32) for code in query
    ]
    return np.stack(every).transpose(0, 2, 1)


def scattered(index: HammingIndex, code: Codes) -> NDArray[np.int32]:
    """The distance of every code, in order of id."""
    _, distances, ids = index.range_search(code[None], index.bits, threads=1)
    ordered = np.empty(len(index), np.int32)
    ordered[ids] = distances
    return ordered


def nearest(pairs: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and ids of the K nearest items, from the distances of all pairs of views."""
    query_views, item_views = pairs.shape[:2]
    multiple = math.lcm(query_views, item_views)
    distances = multiple // query_views * pairs.min(1).sum(0)
    distances += multiple // item_views * pairs.min(0).sum(0)
    limit = np.partition(distances, K - 1)[K - 1]
    near = np.flatnonzero(distances <= limit)
    ids = near[np.argsort(distances[near], kind="stable")][:K]
    return distances[ids], ids


def random_items(count: int, views: int, bits: int) -> Codes:
    return np.random.default_rng(bits).integers(0, 256, (count, views, bits // 8), dtype=np.uint8)


def learned_items(count: int, views: int, bits: int) -> Codes:
    with np.load(Path(__file__).parent / "learned_codes.npz") as file:
        base = file[f"codes{bits}"]
    generator = np.random.default_rng(bits)
    whole = base[generator.integers(0, len(base), count)]

    def random() -> Codes:
        return generator.integers(0, 256, whole.shape, dtype=np.uint8)

    whole ^= random() & random() & random() & random() & random()
    looks = [whole ^ (random() & random() & (random() | random())) for _ in range(views - 1)]
    return np.stack([whole, *looks], axis=1)


def bytes_per_item(count: int, views: int, bits: int) -> float:
    """Resident memory that an index of `count` items takes."""
    part = random_items(10_000, views, bits)
    ViewIndex(bits, views).add(part)  # what the first one needs once
    index = ViewIndex(bits, views)
    before = resident_bytes()
    index.reserve(count)
    while len(index) < count:
        index.add(part[: count - len(index)])
    return (resident_bytes() - before) / count


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def median(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median processor time of this thread, in seconds: other processes hardly show in it."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        run()
        times.append(time.thread_time() - start)
    return float(np.median(times))


def check(found: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    if not np.array_equal(found, expected):
        raise SystemExit("two searches returned different results")


if __name__ == "__main__":
    main()
