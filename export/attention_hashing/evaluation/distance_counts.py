"""The number of items, and of relevant items, at each distance from each query.

metrics.py derives all figures from these counts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.labels import Labels, is_relevant
from bitgaze import HammingIndex, ViewIndex

# Pairs per block, at about 30 bytes each.
_BLOCK_PAIRS = 2_000_000


class Levels(NamedTuple):
    """The number of database items at each distance from each query.

    Attributes:
        items: int64, (queries, largest distance + 1).
        relevant: int64, as `items`, counting relevant items only.
    """

    items: NDArray[np.int64]
    relevant: NDArray[np.int64]


def levels(
    queries: NDArray[np.uint8],
    labels_of_queries: Labels,
    database: NDArray[np.uint8],
    labels: Labels,
    exclude: NDArray[np.intp] | None = None,
) -> Levels:
    """Count by distance, with bitgaze's own search; memory does not grow with the queries.

    Args:
        queries: codes, (q, bits // 8), for Hamming distances; or (q, views, bits // 8), for those
            of bitgaze.ViewIndex.
        labels_of_queries: as for `is_relevant`.
        database: codes, (n, bits // 8) or (n, views, bits // 8).
        labels: as for `is_relevant`.
        exclude: (q,), for each query one database item to leave out, usually itself.

    Raises:
        ValueError: the database is empty, or the labels have different forms.
    """
    if not len(database):
        raise ValueError("the database is empty")
    bits = 8 * database.shape[-1]
    index: HammingIndex | ViewIndex
    if database.ndim == 2:
        index, farthest = HammingIndex(bits), bits
    else:
        index = ViewIndex(bits, database.shape[1])
        farthest = index.unit(queries.shape[1]) * bits
    index.add(database)
    columns = farthest + 2  # the last one is for excluded items
    step = max(1, _BLOCK_PAIRS // len(database))
    items: list[NDArray[np.int64]] = []
    relevant: list[NDArray[np.int64]] = []
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        distances, ids = index.search(
            queries[part], len(database), exclude=None if exclude is None else exclude[part]
        )
        right = np.take_along_axis(is_relevant(labels_of_queries[part], labels), ids, axis=1)
        cells = distances + columns * np.arange(len(distances))[:, None]
        for found, chosen in ((items, cells.ravel()), (relevant, cells[right])):
            counts = np.bincount(chosen, minlength=columns * len(distances))
            found.append(counts.reshape(-1, columns)[:, :-1])
    return Levels(np.concatenate(items), np.concatenate(relevant))


def levels_among(
    codes: NDArray[np.uint8],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp] | None = None,
) -> Levels:
    """Count by distance where queries and database belong to one set of images.

    Args:
        codes: (n, bits // 8) or (n, views, bits // 8), as for `levels`.
        labels: n of them, as for `is_relevant`.
        queries: positions in the set.
        database: positions in the set, none of them a query; None for all n except the query.

    Raises:
        ValueError: as for `levels`.
    """
    if database is None:
        return levels(codes[queries], labels[queries], codes, labels, exclude=queries)
    return levels(codes[queries], labels[queries], codes[database], labels[database])


def unordered(ranking: Levels) -> Levels:
    """The same items, all tied: the counts of a random order, or of one code for all."""
    return Levels(*(counts.sum(1, keepdims=True) for counts in ranking))
