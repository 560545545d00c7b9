"""Pairs of images that a person called distinct, although their codes are near each other."""

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitgaze.errors import GalleryCorrupt

_IDENTITY_BYTES = 16


def add_pair(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
    """Store a pair of identities, as in `items.ImageRef`; in any order.

    Raises:
        ValueError: they are equal, or not 16 bytes.
    """
    if one == other or not len(one) == len(other) == _IDENTITY_BYTES:
        raise ValueError(
            f"expected two different identities of {_IDENTITY_BYTES} bytes, got {one!r}, {other!r}"
        )
    pair = _ordered(one, other)
    db.execute("INSERT OR REPLACE INTO distinct_pair VALUES (?, ?, ?)", (*pair, _crc(*pair)))


def remove_pair(db: sqlite3.Connection, one: bytes, other: bytes) -> None:
    """Remove a pair, if it is stored."""
    db.execute("DELETE FROM distinct_pair WHERE first = ? AND second = ?", _ordered(one, other))


def read_pairs(db: sqlite3.Connection, path: Path) -> set[tuple[bytes, bytes]]:
    """All pairs; the lower identity of each comes first.

    Raises:
        GalleryCorrupt: one is damaged.
    """
    rows = db.execute("SELECT first, second, crc FROM distinct_pair").fetchall()
    if not all(_is_intact(*row) for row in rows):
        raise GalleryCorrupt(f"{path}: a pair of distinct images is damaged")
    return {(first, second) for first, second, _ in rows}


def problems(db: sqlite3.Connection) -> Iterator[str]:
    """Damaged pairs, a sentence each."""
    for row in db.execute("SELECT first, second, crc FROM distinct_pair"):
        if not _is_intact(*row):
            yield "a pair of distinct images is damaged"


def _ordered(one: bytes, other: bytes) -> tuple[bytes, bytes]:
    return min(one, other), max(one, other)


def _is_intact(first: Any, second: Any, crc: Any) -> bool:
    are_bytes = isinstance(first, bytes) and isinstance(second, bytes)
    return are_bytes and first < second and _crc(first, second) == crc


def _crc(first: bytes, second: bytes) -> int:
    return zlib.crc32(first + second)
