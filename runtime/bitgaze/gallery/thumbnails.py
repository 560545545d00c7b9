"""Thumbnails of items: small encoded images, by slot; an item need not have one."""

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

from bitgaze.errors import GalleryCorrupt


def write_thumbnail(db: sqlite3.Connection, slot: int, image: bytes) -> None:
    """Store an item's thumbnail."""
    # The slot too: a thumbnail in another's place is damage.
    db.execute(
        "INSERT OR REPLACE INTO thumbnail VALUES (?, ?, ?)", (slot, image, zlib.crc32(image, slot))
    )


def read_thumbnail(db: sqlite3.Connection, path: Path, slot: int) -> bytes | None:
    """An item's thumbnail, or None.

    Raises:
        GalleryCorrupt: it is damaged.
    """
    row = db.execute("SELECT image, crc FROM thumbnail WHERE slot = ?", (slot,)).fetchone()
    if row is None:
        return None
    image, crc = row
    if not isinstance(image, bytes) or zlib.crc32(image, slot) != crc:
        raise GalleryCorrupt(f"{path}: the thumbnail in slot {slot} is damaged")
    return image


def delete_thumbnail(db: sqlite3.Connection, slot: int) -> None:
    """Delete an item's thumbnail, if it has one."""
    db.execute("DELETE FROM thumbnail WHERE slot = ?", (slot,))


def move_thumbnail(db: sqlite3.Connection, path: Path, slot: int, new_slot: int) -> None:
    """Move an item's thumbnail, if it has one, to a slot that has none.

    Raises:
        GalleryCorrupt: it is damaged.
    """
    image = read_thumbnail(db, path, slot)
    if image is not None:
        delete_thumbnail(db, slot)
        write_thumbnail(db, new_slot, image)


def problems(db: sqlite3.Connection, path: Path, count: int) -> Iterator[str]:
    """Damaged thumbnails, and those of no item; a sentence each."""
    for (slot,) in db.execute("SELECT slot FROM thumbnail"):
        if not 0 <= slot < count:
            yield f"the thumbnail in slot {slot} belongs to no item"
            continue
        try:
            read_thumbnail(db, path, slot)
        except GalleryCorrupt as error:
            yield str(error).removeprefix(f"{path}: ")
