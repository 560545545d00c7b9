"""Chunks: arrays by slot, stored in blobs, and the digest that binds a gallery's tables together.

Three tables of one shape: `chunk` has the codes, `look_chunk` the codes of looks, and
`structure_chunk` the structural codes. SQLite has no checksums of its pages, so each blob has one.
"""

import sqlite3
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt
from bitgaze.hamming import HammingIndex

CHUNK_CODES = 4096
# Slots in a chunk of each table. A write stores whole chunks, so those of wider rows are shorter.
SLOTS = {"chunk": CHUNK_CODES, "look_chunk": 1024, "structure_chunk": 1024}
STATE_BYTES = 16


class Rows:
    """Rows of bytes by slot, in memory; grows and shrinks as `HammingIndex` does.

    Args:
        shape: of a row; without bytes, as (0, 16), nothing is stored.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._buffer = np.empty((0, *shape), np.uint8)
        self._count = 0
        self._is_empty = 0 in shape  # then the buffer takes no memory, and never has to grow
        if self._is_empty:
            self._buffer = np.empty((2**31 - 1, *shape), np.uint8)  # numpy's most on 32-bit systems

    @property
    def array(self) -> NDArray[np.uint8]:
        """All rows: uint8, (n, *shape), C-contiguous; a view until the next change."""
        return self._buffer[: self._count]

    def add(self, rows: NDArray[np.uint8]) -> None:
        """Append rows."""
        count = self._count + len(rows)
        if self._is_empty:
            self._count = count
            return
        if count > len(self._buffer):
            capacity = max(count, self._count + self._count // 2, 64)
            buffer = np.empty((capacity, *self._buffer.shape[1:]), np.uint8)
            buffer[: self._count] = self.array
            self._buffer = buffer
        self._buffer[self._count : count] = rows
        self._count = count

    def replace(self, slot: int, row: NDArray[np.uint8]) -> None:
        """Replace a row."""
        if not self._is_empty:
            self._buffer[slot] = row

    def remove(self, slot: int) -> None:
        """Remove a row; the last one moves into its slot."""
        self._buffer[slot] = self._buffer[self._count - 1]
        self._count -= 1


class Sums:
    """The checksums of all chunks, and the sums of the items' checksums.

    Attributes:
        crcs: by table, the CRC-32 of each chunk.
        items: for each chunk of codes, the sum of the CRCs of its items, modulo 2**32.
    """

    def __init__(self) -> None:
        self.crcs: dict[str, list[int]] = {table: [] for table in SLOTS}
        self.items: list[int] = []

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
        numbers = [info_crc]
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
    _read(rows, path, "chunk", bits // 8, index, sums)
    # In one query without subqueries, SQLite would read the whole table.
    query = "SELECT (SELECT min(slot) FROM item), (SELECT max(slot) FROM item)"
    first, last = db.execute(query).fetchone()
    count = 0 if last is None else last + 1
    if count != len(index):
        raise GalleryCorrupt(f"{path}: holds {count} items but {len(index)} codes")
    if first not in (None, 0):
        raise GalleryCorrupt(f"{path}: the item in slot 0 is missing")
    return index


def read_rows(
    db: sqlite3.Connection, path: Path, table: str, shape: tuple[int, ...], count: int, sums: Sums
) -> Rows:
    """Read the rows of `look_chunk` or `structure_chunk`, in slot order.

    Args:
        db: connection to the gallery.
        path: the gallery's file, for messages.
        table: the table's name.
        shape: of a row.
        count: number of items.
        sums: takes the checksums of the chunks.

    Raises:
        GalleryCorrupt: a chunk is missing or damaged.
    """
    found = Rows(shape)
    width = int(np.prod(shape))
    if width == 0:
        found.add(np.empty((count, *shape), np.uint8))
        return found
    packed = Rows((width,))
    rows = db.execute(f"SELECT n, codes, crc, 0 FROM {table} ORDER BY n")
    _read(rows, path, table, width, packed, sums)
    if len(packed.array) != count:
        raise GalleryCorrupt(f"{path}: holds {count} items but {len(packed.array)} rows in {table}")
    found.add(packed.array.reshape(count, *shape))
    return found


def _read(
    rows: Any, path: Path, table: str, width: int, target: HammingIndex | Rows, sums: Sums
) -> None:
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
        target.add(chunk)
        count += len(chunk)
        crcs.append(crc)
        if table == "chunk":
            sums.items.append(unsigned(items))


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
    return sums


def unsigned(value: object) -> int:
    """A stored checksum as 32 bits; 0 for what is none, in a damaged file."""
    return value & 0xFFFFFFFF if isinstance(value, int) else 0
