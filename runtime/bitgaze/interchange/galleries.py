"""Reads a gallery in batches of items, and writes batches into a new gallery; knows no engine."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bitgaze.errors import GalleryError, InterchangeError
from bitgaze.gallery.file_format import gallery_path, new_file
from bitgaze.gallery.items import Item
from bitgaze.gallery.store import Store
from bitgaze.interchange.content import Content, in_batches
from bitgaze.interchange.description import Description

_TIMEOUT_S = 5.0


class Reading(NamedTuple):
    """An open snapshot of a gallery.

    Attributes:
        content: of the gallery.
        thumbnails: adds up, while items are read, how many have a thumbnail, as its only entry.
    """

    content: Content
    thumbnails: list[int]


@contextmanager
def reading(path: Path) -> Iterator[Reading]:
    """Open a snapshot; others can read and write meanwhile.

    Raises:
        GalleryError: there is no such gallery.
        GalleryCorrupt: it is damaged.
    """
    with closing(Store(gallery_path(path), None, _TIMEOUT_S)) as store, store.reading():
        names = ("bits", "fingerprint", "model", "looks", "structure", "calibration")
        description = Description(
            **{name: store.info[name] for name in names},
            adaptation=store.info["adaptation"],
            adapted_calibration=store.info["adapted_calibration"],
            sources=store.sources,
            distinct=tuple(sorted(store.distinct_pairs())),
        )
        thumbnails = [0]
        items = _items(store, thumbnails)
        yield Reading(Content(description, len(store.index), in_batches(items)), thumbnails)


def _items(store: Store, thumbnails: list[int]) -> Iterator[Item]:
    for slot in range(len(store.index)):
        thumbnails[0] += store.thumbnail(slot) is not None
        yield store.item(slot)


def write_gallery(
    out: Path, description: Description, batches: Iterable[Sequence[Item]], source: Path
) -> int:
    """Write a new gallery; its name appears once it is complete.

    Args:
        out: the new file; must not exist.
        description: what the items have in common.
        batches: of items, in slot order.
        source: what they are read from, for messages.

    Returns:
        The number of items.

    Raises:
        GalleryError: `out` exists or cannot be written.
        InterchangeError: a key is there twice, or an item does not match the description.
    """
    with (
        new_file(gallery_path(out), "an import") as unfinished,
        closing(Store(unfinished, lambda: description.model_info, _TIMEOUT_S)) as store,
    ):
        if description.adaptation is not None:
            with store.writing():  # before there are items, whose codes are adapted already
                none = np.empty((0, 1 + description.looks, description.bits // 8), np.uint8)
                store.replace_codes(none, description.adaptation, description.adapted_calibration)
        try:
            for batch in batches:
                _put(store, batch)
        except (ValueError, TypeError) as error:
            raise InterchangeError(f"{source}: {error}") from error
        except GalleryError as error:  # its file has another name as yet
            raise type(error)(str(error).replace(str(unfinished), str(out))) from error
        with store.writing():
            for pair in description.distinct:
                store.set_distinct(*pair)
            store.remember(description.sources)
        count = len(store.index)
        store.checkpoint()  # closing checkpoints too, but does not report a full disk
    return count


def _put(store: Store, batch: Sequence[Item]) -> None:
    with store.writing():
        twice = [key for key, count in Counter(item.key for item in batch).items() if count > 1]
        twice = twice or [item.key for item in batch if store.find(item.key) is not None]
        if twice:
            raise ValueError(f"has two items with the key {twice[0]!r}")
        if not store.info["structure"]:
            extra = [item.key for item in batch if item.structure is not None]
            if extra:
                raise ValueError(
                    f"{extra[0]!r} has a structural code, but the description says there are none"
                )
        store.put_all(batch)
