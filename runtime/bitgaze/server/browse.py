"""What a person may start from: a few items, and what can be filtered by.

Knows the gallery. Looks at a sample of it, so that a large one takes no longer than a small one.
"""

import os
from collections import Counter
from typing import Any

import numpy as np

from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.items import Item
from bitgaze.gallery.search import Hit

_QUERIES, _HITS_EACH, _SHOWN = 40, 25, 24
_MOST_VALUES, _MOST_FOLDERS, _LONGEST_VALUE = 30, 60, 80


def browse(gallery: Gallery) -> dict[str, Any]:
    """Some items, spread over the gallery, and the folders and metadata of a larger sample.

    Returns:
        items: up to 24, each with key, name and has_image.
        folders: of the keys that are paths, each with path and name, the name below what all have
            in common; by name.
        fields: of metadata, each with name, kind and values. Of kind "number": the least and the
            greatest; "choice": all, if they are few; "text": none.
        sampled: how many items were looked at.
    """
    sample = _spread(gallery)
    shown = [item for item in sample if item.path is not None] or sample
    step = -(-len(shown) // _SHOWN) or 1
    return {
        "items": [to_json(item) for item in shown[::step]],
        "folders": _folders(sample),
        "fields": _fields(sample),
        "sampled": len(sample),
    }


def to_json(item: Item | Hit) -> dict[str, Any]:
    """What every answer says of an item: its key, a name to show, and whether it has an image."""
    name = os.path.basename(item.key) or item.key  # noqa: PTH119 (a key need not be a path)
    return {"key": item.key, "name": name, "has_image": item.path is not None}


def _spread(gallery: Gallery) -> list[Hit]:
    """Items near codes that lie anywhere; listing all keys would take 5 s for a million.

    The same ones each time, as long as the gallery is the same.
    """
    shape = (_QUERIES, gallery.bits // 8)
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = gallery.search_codes(codes, _HITS_EACH)
    return list({hit.key: hit for hits in found for hit in hits}.values())


def _folders(sample: list[Hit]) -> list[dict[str, str]]:
    counts = Counter(os.path.dirname(item.key) for item in sample)  # noqa: PTH120
    del counts[""]
    if len(counts) < 2:
        return []
    try:
        root = os.path.join(os.path.commonpath(list(counts)), "")  # noqa: PTH118
    except ValueError:  # keys that are paths beside others that are not
        root = ""
    common = [folder for folder, _ in counts.most_common(_MOST_FOLDERS)]
    return [{"path": folder, "name": folder.removeprefix(root)} for folder in sorted(common)]


def _fields(sample: list[Hit]) -> list[dict[str, Any]]:
    found: dict[str, list[Any]] = {}
    for item in sample:
        for name, value in item.metadata.items():
            values = value if isinstance(value, list) else [value]
            # An object, or nothing, is not something to choose from.
            plain = [one for one in values if isinstance(one, str | int | float)]
            found.setdefault(name, []).extend(plain)
    return [_field(name, values) for name, values in sorted(found.items()) if values]


def _field(name: str, values: list[Any]) -> dict[str, Any]:
    # 1, 1.0 and True are one key of a dict, but not one value of JSON.
    counts = Counter((type(value).__name__, value) for value in values)
    is_short = all(len(str(value)) <= _LONGEST_VALUE for value in values)
    if len(counts) <= _MOST_VALUES and is_short:
        ordered = sorted(counts, key=lambda typed: (typed[0] == "str", typed[0], typed[1]))
        return {"name": name, "kind": "choice", "values": [value for _, value in ordered]}
    if all(type(value) in (int, float) for value in values):
        return {"name": name, "kind": "number", "values": [min(values), max(values)]}
    return {"name": name, "kind": "text", "values": []}
