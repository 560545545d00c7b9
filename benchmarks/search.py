"""Hamming search beside FAISS and numpy, in one process, on the same codes.

    python benchmarks/search.py [--codes 1000000]

Every result is compared before anything is timed. Machines are noisy: the ratio counts.
"""

import argparse
import os

# One thread for everyone; set before the libraries read it.
os.environ["OMP_NUM_THREADS"] = "1"

import time
from collections.abc import Callable

import faiss
import numpy as np
from numpy.typing import NDArray

from bitgaze import HammingIndex, simd

Search = Callable[[NDArray[np.uint8]], NDArray[np.int32]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, default=1_000_000)
    parser.add_argument("-k", type=int, default=10)
    arguments = parser.parse_args()
    print(f"{arguments.codes:,} random codes, k = {arguments.k}, one thread, kernel {simd()}")
    print(f"FAISS {faiss.__version__} IndexBinaryFlat, numpy {np.__version__}; ms per query")
    print(f"{'bits':>5} {'queries':>8} {'bitgaze':>9} {'FAISS':>9} {'numpy':>9} {'x FAISS':>8}")
    for bits in (64, 128, 256):
        generator = np.random.default_rng(bits)
        codes = generator.integers(0, 256, (arguments.codes, bits // 8), dtype=np.uint8)
        index = HammingIndex(bits)
        index.add(codes)
        rival = faiss.IndexBinaryFlat(bits)
        rival.add(codes)
        searches: dict[str, Search] = {
            "bitgaze": lambda q, i=index: i.search(q, arguments.k)[0],
            "FAISS": lambda q, i=rival: i.search(q, arguments.k)[0],
            "numpy": lambda q, c=codes: numpy_search(c, q, arguments.k),
        }
        for count in (1, 100):
            queries = generator.integers(0, 256, (count, bits // 8), dtype=np.uint8)
            expected = searches["numpy"](queries)
            times = {}
            for name, search in searches.items():
                if not np.array_equal(search(queries), expected):
                    raise SystemExit(f"{name} found other distances than numpy")
                times[name] = best(search, queries, 1 if name == "numpy" else 7) / count
            row = " ".join(f"{1e3 * times[name]:9.3f}" for name in searches)
            print(f"{bits:5} {count:8} {row} {times['FAISS'] / times['bitgaze']:8.1f}", flush=True)


def numpy_search(codes: NDArray[np.uint8], queries: NDArray[np.uint8], k: int) -> NDArray[np.int32]:
    """Distances of the k nearest, ascending."""
    wide = codes.view(np.uint64)
    rows = []
    for query in queries.view(np.uint64):
        distances = np.bitwise_count(wide ^ query).sum(1, dtype=np.int32)
        rows.append(np.sort(np.partition(distances, k - 1)[:k]))
    return np.array(rows)


def best(search: Search, queries: NDArray[np.uint8], repeats: int) -> float:
    """Seconds of the fastest run: what the code takes when nothing else does."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        search(queries)
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
