"""The tail of a scattered search: how the slowest of many groups makes all queries slow, simulated.

    python benchmarks/tail.py [--items 10e9] [--cores 32] [--scan-ms 5.4] [--queries 20000]

Measures, in processor time, what a group adds to the scan (the candidates of a gallery of 100,000
items of four views, less the scan of its index) and how long `merge` takes for each number of
groups. Then simulates: queries arrive at random (a Poisson process) at all groups at once; a
group's machine serves one query after the other, each with all its cores, in
    (scan of its items, at --scan-ms a million on one core) / cores + what a group adds,
    times the measured spread;
one request in a hundred is held up besides by a pause of 20 ms on average (exponential: a
retransmitted packet, another process), which is assumed. A query is answered once the last group
has answered and the answers are merged. Prints, in milliseconds by the number of groups and how
busy they are, the median, the 99th of 100 and the 999th of 1000 queries.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze import Hit, Item
from bitgaze.encoding.likeness import SemanticEvidence
from bitgaze.gallery.hits import Likeness
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import AROUND, SearchParams
from bitgaze.gallery.shards import Candidates, Found, Refusal, candidates, merge
from bitgaze.gallery.store import Store
from bitgaze.interchange.description import Description
from bitgaze.interchange.galleries import write_gallery

_BITS, _LOOKS, _K = 128, 3, 10
_MEASURED_ITEMS, _MEASURED_QUERIES = 100_000, 300
_PAUSES, _PAUSE_MS = 0.01, 20.0
_GROUPS, _BUSY = (1, 4, 16, 64, 256, 1024), (0.2, 0.5, 0.8)
Times = NDArray[np.float64]


def measured_group() -> tuple[float, Times]:
    """What a group adds to its scan, in ms; and service times, divided by their median."""
    random = np.random.default_rng(0)
    width = _BITS // 8
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard.bitgaze")
        views = random.integers(0, 256, (_MEASURED_ITEMS, 1 + _LOOKS, width), np.uint8)
        structures = random.integers(0, 256, (_MEASURED_ITEMS, 32), np.uint8)
        boxes = np.tile(np.float32([0, 0, 0.5, 0.5]), (_LOOKS, 1))
        items = [
            Item(f"{n}", codes[0], {"n": n}, None, codes[1:], boxes, structures[n])
            for n, codes in enumerate(views)
        ]
        description = Description(_BITS, "f" * 64, "random", _LOOKS, 256)
        write_gallery(path, description, [items], path)
        store = Store(path, None, 5.0)
        params = SearchParams(_K, None, ())
        whole, scans = [], []
        for number in range(_MEASURED_QUERIES):
            codes = random.integers(0, 256, (1 + _LOOKS, width), np.uint8)
            query = Query(codes, (None,) * (1 + _LOOKS), None, structures[number])
            with store.reading():
                assert store.views is not None
                start = time.process_time()
                store.views.search(codes[None], AROUND, threads=1)
                middle = time.process_time()
                candidates([store], query, params)
                whole.append(time.process_time() - middle)
                scans.append(middle - start)
        store.close()
    added = statistics.median(whole) - statistics.median(scans)
    return 1000 * added, np.array(whole) / statistics.median(whole)


def measured_merge(groups: int) -> float:
    """Milliseconds to merge the answers of `groups` groups."""
    random = np.random.default_rng(0)
    hit = Hit("key", 30.0, None, None, {}, None)
    rows = np.arange(AROUND)
    codes = random.integers(0, 256, (AROUND, 32), np.uint8)
    parts = [
        Candidates(
            Found(
                np.sort(random.uniform(30, 50, AROUND)),
                rows * 0,
                rows,
                Likeness(codes[0], codes, rows),
            ),
            dict.fromkeys(range(_K), hit),
            Refusal(),
            1,
            _BITS,
            1_000_000,
            SemanticEvidence(),
        )
        for _ in range(groups)
    ]
    times = []
    for _ in range(5):
        start = time.process_time()
        merge(parts, SearchParams(_K, None, ()))
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def simulate(groups: int, busy: float, service_ms: float, spread: Times, queries: int) -> Times:
    """How long each query takes until the last of the groups has answered, in ms."""
    random = np.random.default_rng(groups)
    mean_ms = service_ms * spread.mean() + _PAUSES * _PAUSE_MS
    gaps = random.exponential(mean_ms / busy, queries)
    waits = np.zeros(groups)  # of each group, for the query that arrives
    slowest = np.empty(queries)
    for number, gap in enumerate(gaps):
        service = service_ms * random.choice(spread, groups)
        pauses = random.random(groups) < _PAUSES
        service[pauses] += random.exponential(_PAUSE_MS, pauses.sum())
        waits = np.maximum(waits - gap, 0) + service
        slowest[number] = waits.max()
    return slowest[queries // 10 :]  # once the queues have filled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=float, default=10e9)
    parser.add_argument("--cores", type=int, default=32, help="of each group's machine")
    parser.add_argument("--scan-ms", type=float, default=5.4, help="a million items, one core")
    parser.add_argument("--queries", type=int, default=20_000)
    arguments = parser.parse_args()
    added_ms, spread = measured_group()
    print(
        f"a group adds {added_ms:.2f} ms to its scan; service times, of their median: 90th of "
        f"100 {np.percentile(spread, 90):.2f}, 99th {np.percentile(spread, 99):.2f}"
    )
    head = " | ".join(f"{busy:.0%} busy" for busy in _BUSY)
    print(f"| groups | scan | merge | {head} |\n|{'---|' * (3 + len(_BUSY))}")
    for groups in _GROUPS:
        scan_ms = arguments.scan_ms * arguments.items / 1e6 / groups / arguments.cores
        merge_ms = measured_merge(groups)
        cells = [str(groups), f"{scan_ms:.1f}", f"{merge_ms:.1f}"]
        for busy in _BUSY:
            taken = simulate(groups, busy, scan_ms + added_ms, spread, arguments.queries) + merge_ms
            cells.append(" / ".join(f"{one:.0f}" for one in np.percentile(taken, [50, 99, 99.9])))
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
