"""A gallery of a million items: time to open it and to search it with filters, and memory.

    python benchmarks/gallery.py [--items 1000000] [--codes 10000000]

Fills a gallery in a temporary folder with random codes of 128 bits, structural codes, and metadata
such as a shop's or a robot's, then measures it in new processes, as a program that starts sees it.
`--codes` is the size of a second gallery, of custom codes without metadata, that is only opened.
Each figure is the median of three processes, and each process checks what it found. `opened_cpu_s`
is the processor time from the start of Python until the gallery is open, what it imports included.
`image_ms` is a search by an item, as by an image that is encoded already: with its copies first, of
which `copies_ms` is the scan of all structural codes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bitgaze import Gallery, Item

_BATCH = 50_000

_OPENED = """
import sys, time
start = time.perf_counter()
from bitgaze import Gallery
gallery = Gallery(sys.argv[1], create=False)
count = len(gallery)
opened, opened_cpu = time.perf_counter() - start, time.process_time()
"""
_MEMORY = """
import json, resource
def memory():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024
"""
_FILTERED = (
    _MEMORY
    + _OPENED
    + """
import numpy as np
def searched(where):
    code = np.random.default_rng(1).integers(0, 256, 16, np.uint8)
    start = time.perf_counter()
    hits = gallery.search_code(code, k=10, where=where)
    assert len(hits) == 10
    return 1000 * (time.perf_counter() - start)
facts = {"items": count, "opened_s": opened, "opened_cpu_s": opened_cpu}
facts["plain_ms"] = min(searched(None) for _ in range(5))
for name, where in json.loads(sys.argv[2]).items():
    facts[f"{name}_first_ms"] = searched(where)
    # The field's column is cached by now.
    facts[f"{name}_ms"] = max(searched(where) for _ in range(5))
from bitgaze.gallery.search import Scope, alike
query = gallery.item_query("item 7")
def timed(call):
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)
with gallery._store.reading():
    scan = lambda: alike(gallery._store, query, 50, Scope())
    facts["copies_ms"] = min(timed(scan) for _ in range(9))
facts["image_ms"] = min(timed(lambda: gallery.search(query)) for _ in range(9))
assert [hit.key for hit in gallery.search(query)][0] == "item 7"
gallery.encoder.encode([np.zeros((64, 64, 3), np.uint8)])
facts["resident_mb"] = memory()
facts["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps(facts))
"""
)
_CALLS = (
    _OPENED
    + """
import json, statistics
import numpy as np
from bitgaze import Item
start = time.perf_counter()
assert "no such key" not in gallery
first_missing_ms = 1000 * (time.perf_counter() - start)
facts = {"items": count, "opened_s": opened, "first_missing_ms": first_missing_ms}
rng = np.random.default_rng(2)
codes = rng.integers(0, 256, (100_000, 16), np.uint8)
def median(call, arguments):
    seconds = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        seconds.append(time.perf_counter() - start)
    return 1e6 * statistics.median(seconds)
keys = [f"item {i}" for i in rng.choice(count, 1000, replace=False)]
facts["get_us"] = median(gallery.get, keys)
facts["missing_us"] = median(gallery.__contains__, [f"no {key}" for key in keys])
facts["put_us"] = median(lambda i: gallery.upsert([Item(f"new {i}", codes[i])]), range(500))
facts["remove_us"] = median(lambda i: gallery.remove(f"new {i}"), range(500))
start = time.perf_counter()
gallery.upsert([Item(f"more {i}", code, {"i": i}) for i, code in enumerate(codes)])
facts["bulk_100000_s"] = time.perf_counter() - start
start = time.perf_counter()
with gallery.transaction():
    gallery.remove(*(f"more {i}" for i in range(len(codes))))
facts["bulk_remove_s"] = time.perf_counter() - start
assert len(gallery) == count
print(json.dumps(facts))
"""
)
_ONLY_OPENED = _OPENED + "import json; print(json.dumps({'items': count, 'opened_s': opened}))"

_WHERE = {
    "equal": {"shelf": "shelf 7"},
    "range": {"price": {">=": 10, "<": 20}},
    "two fields": {"shelf": {"in": ["shelf 7", "shelf 8"]}, "price": {"<": 50}},
    "time": {"seen_ns": {">": 1_700_000_500_000_000_000}},
}


def fill(path: Path, count: int) -> float:
    """Create a gallery with metadata; returns the seconds it took."""
    rng = np.random.default_rng(0)
    start = time.perf_counter()
    with Gallery(path) as gallery:
        for first in range(0, count, _BATCH):
            codes = rng.integers(0, 256, (min(_BATCH, count - first), 16), np.uint8)
            structural = rng.integers(0, 256, (len(codes), 32), np.uint8)
            prices = rng.integers(0, 10_000, len(codes)) / 100
            gallery.upsert(
                Item(
                    f"item {first + row}",
                    code,
                    {
                        "shelf": f"shelf {(first + row) % 50}",
                        "price": float(prices[row]),
                        "seen_ns": 1_700_000_000_000_000_000 + (first + row) * 1_000_003,
                    },
                    structure=structural[row],
                )
                for row, code in enumerate(codes)
            )
    return time.perf_counter() - start


def fill_with_codes(path: Path, count: int) -> None:
    """Create a gallery of custom codes."""
    rng = np.random.default_rng(0)
    with Gallery(path, bits=128) as gallery:
        for first in range(0, count, _BATCH):
            codes = rng.integers(0, 256, (min(_BATCH, count - first), 16), np.uint8)
            gallery.upsert(Item(str(first + row), code) for row, code in enumerate(codes))


def measure(script: str, *arguments: str) -> dict[str, float]:
    """Run a script in three new processes; returns the median of each figure it prints."""
    answers = []
    for _ in range(3):
        command = [sys.executable, "-c", script, *arguments]
        answers.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    return {name: statistics.median(answer[name] for answer in answers) for name in answers[0]}


def main() -> None:
    """Parse arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--codes", type=int, default=10_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shop.bitgaze"
        seconds = fill(path, options.items)
        megabytes = path.stat().st_size / 1e6
        print(f"filled with {options.items:,} items in {seconds:.0f} s, {megabytes:.0f} MB")
        for name, value in measure(_FILTERED, str(path), json.dumps(_WHERE)).items():
            print(f"{name:24} {value:,.2f}", flush=True)
        for name, value in measure(_CALLS, str(path)).items():
            print(f"{name:24} {value:,.3f}", flush=True)
        path = Path(folder) / "codes.bitgaze"
        fill_with_codes(path, options.codes)
        print(f"{path.stat().st_size / 1e6:.0f} MB of codes")
        for name, value in measure(_ONLY_OPENED, str(path)).items():
            print(f"{name:24} {value:,.2f}", flush=True)


if __name__ == "__main__":
    main()
