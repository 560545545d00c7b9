"""What answers say about items and hits: name, size, and which hits are copies of one another."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.hits import Hit, first_copies, percent
from bitgaze.gallery.items import Item
from bitgaze.gallery.words import WordHit


def name_of(key: str) -> str:
    """A name to show for a key: that of the file, if it is a path."""
    return os.path.basename(key) or key  # noqa: PTH119 (a key need not be a path)


def item_to_json(item: Item) -> dict[str, Any]:
    """What every answer says about an item.

    Returns:
        key; a name to show; whether it has an image; its width and height in pixels, upright, None
        if they are not known.
    """
    return _item_to_json(item.key, item.path, item)


def items_to_json(gallery: Gallery, found: Iterable[Hit]) -> list[dict[str, Any]]:
    """The same of the items that a search found."""
    return [_item_to_json(hit.key, hit.path, gallery.get(hit.key, None)) for hit in found]


def hits_to_json(gallery: Gallery, hits: Sequence[Hit | WordHit]) -> list[dict[str, Any]]:
    """Hits, each with `copy_of`: the key of an earlier hit that it is a copy of, or None."""
    # Another process may have removed an item since the search.
    items = [gallery.get(hit.key, None) for hit in hits]
    copies = _copies(items)
    return [
        _facts(hit)
        | _item_to_json(hit.key, hit.path, item)
        | {"copy_of": None if copy is None else hits[copy].key}
        for hit, item, copy in zip(hits, items, copies, strict=True)
    ]


def _item_to_json(key: str, path: str | None, item: Item | None) -> dict[str, Any]:
    properties = (item.properties if item else None) or {}
    size = {side: properties.get(side) for side in ("width", "height")}
    return {"key": key, "name": name_of(key), "has_image": path is not None} | size


def _facts(hit: Hit | WordHit) -> dict[str, Any]:
    facts = asdict(hit)
    del facts["path"]
    if isinstance(hit, WordHit):
        return facts | {"chances": {"shows it": percent(hit.probability)}}
    del facts["alike"]  # of a search that folds copies; here `copy_of` says it
    return facts | {"chances": hit.chances}


def _copies(items: Sequence[Item | None]) -> list[int | None]:
    unknown = np.zeros(STRUCTURE_BITS // 8, np.uint8)
    codes = [
        unknown if item is None or item.structure is None else item.structure for item in items
    ]
    contents = [item.file.content if item and item.file else None for item in items]
    return first_copies(np.array(codes, np.uint8).reshape(-1, len(unknown)), contents)
