"""Blocks: some rows of a Parquet file, searched by themselves; and the merge of what they find.

A table of matches has the columns
    query     int64: number of the query
    distance  int64: the sum of `ViewIndex`, or the Hamming distance
    file      int64: number of the file
    row       int64: number of the row in it
    key       string
    metadata  string: a JSON object; null if the file has none
    box       struct<x0, y0, x1, y1: float>: where the item matches best; null for the whole image
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import ClusterError, InterchangeError
from bitgaze.gallery.distances import nearest_pairs
from bitgaze.hamming import HammingIndex
from bitgaze.interchange.parquet import (
    CORNERS,
    Arrow,
    box_type,
    codes_of,
    opened,
    pyarrow,
    row_group_runs,
)
from bitgaze.views import ViewIndex

_COLUMNS = ("key", "code", "looks", "boxes", "metadata")
# Matches that a block hands over at a time.
_MOST_MATCHES = 1 << 20


class Block(NamedTuple):
    """Some row groups of a Parquet file.

    Attributes:
        file: number of the file.
        path: of the file.
        first: number of the first row group.
        end: number of the row group after the last.
        row: number of the first row.
    """

    file: int
    path: str
    first: int
    end: int
    row: int


def blocks_of(paths: Sequence[str], most_rows: int) -> Iterator[Block]:
    """Divide files into blocks of up to `most_rows` rows; row groups stay whole."""
    for number, path in enumerate(paths):
        with opened(Path(path)) as file:
            runs = list(row_group_runs(file, most_rows))
        yield from (Block(number, path, *run) for run in runs)


def search_block(
    block: Block, queries: NDArray[np.uint8], k: int, looks: int, threads: int
) -> Iterator[Arrow]:
    """The k nearest items of a block to each query, ties by row, as tables of matches.

    Args:
        block: where the items are.
        queries: uint8, (q, query views, bits // 8); of one view if items have no looks.
        k: maximum number of matches of each query.
        looks: how many looks an item has at most.
        threads: maximum number of threads.

    Raises:
        ClusterError: an item has more looks than that.
        InterchangeError: the file is damaged.
    """
    with opened(Path(block.path)) as file:
        names = [name for name in _COLUMNS if name in file.schema_arrow.names]
        try:
            table = file.read_row_groups(range(block.first, block.end), names, use_threads=False)
        except (OSError, pyarrow().ArrowInvalid) as error:
            raise InterchangeError(f"{block.path}: is damaged: {error}") from error
    items = table.combine_chunks().to_batches()[0]
    views, boxes = _views(items, looks, block.path)
    index: HammingIndex | ViewIndex
    if looks:
        index = ViewIndex(8 * views.shape[2], views.shape[1])
        index.add(views)
    else:
        index = HammingIndex(8 * views.shape[2])
        index.add(np.ascontiguousarray(views[:, 0]))
    step = max(1, _MOST_MATCHES // k)
    for start in range(0, len(queries), step):
        some = queries[start : start + step]
        codes = np.ascontiguousarray(some if looks else some[:, 0])
        distances, ids = index.search(codes, k, threads=threads)
        rows, count = ids.ravel(), ids.shape[1]
        of_item = np.zeros(len(rows), np.int64)
        for at, query in enumerate(some) if looks else ():
            found = slice(at * count, (at + 1) * count)
            of_item[found] = nearest_pairs(query, views[rows[found]])[1]
        numbers = np.repeat(np.arange(start, start + len(some)), count)
        yield _matches(block, items, numbers, distances.ravel(), rows, boxes[rows, of_item])


def _views(items: Arrow, looks: int, path: str) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and boxes of items and their looks: (n, 1 + looks, ...); NaN for the whole image."""
    codes = codes_of(items)
    views = np.repeat(codes[:, None], 1 + looks, axis=1)
    boxes = np.full((len(codes), 1 + looks, 4), np.nan, np.float32)
    if not looks:
        return views, boxes
    column = items.column("looks")
    lengths = column.value_lengths().to_numpy()
    if len(lengths) and lengths.max() > looks:
        raise ClusterError(f"{path}: an item has {lengths.max()} looks, expected at most {looks}")
    item = np.repeat(np.arange(len(codes)), lengths)
    place = 1 + np.arange(len(item)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    views[item, place] = codes_of(pyarrow().record_batch({"code": column.flatten()}))
    corners = items.column("boxes").flatten()
    boxes[item, place] = np.stack([corners.field(name).to_numpy() for name in CORNERS], axis=1)
    return views, boxes


def _matches(
    block: Block,
    items: Arrow,
    numbers: NDArray[np.int64],
    distances: NDArray[np.int32],
    rows: NDArray[np.int64],
    boxes: NDArray[np.float32],
) -> Arrow:
    pa = pyarrow()
    taken = pa.array(rows)
    is_whole = np.isnan(boxes[:, 0])
    sides = [pa.array(np.ascontiguousarray(side)) for side in np.nan_to_num(boxes).T]
    box = pa.StructArray.from_arrays(sides, fields=list(box_type()), mask=pa.array(is_whole))
    metadata = pa.nulls(len(rows), pa.string())
    if "metadata" in items.schema.names:
        metadata = items.column("metadata").take(taken)
    return pa.table(
        {
            "query": numbers,
            "distance": distances.astype(np.int64),
            "file": np.full(len(rows), block.file),
            "row": block.row + rows,
            "key": items.column("key").take(taken),
            "metadata": metadata,
            "box": box,
        }
    )


def no_matches() -> Arrow:
    """A table of matches without rows."""
    pa = pyarrow()
    names = ("query", "distance", "file", "row")
    fields = [*((name, pa.int64()) for name in names), ("key", pa.string())]
    return pa.schema([*fields, ("metadata", pa.string()), ("box", box_type())]).empty_table()


def nearest(matches: Sequence[Arrow], k: int) -> Arrow:
    """Of tables of matches, the k nearest of each query.

    Returns:
        A table of matches, by query, then distance; ties by file, then row.
    """
    table = pyarrow().concat_tables(matches)
    query, distance, file, row = (
        table.column(name).to_numpy() for name in ("query", "distance", "file", "row")
    )
    order = np.lexsort((row, file, distance, query))
    starts = np.searchsorted(query[order], query[order])
    return table.take(order[np.arange(len(order)) - starts < k])
