"""USearch: an index of b1 vectors in a folder, and the items beside it (sidecar.py).

The key of a code is its row. A file alone can be read too if its keys are 0 to n - 1.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.interchange import sidecar
from bitgaze.interchange.content import Content
from bitgaze.interchange.description import Description
from bitgaze.interchange.extras import required

INDEX = "index.usearch"


def _usearch() -> Any:
    return required("usearch.index", "usearch", "usearch")


def write(folder: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the index and the items; holds the codes and the index's graph in memory."""
    usearch = _usearch()
    index = usearch.Index(
        ndim=description.bits, metric=usearch.MetricKind.Hamming, dtype=usearch.ScalarKind.B1
    )

    def add(first: int, codes: NDArray[np.uint8]) -> None:
        index.add(np.arange(first, first + len(codes), dtype=np.uint64), codes)

    sidecar.write(folder, description, batches, add)
    index.save(str(folder / INDEX))


def read(source: Path) -> Content:
    """The codes of an index, with the items beside it if there are any.

    Raises:
        InterchangeError: no such file, no index of b1 vectors, or one whose keys are not 0 to
            n - 1.
    """
    usearch = _usearch()
    path = source / INDEX if source.is_dir() else source
    if not path.is_file():
        raise InterchangeError(f"{path}: no such file")
    try:
        index = usearch.Index.restore(str(path), view=True)
    except (ValueError, RuntimeError) as error:
        raise InterchangeError(f"{path}: is not an index of USearch: {error}") from error
    if index.dtype != usearch.ScalarKind.B1 or index.metric_kind != usearch.MetricKind.Hamming:
        raise InterchangeError(
            f"{path}: holds {index.dtype} by {index.metric_kind}, expected B1 by Hamming"
        )

    def codes(start: int, end: int) -> NDArray[np.uint8]:
        found = index.get(np.arange(start, end, dtype=np.uint64))
        if any(code is None for code in found):
            raise InterchangeError(
                f"{path}: has no key {start + [code is None for code in found].index(True)}, "
                "expected keys from 0 without gaps"
            )
        return np.stack(found)

    return sidecar.read(source, index.ndim, len(index), codes)
