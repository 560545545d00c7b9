"""Pairs of images that a person called distinct, although their codes are near each other."""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
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


def are_any(db: sqlite3.Connection) -> bool:
    """Whether any pair is stored."""
    return db.execute("SELECT 1 FROM distinct_pair LIMIT 1").fetchone() is not None


def paired(db: sqlite3.Connection, identities: Iterable[bytes]) -> set[bytes]:
    """Those of some identities that are in a pair."""
    pairs = db.execute("SELECT first, second FROM distinct_pair")
    return set(identities).intersection(chain.from_iterable(pairs))


def remove_image(db: sqlite3.Connection, identity: bytes) -> None:
    """Remove all pairs of an identity."""
    db.execute("DELETE FROM distinct_pair WHERE first = ?1 OR second = ?1", (identity,))


def rename_image(db: sqlite3.Connection, identity: bytes, new: bytes) -> None:
    """Give the pairs of an identity to another one."""
    query = "SELECT first, second FROM distinct_pair WHERE first = ?1 OR second = ?1"
    pairs = db.execute(query, (identity,)).fetchall()
    remove_image(db, identity)
    for pair in pairs:
        one, other = (new if found == identity else found for found in pair)
        if one != other:
            add_pair(db, one, other)


def intact_pairs(db: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    """The pairs that are not damaged."""
    for row in db.execute("SELECT first, second, crc FROM distinct_pair"):
        if _is_intact(*row):
            yield row[0], row[1]


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
