"""How many items, and how many relevant ones, lie at each Hamming distance from each query.

Knows codes and labels. What the counts say of quality is for metrics.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.labels import Labels, is_relevant
from bitgaze import HammingIndex

# Pairs looked at in one go: about 30 bytes each.
_BLOCK_PAIRS = 2_000_000


class Levels(NamedTuple):
    """How many items of a database lie at each distance from each query.

    Attributes:
        items: int64, (queries, bits + 1).
        relevant: int64, the same shape: those of them that are relevant.
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
    """Counts by distance, from bitgaze.HammingIndex; memory does not grow with the queries.

    Args:
        queries: codes, (q, bits // 8).
        labels_of_queries: as `is_relevant` takes them.
        database: codes, (n, bits // 8).
        labels: as `is_relevant` takes them.
        exclude: (q,), the one item of the database that a query is not to find: itself.

    Raises:
        ValueError: nothing in the database, or labels that do not go together.
    """
    if not len(database):
        raise ValueError("the database is empty")
    index = HammingIndex(8 * database.shape[1])
    index.add(database)
    columns = index.bits + 2  # the last takes what is excluded
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
    """Counts by distance, where queries and database are some of the same images.

    Args:
        codes: (n, bits // 8).
        labels: n of them, as `is_relevant` takes them.
        queries: positions among the n.
        database: positions among the n, without those of the queries; None for all n but the
            query itself.

    Raises:
        ValueError: as `levels`.
    """
    if database is None:
        return levels(codes[queries], labels[queries], codes, labels, exclude=queries)
    return levels(codes[queries], labels[queries], codes[database], labels[database])


def unordered(ranking: Levels) -> Levels:
    """The same items as one great tie: what a random order, or one code for all, would have."""
    return Levels(*(counts.sum(1, keepdims=True) for counts in ranking))
