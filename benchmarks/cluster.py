"""Four nodes on one machine: do they answer as one gallery, is anything lost, what does Ray cost?

    python benchmarks/cluster.py [--items 1000000] [--images 2400] [--part encode|kill|sizes|search]

Starts a Ray cluster of four nodes with one CPU each and, in a temporary folder,
    encode  encodes copies of the example images with Ray, and at the same time with the same four
            workers as plain processes, and compares images a second;
    kill    encodes again while two of the nodes are killed, and checks that each image is there
            once, and that no finished shard was made again;
    sizes   encodes the example images with looks, in this process, and measures what an item takes
            in Parquet, in a gallery file and in a replica's memory (there with random items);
    search  compares the hits among items of four views, in eight shards, with those of one gallery
            of all of them: by `search` while a node is killed, and by `ShardedGallery`, also while
            a replica's node is killed.

Prints the machine's load with each figure: nodes share its cores.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bitgaze import Encoder, Gallery, Hit, Item
from bitgaze.distributed import ShardedGallery, encode, search
from bitgaze.distributed.output import gallery as gallery_of
from bitgaze.distributed.output import plan_offsets, write_manifest, write_plan
from bitgaze.distributed.plan import plan
from bitgaze.distributed.samples import Columns
from bitgaze.distributed.worker import Worker, make_gallery, make_shard
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.interchange import parquet
from bitgaze.interchange.description import Description
from bitgaze.interchange.galleries import write_gallery

_RESIDENT_ITEMS = 500_000
_RESIDENT = """
import numpy as np
from bitgaze.distributed.replica import Replica
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import SearchParams
def resident():
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024
before = resident()
replica = Replica({paths})
query = Query(np.zeros((4, 16), np.uint8), (None,) * 4, None, np.ones(32, np.uint8))
replica.candidates(query, SearchParams(10, None, ()))
items = sum(one.items for one in replica.facts())
print(f"{{(resident() - before) / items:.0f}} bytes of memory each, and {{before / 1e6:.0f}} MB")
"""
Codes = NDArray[np.uint8]
_NODES, _SHARD_IMAGES = 4, 20
_SHARDS, _BITS, _LOOKS, _QUERIES, _K = 8, 128, 3, 200, 10
_PICTURES = Path(__file__).parent.parent / "examples" / "pictures"
_QUICK = {  # a dead node is noticed within seconds
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 3000,
    "health_check_failure_threshold": 3,
}
_NODE = {"num_cpus": 1, "object_store_memory": 200_000_000}


def say(*words: object) -> None:
    print(f"[{time.strftime('%H:%M:%S')}, load {os.getloadavg()[0]:.1f}]", *words, flush=True)


@contextmanager
def cluster() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of four nodes, and a head without CPUs; yields it and the nodes."""
    ray = connected_later()
    from ray.cluster_utils import Cluster

    head = _NODE | {"num_cpus": 0, "include_dashboard": False, "_system_config": _QUICK}
    running = Cluster(initialize_head=True, head_node_args=head)
    nodes = [running.add_node(**_NODE) for _ in range(_NODES)]
    ray.init(address=running.address, log_to_driver=False)
    try:
        yield running, nodes
    finally:
        ray.shutdown()
        running.shutdown()


def connected_later() -> Any:
    """The module ray, not connected yet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (as plain processes)
    import ray

    return ray


def copies(folder: Path, count: int) -> Path:
    """Copies of the example images under `count` names."""
    pictures = sorted(path for path in _PICTURES.rglob("*") if path.is_file())
    folder.mkdir()
    for number in range(count):
        path = pictures[number % len(pictures)]
        shutil.copy(path, folder / f"{number:06d}{path.suffix}")
    return folder


def work(arguments: dict[str, Any], rows: list[tuple[int, int]]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    worker = Worker(**arguments)
    for number, offset in rows:
        worker({"number": np.array([number]), "offset": np.array([offset])})


def description_of(encoder: Encoder, looks: int) -> Description:
    contract = encoder.contract
    calibration = contract.calibration_of(looks)
    return Description(
        encoder.bits, encoder.fingerprint, contract.name, looks, STRUCTURE_BITS, calibration
    )


def encode_plainly(out: Path, images: Path) -> None:
    """The same shards by four processes without Ray."""
    out.mkdir()
    write_plan(out, plan(images, None, _SHARD_IMAGES))
    arguments = {
        "out": str(out),
        "description": description_of(Encoder(), 0).to_text(),
        "model": None,
        "columns": Columns(),
        "threads": 1,
    }
    rows = list(enumerate(plan_offsets(out)))
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=work, args=(arguments, rows[n::_NODES])) for n in range(_NODES)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0


def compare_rates(folder: Path, images: Path) -> None:
    """Both at the same time, so that both see the same load."""
    out = folder / "ray", folder / "plain"
    with cluster():
        plainly = threading.Thread(target=encode_plainly, args=(out[1], images))
        plainly.start()
        say(encode(images, out[0], shard_images=_SHARD_IMAGES, looks=0))
        plainly.join()
    ends = [sorted(path.stat().st_mtime for path in one.glob("part-*.json")) for one in out]
    # While all workers of both are at work: without the first and last shard of each.
    start, end = max(one[_NODES - 1] for one in ends), min(one[-_NODES] for one in ends)
    done = [sum(start < time_s <= end for time_s in one) for one in ends]
    rates = [_SHARD_IMAGES * count / (end - start) for count in done]
    say(
        f"in {end - start:.0f} s with Ray {done[0]} shards, {rates[0]:.1f} images/s, without "
        f"{done[1]}, {rates[1]:.1f}: {done[0] / done[1]:.2f}"
    )


def encode_and_kill(folder: Path, images: Path, count: int) -> None:
    """Two of four nodes are killed, one after a quarter of the shards, one after half."""
    out = folder / "killed"
    finished = {}
    with cluster() as (running, nodes):

        def kill(done: int, total: int) -> None:
            if nodes and len(nodes) > 2 and done >= total * (_NODES + 1 - len(nodes)) / 4:
                running.remove_node(nodes.pop(), allow_graceful=False)
                finished.update(
                    (path, path.stat().st_mtime_ns)
                    for path in out.glob("part-*.json")
                    if path not in finished
                )
                say(f"killed a node after {done} of {total} shards")

        report = encode(images, out, shard_images=_SHARD_IMAGES, looks=0, on_progress=kill)
    assert len(nodes) == 2
    keys = Counter()
    for path in sorted(out.glob("*.parquet")):
        keys.update(pq.read_table(path, columns=["key"]).column("key").to_pylist())
    assert report.items == len(keys) == count, (report, len(keys), count)
    assert set(keys.values()) == {1}
    again = [path for path, time_ns in finished.items() if path.stat().st_mtime_ns != time_ns]
    assert not again, again
    say(
        f"two nodes killed: {len(keys)} images, each once; none of {len(finished)} finished shards "
        "was made again"
    )


def random_items(count: int, seed: int, structure_bits: int = 0) -> Iterator[list[Item]]:
    """Items of four views around a few hundred centres, so that many distances tie."""
    random = np.random.default_rng(seed)
    width = _BITS // 8
    centres = np.random.default_rng(0).integers(0, 256, (500, width), np.uint8)
    for start in range(0, count, 4096):
        n = min(4096, count - start)
        flips = random.integers(0, 256, (3, n, 1 + _LOOKS, width), dtype=np.uint8)
        views = centres[random.integers(0, 500, n)][:, None] ^ np.bitwise_and.reduce(flips)
        structures = random.integers(1, 256, (n, structure_bits // 8), np.uint8)
        sides = np.sort(random.integers(0, 65536, (n, _LOOKS, 2, 2)), axis=2) / 65535
        boxes = sides.reshape(n, _LOOKS, 4).astype(np.float32)
        yield [
            Item(
                f"{seed}/{start + i}",
                views[i, 0],
                {"n": start + i},
                None,
                views[i, 1:],
                boxes[i],
                structures[i] if structure_bits else None,
            )
            for i in range(n)
        ]


def make_shards(folder: Path, count: int, structure_bits: int = 0) -> tuple[Path, Description]:
    """Shards of random items as Parquet files."""
    out = folder / "shards"
    out.mkdir(exist_ok=True)
    description = Description(_BITS, "f" * 64, "random", _LOOKS, structure_bits)
    for number in range(_SHARDS):
        path = out / f"part-{number:06d}.parquet"
        if not path.exists():
            parquet.write(path, description, random_items(count // _SHARDS, number, structure_bits))
    entries = {"shards": _SHARDS, "is_complete": True, "shards_per_gallery": 1}
    write_manifest(out, entries)
    return out, description


def measure_sizes(folder: Path) -> None:
    out = folder / "sizes"
    out.mkdir()
    encoder = Encoder(threads=2)
    description = description_of(encoder, _LOOKS)
    write_plan(out, plan(_PICTURES, None, 10_000))
    start = time.process_time()
    make_shard(out, 0, 0, encoder, description, Columns())
    took_s = time.process_time() - start
    make_gallery(out, 0, range(1))
    count = parquet.read(out).total
    sizes = [path.stat().st_size for path in (out / "part-000000.parquet", gallery_of(out, 0))]
    say(
        f"{count} images with {_LOOKS} looks: {1000 * took_s / count:.1f} ms of processor time "
        f"each; Parquet {sizes[0] / count:.0f} bytes, gallery {sizes[1] / count:.0f} bytes each"
    )
    shards, _ = make_shards(folder, _RESIDENT_ITEMS, STRUCTURE_BITS)
    for number in range(_SHARDS):
        make_gallery(shards, number, range(number, number + 1))
    galleries = sorted(shards.glob("*.bitgaze"))
    stored = sum(path.stat().st_size for path in galleries) / _RESIDENT_ITEMS
    script = _RESIDENT.format(paths=[str(path) for path in galleries])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    say(
        f"{_RESIDENT_ITEMS} items in a replica: {done.stdout.strip()}; in {_SHARDS} galleries "
        f"without properties and classes {stored:.0f} bytes each"
    )
    shutil.rmtree(shards)


def compare_hits(folder: Path, count: int) -> None:
    out, description = make_shards(folder, count)
    path = folder / "one.bitgaze"
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        made = [
            pool.submit(make_gallery, out, number, range(number, number + 1))
            for number in range(_SHARDS)
        ]
        if not path.exists():
            write_gallery(path, description, parquet.read(out).batches, out)
        for one in made:
            one.result()
    say(f"made {count} items of {1 + _LOOKS} views in {_SHARDS} shards, and one gallery of them")
    queries = np.stack([item.looks for item in next(random_items(_QUERIES, 0))])
    queries = np.concatenate([queries, queries[:, :1] ^ 1], axis=1)
    with Gallery(path, create=False) as gallery:
        start = time.perf_counter()
        expected = gallery.search_codes(queries, _K)
        say(
            f"one gallery: {1000 * (time.perf_counter() - start) / _QUERIES:.2f} ms a query in a "
            f"batch of {_QUERIES}"
        )
        start = time.perf_counter()
        for query in queries[:20]:
            gallery.search_code(query, _K)
        say(f"one gallery: {1000 * (time.perf_counter() - start) / 20:.1f} ms for one query")
    ties = sum(one.distance == other.distance for hits in expected for one, other in pairwise(hits))
    with cluster() as (running, nodes):
        compare_batch(out, queries, expected, running, nodes)
        nodes.append(running.add_node(**_NODE))
        compare_served(out, queries, expected, running, nodes)
    say(
        f"all hits identical with those of one gallery; {ties} of {_QUERIES * (_K - 1)} neighbours "
        "are ties"
    )


def compare_batch(
    out: Path, queries: Codes, expected: list[list[Hit]], running: Any, nodes: list[Any]
) -> None:
    for is_killing in (False, True):
        if is_killing:
            timer = threading.Timer(
                1.5, lambda: running.remove_node(nodes.pop(), allow_graceful=False)
            )
            timer.start()
        start = time.perf_counter()
        table = search(queries, out, _K)
        took_s = time.perf_counter() - start
        if is_killing:
            timer.join()
        rows = table.to_pylist()
        found = [[] for _ in queries]
        for row in rows:
            box = None if row["box"] is None else tuple(row["box"].values())
            found[row["query"]].append((row["key"], row["distance"], box))
        wanted = [[(hit.key, hit.distance, hit.box) for hit in hits] for hits in expected]
        assert found == wanted
        say(
            f"search over Parquet{', a node killed' * is_killing}: {took_s:.1f} s for "
            f"{_QUERIES} queries"
        )


def compare_served(
    out: Path, queries: Codes, expected: list[list[Hit]], running: Any, nodes: list[Any]
) -> None:
    with ShardedGallery(out, groups=_NODES, timeout_s=300) as sharded:
        say(sharded, f"of {len(sharded)} items")
        times = []
        for query, hits in zip(queries, expected, strict=True):
            start = time.perf_counter()
            found = sharded.search_code(query, _K)
            times.append(1000 * (time.perf_counter() - start))
            assert list(found) == hits
        say(
            f"served: median {statistics.median(times):.1f} ms a query, 99th of 100 "
            f"{np.percentile(times, 99):.1f}"
        )
        running.add_node(**_NODE)  # each of the others has a replica, and no place for another
        running.remove_node(nodes.pop(0), allow_graceful=False)
        times = []
        for query, hits in zip(queries[:50], expected, strict=False):
            start = time.perf_counter()
            found = sharded.search_code(query, _K)
            times.append(time.perf_counter() - start)
            assert list(found) == hits
        say(f"served, a node killed: identical; the longest query waited {max(times):.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--images", type=int, default=2400)
    parser.add_argument("--part", choices=["encode", "kill", "sizes", "search"])
    parser.add_argument("--folder", help="keep the files here, and use those that are there")
    arguments = parser.parse_args()
    kept = nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory()
    with kept as name:
        folder = Path(name)
        if arguments.part in (None, "encode", "kill"):
            images = copies(folder / "images", arguments.images)
        if arguments.part in (None, "encode"):
            compare_rates(folder, images)
        if arguments.part in (None, "kill"):
            encode_and_kill(folder, images, arguments.images)
        if arguments.part in (None, "sizes"):
            measure_sizes(folder)
        if arguments.part in (None, "search"):
            compare_hits(folder, arguments.items)


if __name__ == "__main__":
    main()
