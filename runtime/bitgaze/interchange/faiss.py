"""FAISS: an `IndexBinaryFlat` in a folder, and the items beside it (sidecar.py).

The id of a code is its row, as `IndexBinaryFlat` numbers them. A file alone can be read too.
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

INDEX = "index.faiss"


def _faiss() -> Any:
    return required("faiss", "faiss-cpu", "faiss")


def write(folder: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the index and the items; holds the codes in memory."""
    faiss = _faiss()
    index = faiss.IndexBinaryFlat(description.bits)
    sidecar.write(folder, description, batches, lambda _, codes: index.add(codes))
    faiss.write_index_binary(index, str(folder / INDEX))


def read(source: Path) -> Content:
    """The codes of an index, with the items beside it if there are any.

    Raises:
        InterchangeError: no such file, or no `IndexBinaryFlat`.
    """
    faiss = _faiss()
    path = source / INDEX if source.is_dir() else source
    if not path.is_file():
        raise InterchangeError(f"{path}: no such file")
    try:
        index = faiss.read_index_binary(str(path))
    except RuntimeError as error:
        raise InterchangeError(f"{path}: is not a binary index of FAISS: {error}") from error
    if not isinstance(index, faiss.IndexBinaryFlat):
        raise InterchangeError(f"{path}: is a {type(index).__name__}, expected an IndexBinaryFlat")
    stored: NDArray[np.uint8] = faiss.vector_to_array(index.xb).reshape(-1, index.d // 8)
    return sidecar.read(source, index.d, index.ntotal, lambda start, end: stored[start:end])
