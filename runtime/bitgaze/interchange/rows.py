"""Items as rows of text, bytes and numbers, for engines that keep them in tables."""

import json
from typing import Any, NamedTuple

import numpy as np

from bitgaze.gallery.items import FileState, Item
from bitgaze.gallery.metadata import from_text, to_text, value_from

# A step of a stored box is 1/65535.
_DECIMALS = 6


class Row(NamedTuple):
    """One item.

    Attributes:
        key: of the item.
        code: bits / 8 bytes; the first bit is the most significant bit of byte 0.
        looks: codes of the looks, one after the other.
        boxes: where the looks are, a JSON list of [x0, y0, x1, y1] in [0, 1].
        structure: structural code; None if not known.
        metadata: a JSON object.
        properties: what the image's file says of itself, a JSON object; None if not read.
        classes: likely classes, as `bitgaze.encoding.likely` packs them; None if not known.
        path: of the file that sync made the item from, as are the next four (`FileState`); None for
            an item added by hand.
        size: in bytes.
        mtime_ns: modification time.
        ctime_ns: change time.
        content: digest.
    """

    key: str
    code: bytes
    looks: bytes
    boxes: str
    structure: bytes | None
    metadata: str
    properties: str | None
    classes: bytes | None
    path: bytes | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    content: bytes | None


def row_of(item: Item) -> Row:
    """An item as a row."""
    file, properties = item.file, item.properties
    return Row(
        item.key,
        item.code.tobytes(),
        item.looks.tobytes(),
        json.dumps(np.round(item.boxes.astype(float), _DECIMALS).tolist()),
        None if item.structure is None else item.structure.tobytes(),
        to_text(item.metadata),
        None if properties is None else to_text(properties),
        item.classes,
        *((None,) * 5 if file is None else _state(file)),
    )


def _state(file: FileState) -> tuple[bytes, int, int, int, bytes]:
    return file.path, file.size, file.mtime_ns, file.ctime_ns, file.content


def item_of(row: Row) -> Item:
    """The item of a row.

    Raises:
        ValueError: a JSON column holds something else, or the looks are not codes.
        TypeError: a column has another type.
    """
    if not isinstance(row.code, bytes) or not isinstance(row.looks, bytes):
        raise TypeError(f"code or looks of {row.key!r} are not bytes")
    if not row.code or len(row.looks) % len(row.code):
        raise ValueError(
            f"looks of {row.key!r} have {len(row.looks)} bytes, expected a multiple of the code's "
            f"{len(row.code)}"
        )
    state: tuple[Any, ...] = row[-5:]
    return Item(
        row.key,
        np.frombuffer(row.code, np.uint8),
        from_text(row.metadata),
        None if state == (None,) * 5 else FileState(*state),
        np.frombuffer(row.looks, np.uint8).reshape(-1, len(row.code)),
        np.array(value_from(row.boxes), np.float32).reshape(-1, 4),
        None if row.structure is None else np.frombuffer(row.structure, np.uint8),
        None if row.properties is None else from_text(row.properties),
        row.classes,
    )
