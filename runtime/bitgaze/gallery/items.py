"""Items in a gallery's file: what one is, and its row.

Knows the table `item` and its SQL. Does not know codes in chunks (gallery_file.py), transactions
(store.py) or images.
"""

import hashlib
import json
import operator
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt
from bitgaze.gallery.filters import RANGE_OPERATORS, Condition, like
from bitgaze.hamming import HammingIndex

# In the order of `item_crc`.
COLUMNS = "slot, key, metadata, path, size, mtime_ns, ctime_ns, content"
# Those that SQLite makes for UNIQUE columns.
_INDEXES = {"key": "sqlite_autoindex_item_1", "path": "sqlite_autoindex_item_2"}


@dataclass(frozen=True)
class FileState:
    """The file that an item was made from, as sync last saw it.

    Attributes:
        path: bytes of the absolute path, as the operating system gives them.
        size: in bytes.
        mtime_ns: modification time in nanoseconds.
        ctime_ns: as `os.stat` gives it. Most file systems change it also when a file is renamed;
            a copy does not have its original's.
        content: BLAKE2b digest of the file, 16 bytes.
    """

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    content: bytes


@dataclass(frozen=True)
class Item:
    """One image of a gallery.

    Attributes:
        key: unique name; for an item that sync looks after, the file's path as text.
        code: uint8, (bits // 8,).
        metadata: a dict that JSON can hold.
        file: where sync found it, or None for an item added by hand.
    """

    key: str
    code: NDArray[np.uint8]
    metadata: dict[str, Any] = field(default_factory=dict)
    file: FileState | None = None

    @property
    def path(self) -> str | None:
        """Path of the file, fit for `open`, or None for an item added by hand."""
        return None if self.file is None else os.fsdecode(self.file.path)


class ItemImage(NamedTuple):
    """What an item's code was made from.

    Attributes:
        key: of the item.
        file: where sync found it, or None for an item added by hand.
        identity: 16 bytes; where they are equal, so are the images.
    """

    key: str
    file: FileState | None
    identity: bytes


_INDEXED_TYPES = {"key": str, "path": bytes}
# What `item_crc` is of; NULL where a column is of another type than it should.
_CONTENTS = (
    "CASE WHEN typeof(key) = 'text' AND typeof(metadata) = 'text' AND (path IS NULL OR"
    " typeof(path) = 'blob' AND typeof(content) = 'blob' AND typeof(size) = 'integer'"
    " AND typeof(mtime_ns) = 'integer' AND typeof(ctime_ns) = 'integer') THEN CAST("
    "slot || x'00' || key || x'00' || metadata || x'00' || ifnull(size, 'None') || x'00'"
    " || ifnull(mtime_ns, 'None') || x'00' || ifnull(ctime_ns, 'None') || x'00'"
    " || ifnull(path, '') || x'00' || ifnull(content, '') AS BLOB) END"
)
_ROWS = 4096
_SURROGATES = re.compile("[\ud800-\udfff]")
# SQLite's JSON paths have no escapes, json.dumps writes some.
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]*")

# (slot, key, metadata as JSON, file)
Row: TypeAlias = tuple[int, str, str, FileState | None]


def read_items(db: sqlite3.Connection, path: Path, count: int) -> Iterator[Row]:
    """(slot, key, metadata as JSON, file) of every item, in order of slots.

    Raises:
        GalleryCorrupt: there are not `count` of them, or one is not as it was written.
    """
    for slot, key, metadata, *state in _whole_rows(db, path, count, COLUMNS):
        yield slot, key, metadata, None if state[0] is None else FileState(*state)


def check_items(db: sqlite3.Connection, path: Path, count: int) -> None:
    """See that every item is as it was written: 2 s for a million.

    Raises:
        GalleryCorrupt: there are not `count` of them, or one is not.
    """
    for _ in _whole_rows(db, path, count, "NULL"):
        pass


def _whole_rows(
    db: sqlite3.Connection, path: Path, count: int, columns: str
) -> Iterator[tuple[Any, ...]]:
    """Some columns of every item, in order of slots, once all of each row is as it was written.

    A few thousand rows at a time, since Python takes longer for a step than for a checksum: 1 us an
    item.
    """
    rows = db.execute(
        f"SELECT {columns}, slot, crc, {_CONTENTS} FROM item NOT INDEXED ORDER BY slot"
    )
    first = 0
    while batch := rows.fetchmany(_ROWS):
        *wanted, slots, crcs, contents = zip(*batch, strict=True)
        is_whole = (
            slots == tuple(range(first, first + len(batch)))
            and None not in contents
            and tuple(map(zlib.crc32, contents)) == crcs
        )
        if not is_whole:
            for slot in range(first, first + len(batch)):
                _checked(path, _read_row(db, path, slot))  # says which
            raise GalleryCorrupt(f"{path}: items from slot {first} on are damaged")
        first += len(batch)
        yield from zip(*wanted, strict=True)
    if first != count:
        raise GalleryCorrupt(f"{path}: {first} items, but {count} codes")


def find_slot(db: sqlite3.Connection, key: str) -> int | None:
    """The slot of the item with this key, or None."""
    if not isinstance(key, str):  # SQLite would find "5" for 5
        raise TypeError(f"a key is a str, not {type(key).__name__}: {key!r}")
    try:
        row = db.execute("SELECT slot FROM item WHERE key = ?", (key,)).fetchone()
    except UnicodeEncodeError:  # half of a surrogate pair: no key holds one, a path may
        return None
    return None if row is None else int(row[0])


def read_key(db: sqlite3.Connection, slot: int) -> str | None:
    """The key of the item in this slot, or None."""
    row = db.execute("SELECT key FROM item WHERE slot = ?", (slot,)).fetchone()
    return None if row is None else row[0]


def find_file(db: sqlite3.Connection, path: bytes) -> int | None:
    """The slot of the item that was made from this file, or None."""
    row = db.execute("SELECT slot FROM item WHERE path = ?", (path,)).fetchone()
    return None if row is None else int(row[0])


def check_indexes(db: sqlite3.Connection, path: Path) -> None:
    """See that keys and paths are found: that what is not found is not there.

    An index is in order, and holds what the items hold: then each is found.

    Raises:
        GalleryCorrupt: one is not.
    """
    for column, index in _INDEXES.items():
        query = f"SELECT {column}, slot FROM item {{}} WHERE {column} IS NOT NULL"
        count = total = 0
        last: tuple[Any, ...] = ()
        rows = db.execute(query.format(f"INDEXED BY {index}") + f" ORDER BY {column}")
        while batch := rows.fetchmany(_ROWS):
            values = [*last, *(value for value, _ in batch)]
            # Of another type it cannot be compared, and should not be there.
            is_sane = set(map(type, values)) == {_INDEXED_TYPES[column]}
            if not is_sane or not all(map(operator.lt, values, values[1:])):
                raise GalleryCorrupt(f"{path}: its {column} index is damaged near {values[0]!r}")
            last = (values[-1],)
            count += len(batch)
            total += sum(map(hash, batch))
        rows = db.execute(query.format("NOT INDEXED"))
        while batch := rows.fetchmany(_ROWS):
            count -= len(batch)
            total -= sum(map(hash, batch))
        if count or total:
            raise GalleryCorrupt(f"{path}: its {column} index is damaged: it holds other items")


def read_item(db: sqlite3.Connection, path: Path, slot: int, code: NDArray[np.uint8]) -> Item:
    """The item in a slot that is known to be taken; its code comes from the index.

    Raises:
        GalleryCorrupt: it is not as it was written.
    """
    found, key, text, file = _checked(path, _read_row(db, path, slot))
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: metadata of item {key!r} is damaged: {error}") from error
    if found != slot or not isinstance(metadata, dict):
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}, {metadata!r}")
    return Item(key, code, metadata, file)


def read_images(db: sqlite3.Connection, path: Path, codes: HammingIndex) -> list[ItemImage]:
    """Of every item, in order of slots, what its code was made from.

    Args:
        db: the gallery.
        path: of its file, for messages.
        codes: of all items.

    Raises:
        GalleryCorrupt: an item is missing, or not as it was written.
    """
    images: list[ItemImage] = []
    for slot, key, _, file in read_items(db, path, len(codes)):
        # Of an image that only the caller knows, another code tells that it is another.
        identity = (
            hashlib.blake2b(key.encode() + codes[slot].tobytes(), digest_size=16).digest()
            if file is None
            else file.content
        )
        images.append(ItemImage(key, file, identity))
    return images


def read_field(db: sqlite3.Connection, path: Path, name: str) -> Iterator[str | None]:
    """Of every item, in order of slots, what its metadata has under a name, as JSON, or None.

    Trusts the items, so `check_items` comes before.

    Raises:
        GalleryCorrupt: metadata that is no JSON object.
    """
    try:
        if _PLAIN_NAME.fullmatch(name):
            query = "SELECT metadata -> ? FROM item NOT INDEXED ORDER BY slot"
            for (text,) in db.execute(query, (f'$."{name}"',)):
                yield text
            return
        # SQLite's paths have no escapes.
        for (text,) in db.execute("SELECT metadata FROM item NOT INDEXED ORDER BY slot"):
            metadata = json.loads(text)
            yield json.dumps(metadata[name]) if name in metadata else None
    except sqlite3.OperationalError as error:
        if "JSON" not in str(error):
            raise
        raise GalleryCorrupt(f"{path}: metadata of an item is damaged: {error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: metadata of an item is damaged: {error}") from error


def keys_that_match(db: sqlite3.Connection, condition: Condition, count: int) -> NDArray[np.bool_]:
    """Which of so many items have a key that fulfils a condition: bool, (count,), by slot.

    Trusts the items and their index, so `check_items` and `check_indexes` come before.
    """
    matches = np.zeros(count, bool)
    operands = condition.operand if condition.operator == "in" else (condition.operand,)
    operator = "=" if condition.operator in ("in", "!=") else condition.operator
    for operand in operands:
        if not isinstance(operand, str):
            continue  # a key is a text
        if operator in RANGE_OPERATORS:
            # From the items, byte by byte, as UTF-8 sorts: that each key is found in the index
            # does not say that nothing else is there. The operator is one of these, the operand a
            # parameter.
            rows: Iterable[tuple[int]] = db.execute(
                f"SELECT slot FROM item NOT INDEXED WHERE CAST(key AS BLOB) {operator} ?",
                (operand.encode(errors="surrogatepass"),),
            )
        elif _SURROGATES.search(operand):
            continue  # a key is valid Unicode
        elif operator == "=":
            rows = db.execute("SELECT slot FROM item WHERE key = ?", (operand,))
        else:
            # SQLite's LIKE ends at a zero.
            matches_pattern = like(operand)
            found = db.execute(
                "SELECT slot, key FROM item NOT INDEXED WHERE key LIKE ?"
                " OR instr(CAST(key AS BLOB), x'00')",
                (operand,),
            )
            rows = ((slot,) for slot, key in found if "\0" not in key or matches_pattern(key))
        slots = np.fromiter((slot for (slot,) in rows), np.int64)
        matches[slots[(slots >= 0) & (slots < count)]] = True  # a damaged index may hold any
    return ~matches if condition.operator == "!=" else matches


def content_digest(path: str | bytes) -> bytes:
    """What `FileState.content` holds of a file.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def changed(file: FileState) -> str | None:
    """Why a file is not the image that it was, or None if it is; reads all of it."""
    try:
        digest = content_digest(file.path)
    except OSError as error:
        return error.strerror or str(error)
    return None if digest == file.content else "changed since"


def write_item(db: sqlite3.Connection, slot: int, item: Item) -> None:
    """Put an item into a slot; its code goes to `write_chunk`."""
    item.key.encode()  # SQLite would store half of a surrogate pair and never give it back
    file = item.file
    if not _is_sane(file):
        raise TypeError(
            f"file of {item.key!r} is {file}, expected a path and a content of bytes, and three "
            "integers of at most 64 bits"
        )
    state = (
        (None,) * 5
        if file is None
        else (file.path, file.size, file.mtime_ns, file.ctime_ns, file.content)
    )
    row = (slot, item.key, _metadata_text(item), *state)
    db.execute(
        # Not INSERT OR REPLACE: a path that another key owns must raise, not delete that item.
        f"INSERT INTO item({COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(slot) DO UPDATE SET key = excluded.key, metadata = excluded.metadata,"
        " path = excluded.path, size = excluded.size, mtime_ns = excluded.mtime_ns,"
        " ctime_ns = excluded.ctime_ns, content = excluded.content, crc = excluded.crc",
        (*row, item_crc(*row)),
    )


def has_metadata_of(db: sqlite3.Connection, slot: int, item: Item) -> bool:
    """Whether the item in a slot has just the metadata of this one."""
    query = "SELECT 1 FROM item WHERE slot = ? AND metadata = ?"
    return db.execute(query, (slot, _metadata_text(item))).fetchone() is not None


def _metadata_text(item: Item) -> str:
    if not isinstance(item.metadata, dict):
        raise TypeError(f"metadata of {item.key!r} is a dict, not {type(item.metadata).__name__}")
    for name in item.metadata:
        if not isinstance(name, str):  # JSON would make 1 and "1" the same
            raise TypeError(
                f"metadata of {item.key!r} that JSON cannot hold: its names are str, not "
                f"{type(name).__name__}: {name!r}"
            )
    try:
        return json.dumps(item.metadata, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"metadata of {item.key!r} that JSON cannot hold: {error}") from error


def release_key(db: sqlite3.Connection, slot: int) -> None:
    """Free the key and the path of an item that `write_item` is about to give others."""
    # A blob equals no text: until then, no other item's key is in the way.
    db.execute("UPDATE item SET key = CAST(slot AS BLOB), path = NULL WHERE slot = ?", (slot,))


def delete_item(db: sqlite3.Connection, path: Path, slot: int, last: int) -> None:
    """Empty a slot, and move the item in the last slot there: slots have no gaps.

    Raises:
        GalleryCorrupt: the last item is not as it was written; it must not come out whole.
    """
    db.execute("DELETE FROM item WHERE slot = ?", (slot,))
    if slot != last:
        row = _read_row(db, path, last)
        _checked(path, row)
        crc = item_crc(slot, *row[1:-1])
        db.execute("UPDATE item SET slot = ?, crc = ? WHERE slot = ?", (slot, crc, last))


def _read_row(db: sqlite3.Connection, path: Path, slot: int) -> tuple[Any, ...]:
    """`COLUMNS` and crc of the item in a slot that is known to be taken."""
    row = db.execute(f"SELECT {COLUMNS}, crc FROM item WHERE slot = ?", (slot,)).fetchone()
    if row is None:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is missing")
    found: tuple[Any, ...] = row
    return found


def _checked(path: Path, row: tuple[Any, ...]) -> Row:
    """(slot, key, metadata, file) of a row of `COLUMNS` and crc."""
    *values, crc = row
    slot, key, metadata, *state = values
    file = None if state[0] is None else FileState(*state)
    # Whoever means harm can also write a checksum.
    is_sane = isinstance(key, str) and isinstance(metadata, str) and _is_sane(file)
    if not is_sane or item_crc(*values) != crc:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}, {file}")
    return slot, key, metadata, file


def item_crc(
    slot: int,
    key: str,
    metadata: str,
    path: bytes | None,
    size: int | None,
    mtime_ns: int | None,
    ctime_ns: int | None,
    content: bytes | None,
) -> int:
    """CRC-32 of the columns, UTF-8: each but the last with a zero byte behind it, NULL as "None".

    A path and a content that are NULL are empty.
    """
    text = f"{slot}\0{key}\0{metadata}\0{size}\0{mtime_ns}\0{ctime_ns}\0"
    return zlib.crc32(b"%b%b\0%b" % (text.encode(), path or b"", content or b""))


def _is_sane(file: FileState | None) -> bool:
    return file is None or (
        isinstance(file.path, bytes)
        and isinstance(file.content, bytes)
        # Not True, which is an int, but comes back as 1.
        and all(
            type(n) is int and -(2**63) <= n < 2**63
            for n in (file.size, file.mtime_ns, file.ctime_ns)
        )
    )
