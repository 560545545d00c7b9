"""Chunks: arrays by slot, stored in blobs, and the digest that binds a gallery's tables together.

Three tables of one shape: `chunk` has the codes, `look_chunk` the codes of looks, and
`structure_chunk` the structural codes. SQLite has no checksums of its pages, so each blob has one.
"""

import sqlite3
import zlib
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt
from bitgaze.hamming import HammingIndex

CHUNK_CODES = 4096
# Slots in a chunk of each table. A write stores whole chunks, so those of wider rows are shorter.
SLOTS = {"chunk": CHUNK_CODES, "look_chunk": 1024, "structure_chunk": 1024}
STATE_BYTES = 16

Add: TypeAlias = Callable[[NDArray[np.uint8]], None]


class Sums:
    """The checksums of all chunks, and the sums of the items' checksums.

    Attributes:
        crcs: by table, the CRC-32 of each chunk.
        items: for each chunk of codes, the sum of the CRCs of its items, modulo 2**32.
        columns: the sum of the CRCs of all rows of `field_chunk`, modulo 2**32, as stored.
    """

    def __init__(self) -> None:
        self.crcs: dict[str, list[int]] = {table: [] for table in SLOTS}
        self.items: list[int] = []
        self.columns = 0

    def change_item(self, slot: int, old_crc: int, new_crc: int) -> None:
        """Note another CRC of an item; 0 for one that does not exist before or after."""
        n = slot // SLOTS["chunk"]
        if n == len(self.items):
            self.items.append(0)
        self.items[n] = (self.items[n] - old_crc + new_crc) & 0xFFFFFFFF

    def digest(self, file_id: bytes, info_crc: int) -> bytes:
        """The state: 16 bytes of BLAKE2b of everything that has a checksum.

        Args:
            file_id: of the file.
            info_crc: checksum of the entries of `info`.
        """
        numbers = [info_crc, self.columns]
        for crcs in (*self.crcs.values(), self.items):
            numbers.append(len(crcs))
            numbers.extend(crcs)
        content = file_id + np.array(numbers, "<u4").tobytes()
        return blake2b(content, digest_size=STATE_BYTES, person=b"state").digest()


def read_codes(db: sqlite3.Connection, path: Path, bits: int, sums: Sums) -> HammingIndex:
    """Read all codes, in slot order, and the checksums of their chunks into `sums`.

    Raises:
        GalleryCorrupt: a chunk is missing or damaged, or there are more or fewer items than codes.
    """
    index = HammingIndex(bits)
    rows = db.execute("SELECT n, codes, crc, items FROM chunk ORDER BY n")
    _read(rows, path, "chunk", bits // 8, index.add, sums)
    # In one query without subqueries, SQLite would read the whole table.
    query = "SELECT (SELECT min(slot) FROM item), (SELECT max(slot) FROM item)"
    first, last = db.execute(query).fetchone()
    count = 0 if last is None else last + 1
    if count != len(index):
        raise GalleryCorrupt(f"{path}: holds {count} items but {len(index)} codes")
    if first not in (None, 0):
        raise GalleryCorrupt(f"{path}: the item in slot 0 is missing")
    return index


def read_looks(
    db: sqlite3.Connection, path: Path, shape: tuple[int, int], count: int, sums: Sums
) -> NDArray[np.uint8]:
    """Read the codes of looks, in slot order, and the checksums of their chunks into `sums`.

    Args:
        db: connection to the gallery.
        path: the gallery's file, for messages.
        shape: of an item's: (looks, bits // 8).
        count: number of items.
        sums: takes the checksums of the chunks.

    Returns:
        uint8, (count, *shape).

    Raises:
        GalleryCorrupt: a chunk is missing or damaged.
    """
    found = np.empty((count, *shape), np.uint8)
    end = 0

    def add(rows: NDArray[np.uint8]) -> None:
        nonlocal end
        start, end = end, end + len(rows)
        if end <= count:
            found[start:end] = rows.reshape(-1, *shape)

    _read_beside(db, path, "look_chunk", shape[0] * shape[1], add, count, sums)
    return found


def read_structure(
    db: sqlite3.Connection, path: Path, bits: int, count: int, sums: Sums
) -> HammingIndex:
    """Read the structural codes, which have `bits` bits; otherwise as `read_looks`."""
    index = HammingIndex(bits)
    index.reserve(count)
    _read_beside(db, path, "structure_chunk", bits // 8, index.add, count, sums)
    return index


def _read_beside(
    db: sqlite3.Connection,
    path: Path,
    table: str,
    width: int,
    add: Add,
    count: int,
    sums: Sums,
) -> None:
    rows = db.execute(f"SELECT n, codes, crc, 0 FROM {table} ORDER BY n")
    read = _read(rows, path, table, width, add, sums)
    if read != count:
        raise GalleryCorrupt(f"{path}: holds {count} items but {read} rows in {table}")


def _read(rows: Any, path: Path, table: str, width: int, add: Add, sums: Sums) -> int:
    """Pass the rows of all chunks to a function; return how many there are."""
    crcs, slots = sums.crcs[table], SLOTS[table]
    count = 0
    for expected_n, (n, codes, crc, items) in enumerate(rows):
        if n != expected_n or count != n * slots:
            raise GalleryCorrupt(
                f"{path}: {table} {expected_n} of the codes is missing or too short"
            )
        chunk = verified_chunk(codes, crc, width)
        if chunk is None or not 0 < len(chunk) <= slots or type(items) is not int:
            raise GalleryCorrupt(f"{path}: {table} {n} of the codes is damaged")
        add(chunk)
        count += len(chunk)
        crcs.append(crc)
        if table == "chunk":
            sums.items.append(unsigned(items))
    return count


def verified_chunk(codes: Any, crc: Any, width: int) -> NDArray[np.uint8] | None:
    """The rows of a chunk, uint8, (n, width); None if it is damaged."""
    if not isinstance(codes, bytes) or len(codes) % width or zlib.crc32(codes) != crc:
        return None
    return np.frombuffer(codes, np.uint8).reshape(-1, width)


def write_chunk(
    db: sqlite3.Connection, table: str, n: int, rows: NDArray[np.uint8], sums: Sums
) -> None:
    """Write a chunk, and its checksum into `sums`; an empty one is deleted."""
    crcs = sums.crcs[table]
    if not len(rows):
        db.execute(f"DELETE FROM {table} WHERE n = ?", (n,))
        del crcs[n:]
        if table == "chunk":
            del sums.items[n:]
        return
    codes = rows.tobytes()
    crc = zlib.crc32(codes)
    values: Sequence[Any] = (n, crc, sums.items[n], codes) if table == "chunk" else (n, crc, codes)
    marks = ", ".join("?" * len(values))
    db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", values)
    crcs[n : n + 1] = [crc]


def read_sums(db: sqlite3.Connection) -> Sums:
    """The stored checksums of all chunks, without reading the chunks."""
    sums = Sums()
    for table, crcs in sums.crcs.items():
        crcs.extend(unsigned(crc) for (crc,) in db.execute(f"SELECT crc FROM {table} ORDER BY n"))
    rows = db.execute("SELECT items FROM chunk ORDER BY n")
    sums.items.extend(unsigned(items) for (items,) in rows)
    row = db.execute("SELECT value FROM info WHERE name = 'columns'").fetchone()
    sums.columns = unsigned(row and row[0])
    return sums


def unsigned(value: object) -> int:
    """A stored checksum as 32 bits; 0 for what is none, in a damaged file."""
    return value & 0xFFFFFFFF if isinstance(value, int) else 0
