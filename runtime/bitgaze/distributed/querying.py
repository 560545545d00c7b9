"""Search on a cluster: Ray Data has each block of Parquet files searched; here they are merged."""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import MAX_VIEWS, check_array, hit_count
from bitgaze.distributed.blocks import Block, blocks_of, nearest, no_matches, search_block
from bitgaze.distributed.cluster import (
    connected,
    cpus_per_worker,
    most_workers,
    node_cpus,
    ray_data,
)
from bitgaze.distributed.output import MANIFEST, complete_manifest, part
from bitgaze.errors import ClusterError
from bitgaze.interchange.description import Description
from bitgaze.interchange.parquet import Arrow, pyarrow, read_files
from bitgaze.views import ViewIndex

# Of a block: about 100 MB with keys, metadata and the codes of four views.
_MOST_ROWS = 1 << 18
# Matches that are held before they are merged, for each that will remain.
_HELD = 8
_LEAST_HELD = 1 << 16
# Tasks for each that can run at the same time, so that none waits long for the last.
_TASKS_PER_PLACE = 4
# Tasks whose matches another merges, if there are many: else the program that called would have to.
_MERGED, _LEAST_MERGED = 16, 256

Dataset = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def search(
    queries: NDArray[np.uint8],
    dataset: Dataset,
    k: int = 10,
    *,
    cpus: int = 1,
) -> Arrow:
    """Find the k nearest items of each of many queries among the items of Parquet files; exact.

    Every item is compared with every query, a block of up to 262,144 rows at a time. If a worker or
    its machine is lost, another searches the block. Reading the files takes most of the time where
    there are few queries: `ShardedGallery` keeps the codes in memory.

    Args:
        queries: uint8, (q, bits // 8), or (q, query views, bits // 8): all views of images, as
            `Encoder.encode(images, looks=...).views` has them.
        dataset: a folder that `encode` has written, a folder of Parquet files, a file, or several
            files; as `bitgaze export --to parquet` writes them.
        k: maximum number of matches of each query, at least 1.
        cpus: CPUs, and threads, for a block.

    Returns:
        A `pyarrow.Table` with a row for each match, by query, then by distance; ties in the order
        of files and rows, which is that of one gallery of all items:
            query     int64: position of the query
            distance  float64: in bits, as `Hit.distance`
            key       string
            file      int64: position of the file in the folder, by name, or in the list
            row       int64: position in the file
            metadata  string: a JSON object; null if the file has none
            box       struct<x0, y0, x1, y1: float>: the part of the item's image that matches best;
                      null for the whole image

    Raises:
        ClusterError: ray is not installed, no machine has `cpus` CPUs, the encoding is not
            complete, or there is no file.
        InterchangeError: a file is missing, damaged or of another schema.
        FingerprintMismatch: the files' codes are of different models.
        TypeError: queries is not a uint8 array, or k or cpus is not an integer.
        ValueError: queries have another length or number of views than the items; k or cpus < 1.
    """
    check_array(queries, "queries")
    k = hit_count(k)
    paths = _paths(dataset)
    if not paths:
        raise ClusterError("no Parquet files: the folder, or the list, holds none")
    description = read_files(list(map(Path, paths))).description
    views = _checked(queries, description)
    blocks = list(blocks_of(paths, _MOST_ROWS))
    unit = 1
    if description.looks:
        unit = ViewIndex(description.bits, 1 + description.looks).unit(views.shape[1])
    held: list[Arrow] = []
    held_rows = 0
    for matches in _found(blocks, views, k, description.looks, cpus):
        held.append(matches)
        held_rows += len(matches)
        if held_rows > max(_LEAST_HELD, _HELD * k * len(views)):
            held = [nearest(held, k)]
            held_rows = len(held[0])
    if not held:
        held = [no_matches()]
    merged = nearest(held, k)
    distances = merged.column("distance").to_numpy() / unit
    names = ["query", "distance", "key", "file", "row", "metadata", "box"]
    return merged.set_column(1, "distance", pyarrow().array(distances)).select(names)


def _paths(dataset: Dataset) -> list[str]:
    if not isinstance(dataset, str | os.PathLike):
        return [str(Path(path).absolute()) for path in dataset]
    folder = Path(dataset).absolute()  # workers run in other folders
    if not folder.is_dir():
        return [str(folder)]
    if (folder / MANIFEST).exists():
        count = complete_manifest(folder)["shards"]
        return [str(part(folder, number, "parquet")) for number in range(count)]
    return sorted(str(path) for path in folder.glob("*.parquet"))


def _checked(queries: NDArray[np.uint8], description: Description) -> NDArray[np.uint8]:
    width = description.bits // 8
    if queries.ndim not in (2, 3) or queries.shape[-1] != width:
        raise ValueError(
            f"queries have shape {queries.shape}, but the items' codes have {width} bytes each: "
            f"expected (q, {width}) or (q, views, {width})"
        )
    views = queries if queries.ndim == 3 else queries[:, None]
    most = MAX_VIEWS if description.looks else 1
    if not 1 <= views.shape[1] <= most:
        raise ValueError(f"queries have {views.shape[1]} views, expected 1 to {most} for the items")
    return views


def _found(
    blocks: list[Block], queries: NDArray[np.uint8], k: int, looks: int, cpus: int
) -> Iterator[Arrow]:
    """Tables of matches of all blocks, as they are found."""
    if not blocks or not len(queries):
        return
    ray = connected()
    nodes = node_cpus(ray)
    cpus = cpus_per_worker(nodes, cpus)
    shared = ray.put(queries)
    tasks = min(len(blocks), _TASKS_PER_PLACE * most_workers(nodes, cpus))
    bounds = [len(blocks) * n // tasks for n in range(tasks + 1)]
    rows = [{"blocks": json.dumps(blocks[start:end])} for start, end in pairwise(bounds)]

    def search_some(row: dict[str, Any]) -> Arrow:
        held: list[Arrow] = []
        for block in json.loads(row["blocks"][0]):
            matches = search_block(Block(*block), ray.get(shared), k, looks, cpus)
            held = [nearest([*held, *matches], k)]
        return held[0]

    def merge(matches: Arrow) -> Arrow:
        return nearest([matches], k)

    with ray_data(ray):
        found = ray.data.from_items(rows, override_num_blocks=tasks)
        found = found.map_batches(search_some, batch_size=1, num_cpus=cpus)
        if tasks >= _LEAST_MERGED:
            size = _MERGED * k * len(queries)
            found = found.map_batches(merge, batch_size=size, batch_format="pyarrow")
        yield from found.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
