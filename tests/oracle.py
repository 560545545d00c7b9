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
