"""What a search must return: the specification, naive and short. Never to be made fast."""

import numpy as np
from numpy.typing import NDArray


def distances(codes: NDArray[np.uint8], queries: NDArray[np.uint8]) -> NDArray[np.int32]:
    """How many bits differ: int32, shape (q, n)."""
    differing = queries[:, None, :] ^ codes[None, :, :]
    return np.unpackbits(differing, axis=2).sum(axis=2, dtype=np.int32)


def search(
    codes: NDArray[np.uint8], queries: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Ascending by distance, ties by lower id: what a stable sort of all distances gives."""
    every = distances(codes, queries)
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
    """For each query its (distance, id), in that order; only allowed ids, and not the excluded."""
    results = []
    for q, row in enumerate(distances(codes, queries).tolist()):
        found = [(distance, i) for i, distance in enumerate(row) if distance <= radius]
        if allowed is not None:
            found = [(distance, i) for distance, i in found if i < len(allowed) and allowed[i]]
        if exclude is not None:
            found = [(distance, i) for distance, i in found if i != exclude[q]]
        results.append(sorted(found)[:k])
    return results
