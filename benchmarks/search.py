"""Hamming search compared with FAISS and usearch, in one process, on the same codes.

    python benchmarks/search.py [--results]        1 M and 10 M codes, then 1 M again with AVX2
    python benchmarks/search.py --tables           multi-index hashing on 100 M codes, 8 GB

Codes are random or learned. Learned codes are those of 2,000 CIFAR-10 test images by trained
networks (learned_codes.npz; CONTRIBUTING.md says how to make it), each repeated with about one bit
in 32 flipped. Every result is verified before it is timed. Machines are noisy: rely on ratios. GB/s
is the size of all codes divided by the time of one query, next to the throughput of libc's memchr.
"""

import argparse
import os

# One thread for every library, which read this when imported.
os.environ["OMP_NUM_THREADS"] = "1"

import ctypes
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import usearch.index
from numpy.typing import NDArray

from bitgaze import HammingIndex, simd

Codes = NDArray[np.uint8]

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results.md"
QUERIES = 100
SINGLE_QUERIES = 12  # searched one by one
SEARCHES = ((1, 10), (QUERIES, 10), (QUERIES, 100), (QUERIES, 1000))  # queries at once, k
HEAD = (
    "| codes | bits | kind | one query, ms | GB/s, read | x FAISS | batch of 100, ms a query "
    "| x FAISS | k = 100 | k = 1000 | two threads |\n" + "|---" * 11 + "|"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--codes", type=int, nargs="+", default=[1_000_000, 10_000_000])
    add("--bits", type=int, nargs="+", default=[64, 128, 256])
    add("--results", action="store_true", help="write the table into docs/results.md")
    add("--tables", action="store_true", help="multi-index hashing instead")
    add("--this-level", action="store_true", help="skip the second run with AVX2")
    arguments = parser.parse_args()
    if arguments.tables:
        compare_tables(100_000_000)
        return
    level = os.environ.get("FAISS_SIMD_LEVEL", "its best")
    print(
        f"kernel {simd()}; FAISS {faiss.__version__}, level {level}; usearch {usearch.__version__}"
    )
    rows = [HEAD]
    print(HEAD, flush=True)
    for count in arguments.codes:
        for bits in arguments.bits:
            for kind in (random_codes, learned_codes):
                row = compare(kind, count, bits)
                print(row, flush=True)
                rows.append(row)
    if arguments.results:
        write_table(RESULTS, "\n".join(rows))
    if simd() == "avx512" and not arguments.this_level:
        subprocess.run(
            [sys.executable, __file__, "--this-level", "--codes", "1000000"],
            env={**os.environ, "BITGAZE_SIMD": "avx2", "FAISS_SIMD_LEVEL": "AVX2"},
            check=True,
        )


def compare(kind: Callable[[int, int], Codes], count: int, bits: int) -> str:
    """One row of the table."""
    codes = kind(count + QUERIES, bits)
    codes, queries = codes[:-QUERIES], codes[-QUERIES:]
    index = HammingIndex(bits)
    index.reserve(count)
    index.add(codes)
    rival = faiss.IndexBinaryFlat(bits)
    rival.add(codes)
    read = read_speed(codes.nbytes)
    name = kind.__name__.split("_")[0]
    cells = [f"{count // 1_000_000} M", str(bits), name]
    for query_count, k in SEARCHES:
        some = queries[:query_count]
        found = index.search(some, k, threads=1)[0]
        check(found[:3], numpy_distances(codes, some[:3], k))
        check(found, rival.search(some, k)[0])
        repeats = 5 if query_count == 1 or count <= 1_000_000 else 3
        # With learned codes some queries take longer than others, so single queries are averaged.
        batches = [some]
        if query_count == 1:
            batches = [queries[q : q + 1] for q in range(SINGLE_QUERIES)]
        ours = mean_best(lambda s, n=k: index.search(s, n, threads=1), batches, repeats)
        faiss_s = mean_best(lambda s, n=k: rival.search(s, n), batches, repeats)
        ours, faiss_s = ours / query_count, faiss_s / query_count
        if query_count == 1:
            cells += [f"{1e3 * ours:.2f}", f"{codes.nbytes / ours / 1e9:.1f}, {read:.1f}"]
        elif k == SEARCHES[1][1]:
            cells.append(f"{1e3 * ours:.3f}")
        cells.append(f"{faiss_s / ours:.1f}")
    batch_k = SEARCHES[1][1]
    one = best(lambda: index.search(queries, batch_k, threads=1), 5)
    two = best(lambda: index.search(queries, batch_k, threads=2), 5)
    cells.append(f"{one / two:.2f}")
    if count <= 1_000_000 and name == "random":
        usearch_s = best(lambda: usearch_search(codes, queries[:1], 10), 2)
        print(f"usearch, one query, {bits} bits: {1e3 * usearch_s:.1f} ms")
    return "| " + " | ".join(cells) + " |"


def compare_tables(count: int) -> None:
    """Print times of scan and tables for radius 2 and k = 10 over learned codes of 64 bits."""
    codes = learned_codes(count + QUERIES, 64)
    codes, queries = codes[:-QUERIES], codes[-QUERIES:]
    index = HammingIndex.view(codes)
    start = time.perf_counter()
    index.build_tables(threads=1)
    print(
        f"{count} codes of 64 bits: tables built in {time.perf_counter() - start:.1f} s, ", end=""
    )
    print(f"{index.table_bytes / count:.1f} bytes per code in addition to its 8", flush=True)
    for name, search in {
        "radius 2": lambda q, method: index.range_search(q, 2, threads=1, method=method),
        "k = 10": lambda q, method: index.search(q, 10, threads=1, method=method),
    }.items():
        ratios, seconds, results = [], [], []
        for q in queries[:20]:
            scanned, looked_up = (search(q[None], method) for method in ("scan", "mih"))
            for a, b in zip(scanned, looked_up, strict=True):
                check(a, b)
            scan_s = best(lambda q=q, s=search: s(q[None], "scan"), 2)
            mih_s = best(lambda q=q, s=search: s(q[None], "mih"), 3)
            chosen_s = best(lambda q=q, s=search: s(q[None], None), 3)
            ratios.append((scan_s / mih_s, scan_s / chosen_s))
            seconds.append((scan_s, mih_s, chosen_s))
            results.append(len(scanned[-1].reshape(-1)))
        scan_ms, mih_ms, chosen_ms = 1e3 * np.mean(seconds, axis=0)
        print(
            f"{name}: scan {scan_ms:.1f} ms, tables {mih_ms:.3f} ms, automatic choice "
            f"{chosen_ms:.3f} ms; ratio of the means {scan_ms / mih_ms:.0f}, of single queries "
            f"{np.min(ratios, axis=0)[0]:.0f} to {np.max(ratios, axis=0)[0]:.0f}, median "
            f"{np.median(ratios, axis=0)[0]:.0f}; {np.mean(results):.0f} results on average",
            flush=True,
        )


def random_codes(count: int, bits: int) -> Codes:
    return np.random.default_rng(bits).integers(0, 256, (count, bits // 8), dtype=np.uint8)


def learned_codes(count: int, bits: int) -> Codes:
    with np.load(HERE / "learned_codes.npz") as file:
        base = file[f"codes{bits}"]
    generator = np.random.default_rng(bits)
    codes = np.empty((count, bits // 8), np.uint8)
    for start in range(0, count, 1_000_000):
        size = min(1_000_000, count - start)
        flips = generator.integers(0, 256, (5, size, bits // 8), dtype=np.uint8)
        repeated = base[generator.integers(0, len(base), size)]
        # Each bit flips with probability 1/32.
        codes[start : start + size] = repeated ^ np.bitwise_and.reduce(flips)
    return codes


def usearch_search(codes: Codes, queries: Codes, k: int) -> object:
    metric = usearch.index.MetricKind.Hamming
    return usearch.index.search(codes, queries, k, metric, exact=True, threads=1)


def numpy_distances(codes: Codes, queries: Codes, k: int) -> NDArray[np.int32]:
    """Distances of the k nearest codes, ascending: shape (q, k)."""
    rows = []
    for query in queries.view(np.uint64):
        differing = np.bitwise_count(codes.view(np.uint64) ^ query)
        distances = differing.sum(1, dtype=np.int32)
        rows.append(np.sort(np.partition(distances, k - 1)[:k]))
    return np.array(rows)


def check(found: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    if not np.array_equal(found, expected):
        raise SystemExit("two searches returned different results")


def read_speed(size: int) -> float:
    """Throughput in GB/s of memchr over `size` bytes, looking for one that does not occur."""
    memory = np.ones(size, np.uint8)
    libc = ctypes.CDLL(None)
    libc.memchr.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
    return size / best(lambda: libc.memchr(memory.ctypes.data, 0, size), 7) / 1e9


def best(run: Callable[[], object], repeats: int) -> float:
    """Seconds of the fastest run, the one with the least interference."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def mean_best(run: Callable[[Codes], object], inputs: list[Codes], repeats: int) -> float:
    return float(np.mean([best(lambda x=x: run(x), repeats) for x in inputs]))


def write_table(path: Path, table: str) -> None:
    begin, end = "<!-- benchmarks/search.py -->\n", "<!-- end -->\n"
    before, rest = path.read_text(encoding="utf-8").split(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
