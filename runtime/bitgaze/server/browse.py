"""What a person can start from: some items, and the folders and metadata to filter by.

Looks at a sample of the gallery, so that a large one takes no longer than a small one.
"""

import os
from collections import Counter
from typing import Any

import numpy as np

from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.hits import Hit
from bitgaze.server.items import items_to_json

_SAMPLE_QUERIES, _HITS_PER_QUERY, _MAX_ITEMS = 40, 25, 24
_MAX_CHOICES, _MAX_FOLDERS, _MAX_CHOICE_LENGTH = 30, 60, 80


def browse(gallery: Gallery) -> dict[str, Any]:
    """Some items, spread over the gallery, and the folders and metadata of a larger sample.

    Returns:
        items: at most 24 items, each with key, name, has_image, width and height.
        root: the folder that all keys share that are paths; "" if there is none.
        folders: the folders, each with path and name (the path below the root), by name.
        fields: the metadata fields, each with name, kind and values. For kind "number", the values
            are minimum and maximum; for "choice", all values of a field that has few; for "text",
            none.
        sampled: the number of items in the sample.
    """
    sample = _sample(gallery)
    shown = [item for item in sample if item.path is not None] or sample
    step = -(-len(shown) // _MAX_ITEMS) or 1
    folders = _folders(sample)
    root = _root(folders)
    return {
        "root": root,
        "items": items_to_json(gallery, shown[::step]),
        "folders": _folders_to_json(folders, root),
        "fields": _fields(sample),
        "sampled": len(sample),
    }


def _sample(gallery: Gallery) -> list[Hit]:
    """The nearest items to random codes; listing all keys would take 5 s for a million.

    The same gallery has the same sample each time.
    """
    shape = (_SAMPLE_QUERIES, gallery.bits // 8)
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = gallery.search_codes(codes, _HITS_PER_QUERY)
    return list({hit.key: hit for hits in found for hit in hits}.values())


def _folders(sample: list[Hit]) -> list[str]:
    """The folders of keys that are paths, the most common first."""
    counts = Counter(os.path.dirname(item.key) for item in sample)  # noqa: PTH120
    del counts[""]
    return [folder for folder, _ in counts.most_common()]


def _root(folders: list[str]) -> str:
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # some keys are absolute paths, others are not
        return ""


def _folders_to_json(folders: list[str], root: str) -> list[dict[str, str]]:
    if len(folders) < 2:
        return []
    below = os.path.join(root, "") if root else ""  # noqa: PTH118
    common = sorted(folders[:_MAX_FOLDERS])
    return [{"path": folder, "name": folder.removeprefix(below)} for folder in common]


def _fields(sample: list[Hit]) -> list[dict[str, Any]]:
    found: dict[str, list[Any]] = {}
    for item in sample:
        for name, value in item.metadata.items():
            values = value if isinstance(value, list) else [value]
            # Nobody can choose an object or null.
            simple = [one for one in values if isinstance(one, str | int | float)]
            found.setdefault(name, []).extend(simple)
    return [_field(name, values) for name, values in sorted(found.items()) if values]


def _field(name: str, values: list[Any]) -> dict[str, Any]:
    # 1, 1.0 and True are one key of a dict, but three values in JSON.
    counts = Counter((type(value).__name__, value) for value in values)
    is_short = all(len(str(value)) <= _MAX_CHOICE_LENGTH for value in values)
    if len(counts) <= _MAX_CHOICES and is_short:
        ordered = sorted(counts, key=lambda typed: (typed[0] == "str", typed[0], typed[1]))
        return {"name": name, "kind": "choice", "values": [value for _, value in ordered]}
    if all(type(value) in (int, float) for value in values):
        return {"name": name, "kind": "number", "values": [min(values), max(values)]}
    return {"name": name, "kind": "text", "values": []}
