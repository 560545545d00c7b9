"""Export: a gallery's items -> a flat file."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery.file_format import identity
from bitgaze.gallery.flat.header import WHOLE
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat
from bitgaze.gallery.store import Store

_BOX_BYTES = 8


def export_flat(
    store: Store,
    out: Path,
    on_progress: Callable[[int, int], None] | None = None,
    below: str = "",
) -> int:
    """Write a snapshot of a gallery as a flat file; returns the number of items.

    Args:
        store: the gallery's file; inside `reading`.
        out: the flat file.
        on_progress: called with (done, total) items.
        below: a prefix that is left out of keys.
    """
    if identity(str(out.resolve())) == identity(str(store.file.resolve())):
        raise GalleryError(f"{out}: is the gallery itself; choose another name")
    info = store.info
    origin = Origin(
        store.index.bits,
        info["looks"],
        info["fingerprint"],
        info["model"],
        info["adaptation"],
        store.calibration,
    )
    write_flat(out, origin, len(store.index), _batches(store, on_progress, below))
    return len(store.index)


def _batches(
    store: Store, on_progress: Callable[[int, int], None] | None, below: str
) -> Iterator[Batch]:
    records, total = store.records(), len(store.index)
    for first in range(0, total, BATCH_ITEMS):
        keys, metadata, packed = zip(*islice(records, BATCH_ITEMS), strict=True)
        slots = slice(first, first + len(keys))
        views = store.index[slots][:, None] if store.views is None else store.views[slots]
        boxes = _boxes(packed, store.info["looks"])
        if boxes is None:
            raise GalleryCorrupt(f"{store.path}: the boxes of an item from slot {first} on")
        yield Batch(views, boxes, [key.removeprefix(below) for key in keys], list(metadata))
        if on_progress is not None:
            on_progress(first + len(keys), total)
    for _ in records:  # their end is compared with the number of codes
        pass


def _boxes(packed: tuple[bytes | None, ...], looks: int) -> NDArray[np.uint16] | None:
    """The boxes of items, as stored, with free places filled up; None if one has too many."""
    whole = np.array(WHOLE, "<u2").tobytes()
    places = [b"" if boxes is None else boxes for boxes in packed]
    if any(len(boxes) % _BOX_BYTES or len(boxes) > looks * _BOX_BYTES for boxes in places):
        return None
    content = b"".join(boxes + whole * (looks - len(boxes) // _BOX_BYTES) for boxes in places)
    return np.frombuffer(content, "<u2").astype(np.uint16).reshape(len(packed), looks, 4)
