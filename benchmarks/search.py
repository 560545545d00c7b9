"""Hamming search beside FAISS and usearch, in one process, on the same codes.

    python benchmarks/search.py [--codes 1000000 10000000]

Every result is compared with numpy's before anything is timed. Random codes, and clustered ones:
4,000 random centres with about one bit in 16 flipped, as codes of similar pictures are. Machines
are noisy: the ratio counts. GB/s are the bytes of all codes, once per query, in the time of one
query; "read" is what numpy's sum of the same memory reaches, best of 5: less than the memory can.
"""

import argparse
import os

# One thread for everyone; set before the libraries read it.
os.environ["OMP_NUM_THREADS"] = "1"

import subprocess
import sys
import time
from collections.abc import Callable

import faiss
import numpy as np
import usearch.index
from numpy.typing import NDArray

from bitgaze import HammingIndex, simd

Codes = NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--codes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--only-this-level", action="store_true", help="no second run with AVX2")
    arguments = parser.parse_args()
    level = os.environ.get("FAISS_SIMD_LEVEL", "its best")
    print(f"one thread; kernel {simd()}; FAISS {faiss.__version__}, level {level}; ms per query")
    print(
        f"{'codes':>11} {'kind':>9} {'bits':>4} {'queries':>7} {'k':>5} {'bitgaze':>8} "
        f"{'FAISS':>8} {'usearch':>8} {'x FAISS':>7} {'GB/s':>6} {'read':>5}"
    )
    for count in arguments.codes:
        for bits in arguments.bits:
            for kind in (random_codes, clustered_codes):
                compare(kind, count, bits)
    if simd() == "avx512" and not arguments.only_this_level:
        subprocess.run(
            [sys.executable, __file__, "--only-this-level", "--codes", "1000000"],
            env={**os.environ, "BITGAZE_SIMD": "avx2", "FAISS_SIMD_LEVEL": "AVX2"},
            check=True,
        )


def compare(kind: Callable[[int, int], Codes], count: int, bits: int) -> None:
    codes = kind(count + 100, bits)
    codes, queries = codes[:-100], codes[-100:]
    index = HammingIndex(bits)
    index.add(codes)
    rival = faiss.IndexBinaryFlat(bits)
    rival.add(codes)
    words = index.codes.reshape(-1).view(np.uint64)
    read = words.nbytes / best(words.sum, 5) / 1e9
    for query_count, k in ((1, 10), (100, 10), (100, 100), (100, 1000)):
        some = queries[:query_count]
        expected = numpy_distances(codes, some[:3], k)
        for found in (index.search(some, k)[0], rival.search(some, k)[0]):
            if not np.array_equal(found[:3], expected):
                raise SystemExit("a library found other distances than numpy")
        repeats = 7 if query_count == 1 or count <= 1_000_000 else 3
        ours = best(lambda s=some, n=k: index.search(s, n), repeats) / query_count
        faiss_s = best(lambda s=some, n=k: rival.search(s, n), repeats) / query_count
        usearch_ms = ""
        if query_count == 1 and count <= 1_000_000:
            usearch_s = best(lambda s=some, n=k: usearch_search(codes, s, n), 2)
            usearch_ms = f"{1e3 * usearch_s:.3f}"
        print(
            f"{count:11,} {kind.__name__.split('_')[0]:>9} {bits:4} {query_count:7} {k:5} "
            f"{1e3 * ours:8.3f} {1e3 * faiss_s:8.3f} {usearch_ms:>8} {faiss_s / ours:7.1f} "
            f"{words.nbytes / ours / 1e9:6.1f} {read:5.1f}",
            flush=True,
        )


def random_codes(count: int, bits: int) -> Codes:
    return np.random.default_rng(bits).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def clustered_codes(count: int, bits: int) -> Codes:
    generator = np.random.default_rng(bits)
    codes = random_codes(4000, bits)[generator.integers(0, 4000, count)]
    flips = generator.integers(0, 256, (4, *codes.shape), dtype=np.uint8)
    return codes ^ np.bitwise_and.reduce(flips)  # each bit with probability 1/16


def usearch_search(codes: Codes, queries: Codes, k: int) -> object:
    metric = usearch.index.MetricKind.Hamming
    return usearch.index.search(codes, queries, k, metric, exact=True, threads=1)


def numpy_distances(codes: Codes, queries: Codes, k: int) -> NDArray[np.int32]:
    """Distances of the k nearest, ascending."""
    rows = []
    for query in queries.view(np.uint64):
        differing = np.bitwise_count(codes.view(np.uint64) ^ query)
        distances = differing.sum(1, dtype=np.int32)
        rows.append(np.sort(np.partition(distances, k - 1)[:k]))
    return np.array(rows)


def best(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run: what the code takes when nothing else does."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
