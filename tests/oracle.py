"""The specification of every search: naive and short. Do not optimise it."""

import math

import numpy as np
from numpy.typing import NDArray


def distances(codes: NDArray[np.uint8], queries: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Number of differing bits, 0 to 8 * code_bytes: int32, shape (q, n)."""
    differing = queries[:, None, :] ^ codes[None, :, :]
    return np.unpackbits(differing, axis=2).sum(axis=2, dtype=np.int32)


def search(
    codes: NDArray[np.uint8], queries: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and ids, shape (q, min(k, n)): ascending, ties by lower id (a stable sort)."""
    every = view_distances(codes, queries) if codes.ndim == 3 else distances(codes, queries)
    ids = np.argsort(every, axis=1, kind="stable")[:, :k].astype(np.int64)
    return np.take_along_axis(every, ids, axis=1), ids


def range_search(
    codes: NDArray[np.uint8],
    queries: NDArray[np.uint8],
    radius: int,
    k: int | None = None,
    allowed: NDArray[np.bool_] | None = None,
    exclude: NDArray[np.int64] | None = None,
) -> list[list[tuple[int, int]]]:
    """For each query a sorted list of (distance, id), without ids not allowed or excluded."""
    results = []
    every = view_distances(codes, queries) if codes.ndim == 3 else distances(codes, queries)
    for q, row in enumerate(every.tolist()):
        found = [(distance, i) for i, distance in enumerate(row) if distance <= radius]
        if allowed is not None:
            found = [(distance, i) for distance, i in found if i < len(allowed) and allowed[i]]
        if exclude is not None:
            found = [(distance, i) for distance, i in found if i != exclude[q]]
        results.append(sorted(found)[:k])
    return results


def view_distances(items: NDArray[np.uint8], queries: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Symmetric Chamfer distance between (n, views, bytes) and (q, views, bytes): int32, (q, n)."""
    (n, item_views, code_bytes), (q, query_views) = items.shape, queries.shape[:2]
    pairs = distances(items.reshape(-1, code_bytes), queries.reshape(-1, code_bytes))
    pairs = pairs.reshape(q, query_views, n, item_views)
    of_queries, of_items = pairs.min(axis=3).sum(axis=1), pairs.min(axis=1).sum(axis=2)
    multiple = math.lcm(query_views, item_views)
    return multiple // query_views * of_queries + multiple // item_views * of_items
