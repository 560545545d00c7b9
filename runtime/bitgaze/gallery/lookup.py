"""The lookup of items by key and by file: a hash table in the gallery's file, kept by writes.

An entry is 12 bytes: a digest of the key or path (8), and the item's slot (4, little-endian).
Linear hashing (Litwin 1980) spreads the entries over buckets, rows of the table `lookup`: with more
items, one bucket at a time is split in two; with fewer, one is merged. How many buckets there must
be follows from the number of items, and each has a checksum, so one intact bucket proves that a key
is absent.
"""

import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt

Kind: TypeAlias = Literal["key", "path"]

# Per bucket, on average between one and two times this number: with files, up to 128 entries.
_ITEMS_PER_BUCKET = 32
_ENTRY = np.dtype([("digest", "<u8"), ("slot", "<u4")])
_ENTRY_BYTES = _ENTRY.itemsize
_DIGEST_BYTES = 8
_PERSON: dict[Kind, bytes] = {"key": b"key", "path": b"path"}
_READ = {kind: f"SELECT {kind} FROM item WHERE slot = ?" for kind in _PERSON}


def bucket_count(items: int) -> int:
    """How many buckets a gallery of some number of items has."""
    return items // _ITEMS_PER_BUCKET + 1


class Lookup:
    """The lookup of an open gallery, in a snapshot or transaction.

    Holds the buckets that were read or changed since `forget`; `flush` writes the changed ones.

    Args:
        db: connection to the gallery.
        path: the gallery's file, for messages.
    """

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._count = 1
        self._buckets: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def forget(self, items: int | None = None) -> None:
        """Drop what was read and not flushed.

        Args:
            items: the number of items in the snapshot; None if it is as before.
        """
        self._buckets.clear()
        self._changed.clear()
        if items is not None:
            self._count = bucket_count(items)

    def find(self, kind: Kind, name: str | bytes) -> int | None:
        """The slot of the item with this key or path, or None.

        Raises:
            GalleryCorrupt: the bucket is damaged or missing, or does not match the items.
        """
        digest = _digest(kind, name)
        bucket = self._bucket(self._address(digest))
        for position in _positions(bucket, digest):
            start = position + _DIGEST_BYTES
            slot = int.from_bytes(bucket[start : start + 4], "little")
            row = self._db.execute(_READ[kind], (slot,)).fetchone()
            if row is not None and row[0] == name:
                return slot
            is_other = (
                row is not None
                and isinstance(row[0], type(name))
                and _digest(kind, row[0]) == digest  # one pair in 2**64
            )
            if not is_other:
                raise GalleryCorrupt(f"{self._path}: the {kind} index is damaged at {name!r}")
        return None

    def add(self, kind: Kind, name: str | bytes, slot: int) -> None:
        """Add an entry."""
        digest = _digest(kind, name)
        self._to_change(self._address(digest)).extend(digest + slot.to_bytes(4, "little"))

    def remove(self, kind: Kind, name: str | bytes, slot: int) -> None:
        """Remove an entry; does nothing if there is none, as for a damaged item."""
        found = self._position(kind, name, slot)
        if found is not None:
            number, position = found
            del self._to_change(number)[position : position + _ENTRY_BYTES]

    def move(self, kind: Kind, name: str | bytes, slot: int, new_slot: int) -> None:
        """Change the slot of an entry.

        Raises:
            GalleryCorrupt: there is no such entry.
        """
        found = self._position(kind, name, slot)
        if found is None:
            raise GalleryCorrupt(f"{self._path}: the {kind} index is damaged at {name!r}")
        number, position = found
        start = position + _DIGEST_BYTES
        self._to_change(number)[start : start + 4] = new_slot.to_bytes(4, "little")

    def resize(self, items: int) -> None:
        """Split or merge buckets, after the number of items has changed."""
        wanted = bucket_count(items)
        while self._count < wanted:
            new = self._count
            parent = self._to_change(_parent(new))
            entries = np.frombuffer(bytes(parent), _ENTRY)
            moves = entries["digest"] & np.uint64((1 << new.bit_length()) - 1) == new
            parent[:] = entries[~moves].tobytes()
            self._buckets[new] = bytearray(entries[moves].tobytes())
            self._changed.add(new)
            self._count += 1
        while self._count > wanted:
            last = self._count - 1
            self._to_change(_parent(last)).extend(self._bucket(last))
            self._buckets[last].clear()
            self._changed.add(last)
            self._count -= 1

    def flush(self) -> None:
        """Write the changed buckets."""
        kept = [number for number in sorted(self._changed) if number < self._count]
        self._db.executemany(
            "INSERT OR REPLACE INTO lookup VALUES (?, ?, ?)",
            [_row(number, bytes(self._buckets[number])) for number in kept],
        )
        if len(kept) < len(self._changed):
            self._db.execute("DELETE FROM lookup WHERE n >= ?", (self._count,))
        self._changed.clear()

    def _address(self, digest: bytes) -> int:
        count = self._count
        number = int.from_bytes(digest, "little") & ((1 << count.bit_length()) - 1)
        return number if number < count else _parent(number)

    def _bucket(self, number: int) -> bytearray:
        bucket = self._buckets.get(number)
        if bucket is None:
            row = self._db.execute(
                "SELECT entries, crc FROM lookup WHERE n = ?", (number,)
            ).fetchone()
            entries = None if row is None else _verified(number, *row)
            if entries is None:
                raise GalleryCorrupt(
                    f"{self._path}: the key index is damaged: bucket {number} is "
                    f"{'missing' if row is None else 'not what was written'}"
                )
            bucket = self._buckets[number] = bytearray(entries)
        return bucket

    def _to_change(self, number: int) -> bytearray:
        bucket = self._bucket(number)
        self._changed.add(number)
        return bucket

    def _position(self, kind: Kind, name: str | bytes, slot: int) -> tuple[int, int] | None:
        digest = _digest(kind, name)
        number = self._address(digest)
        bucket = self._bucket(number)
        entry = digest + slot.to_bytes(4, "little")
        return next(((number, position) for position in _positions(bucket, entry)), None)


def write_all(
    db: sqlite3.Connection, names: Iterable[tuple[Kind, str | bytes, int]], items: int
) -> None:
    """Write the buckets of a gallery that has none.

    Args:
        db: connection to the gallery.
        names: (kind, name, slot) of every key and path.
        items: the number of items.
    """
    db.executemany(
        "INSERT INTO lookup VALUES (?, ?, ?)",
        (_row(number, entries.tobytes()) for number, entries in _all_buckets(names, items)),
    )


def problems(
    db: sqlite3.Connection, names: Iterable[tuple[Kind, str | bytes, int]], items: int
) -> Iterator[str]:
    """How the buckets differ from the items, a sentence each.

    Args:
        db: connection to the gallery.
        names: (kind, name, slot) of every key and path.
        items: the number of items.
    """
    rows = db.execute("SELECT n, entries, crc FROM lookup ORDER BY n")
    for number, expected in _all_buckets(names, items):
        row = rows.fetchone()
        if row is None or row[0] != number:
            yield f"the key index is damaged: bucket {number} is missing"
            return
        entries = _verified(*row)
        if entries is None:
            yield f"the key index is damaged: bucket {number} is not what was written"
        elif not np.array_equal(np.sort(np.frombuffer(entries, _ENTRY)), np.sort(expected)):
            yield f"the key index is damaged: bucket {number} does not match the items"
    if rows.fetchone() is not None:
        yield "the key index is damaged: there are too many buckets"


def _all_buckets(
    names: Iterable[tuple[Kind, str | bytes, int]], items: int
) -> Iterator[tuple[int, NDArray[np.void]]]:
    """The number and entries of each bucket, as a gallery with these names must have them."""
    packed = bytearray()
    for kind, name, slot in names:
        packed += _digest(kind, name)
        packed += slot.to_bytes(4, "little")
    entries = np.frombuffer(bytes(packed), _ENTRY)
    count = bucket_count(items)
    numbers = _addresses(entries["digest"], count)
    order = np.argsort(numbers, kind="stable")
    starts = np.searchsorted(numbers[order], np.arange(count + 1))
    for number in range(count):
        yield number, entries[order[starts[number] : starts[number + 1]]]


def _addresses(digests: NDArray[np.uint64], count: int) -> NDArray[np.int64]:
    """The number of the bucket, of `count`, for each digest; as `Lookup._address` has it."""
    bits = count.bit_length()
    numbers = (digests & np.uint64((1 << bits) - 1)).astype(np.int64)
    return np.where(numbers < count, numbers, numbers - (1 << (bits - 1)))


def _parent(number: int) -> int:
    """The bucket that a bucket was split from: without its highest bit."""
    return number - (1 << (number.bit_length() - 1))


@lru_cache(maxsize=8)  # a write looks for a name, then adds it
def _digest(kind: Kind, name: str | bytes) -> bytes:
    content = name if isinstance(name, bytes) else name.encode()
    return blake2b(content, digest_size=_DIGEST_BYTES, person=_PERSON[kind]).digest()


def _positions(bucket: bytearray, start: bytes) -> Iterator[int]:
    """Where the entries are that start with these bytes."""
    position = bucket.find(start)
    while position >= 0:
        if position % _ENTRY_BYTES == 0:
            yield position
        position = bucket.find(start, position + 1)


def _row(number: int, entries: bytes) -> tuple[int, bytes, int]:
    # The number too: a bucket in another's place is damage.
    return number, entries, zlib.crc32(entries, number)


def _verified(number: int, entries: Any, crc: Any) -> bytes | None:
    """The entries of a row of `lookup`; None if the row is damaged."""
    if (
        not isinstance(entries, bytes)
        or len(entries) % _ENTRY_BYTES
        or zlib.crc32(entries, number) != crc
    ):
        return None
    return entries
