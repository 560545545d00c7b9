"""Items of a gallery: what an item is, and how it is stored as a row.

All SQL on the table `item` is here. file_format.py has the other tables, store.py the transactions.
"""

import hashlib
import json
import operator
import os
import re
import sqlite3
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt
from bitgaze.gallery.filters import RANGE_OPERATORS, Condition, like
from bitgaze.gallery.metadata import MAX_BYTES, from_text, to_text
from bitgaze.hamming import HammingIndex

# In the order of the arguments of `item_crc`.
COLUMNS = "slot, key, metadata, path, size, mtime_ns, ctime_ns, content"
# The indexes that SQLite creates for UNIQUE columns.
_INDEXES = {"key": "sqlite_autoindex_item_1", "path": "sqlite_autoindex_item_2"}

CHANGED = "changed since it was added"


@dataclass(frozen=True)
class FileState:
    """The file that an item was made from, as sync last saw it.

    Attributes:
        path: absolute path, as the operating system's bytes.
        size: in bytes.
        mtime_ns: modification time in nanoseconds.
        ctime_ns: change time in nanoseconds, as in `os.stat`. On most file systems a rename changes
            it too, and a copy does not keep it.
        content: BLAKE2b digest of the file's bytes, 16 bytes.
    """

    path: bytes
    size: int
    mtime_ns: int
    ctime_ns: int
    content: bytes


@dataclass(frozen=True)
class Item:
    """One entry of a gallery: an image's key, code and metadata, without its pixels.

    Attributes:
        key: unique name. Sync uses the file's path as text.
        code: uint8, (bits // 8,).
        metadata: a JSON object as a dict.
        file: the file that sync made the item from; None for an item added by hand.
    """

    key: str
    code: NDArray[np.uint8]
    metadata: dict[str, Any] = field(default_factory=dict)
    file: FileState | None = None

    @property
    def path(self) -> str | None:
        """Path of the file, ready for `open`; None for an item added by hand."""
        return None if self.file is None else os.fsdecode(self.file.path)


class ImageRef(NamedTuple):
    """A reference to the image that an item's code was made from.

    Attributes:
        key: the item's key.
        file: the file that sync made the item from; None for an item added by hand.
        identity: 16 bytes; equal for equal images.
    """

    key: str
    file: FileState | None
    identity: bytes


_INDEXED_TYPES = {"key": str, "path": bytes}
# The bytes that `item_crc` covers, joined by SQLite; NULL if a column has the wrong type.
_CRC_INPUT = (
    "CASE WHEN typeof(key) = 'text' AND typeof(metadata) = 'text' AND (path IS NULL OR"
    " typeof(path) = 'blob' AND typeof(content) = 'blob' AND typeof(size) = 'integer'"
    " AND typeof(mtime_ns) = 'integer' AND typeof(ctime_ns) = 'integer') THEN CAST("
    "slot || x'00' || key || x'00' || metadata || x'00' || ifnull(size, 'None') || x'00'"
    " || ifnull(mtime_ns, 'None') || x'00' || ifnull(ctime_ns, 'None') || x'00'"
    " || ifnull(path, '') || x'00' || ifnull(content, '') AS BLOB) END"
)
_BATCH_ROWS = 4096
# Of metadata, which can have 16 MB each.
_BATCH_TEXTS = 256
# Of a file's path and digest; systems take 4 KB at most.
_MAX_FILE_BYTES = 1 << 20
_FORMS: tuple[Literal["NFC"], Literal["NFD"]] = ("NFC", "NFD")
_SURROGATES = re.compile("[\ud800-\udfff]")

# (slot, key, metadata as JSON, file)
Row: TypeAlias = tuple[int, str, str, FileState | None]


def read_items(db: sqlite3.Connection, path: Path, count: int) -> Iterator[Row]:
    """Read (slot, key, metadata as JSON, file) of every item, in slot order.

    Raises:
        GalleryCorrupt: the number of items is not `count`, or an item is damaged.
    """
    for slot, key, metadata, *state in _verified_rows(db, path, count, COLUMNS):
        yield slot, key, metadata, None if state[0] is None else FileState(*state)


def check_items(db: sqlite3.Connection, path: Path, count: int) -> None:
    """Verify the checksum of every item; takes 2 s for a million.

    Raises:
        GalleryCorrupt: the number of items is not `count`, or an item is damaged.
    """
    for _ in _verified_rows(db, path, count, "NULL"):
        pass


def _verified_rows(
    db: sqlite3.Connection, path: Path, count: int, columns: str
) -> Iterator[tuple[Any, ...]]:
    """Some columns of every item, in slot order, after verifying the whole row's checksum.

    Works on thousands of rows at a time, since a step of Python takes longer than a checksum: 1 us
    per item.
    """
    rows = db.execute(
        f"SELECT {columns}, slot, crc, {_CRC_INPUT} FROM item NOT INDEXED ORDER BY slot"
    )
    first = 0
    while batch := rows.fetchmany(_BATCH_ROWS):
        *selected, slots, crcs, contents = zip(*batch, strict=True)
        is_intact = (
            slots == tuple(range(first, first + len(batch)))
            and None not in contents
            and tuple(map(zlib.crc32, contents)) == crcs
        )
        if not is_intact:
            for slot in range(first, first + len(batch)):
                _verified(path, _read_row(db, path, slot))  # the error names the damaged item
            raise GalleryCorrupt(f"{path}: items from slot {first} on are damaged")
        first += len(batch)
        yield from zip(*selected, strict=True)
    if first != count:
        raise GalleryCorrupt(f"{path}: holds {first} items but {count} codes")


def find_slot(db: sqlite3.Connection, key: str) -> int | None:
    """The slot of the item with this key, or None.

    Raises:
        TypeError: the key is not a str.
    """
    if not isinstance(key, str):  # SQLite would find "5" for 5
        raise TypeError(f"key must be a str, got {type(key).__name__}: {key!r}")
    try:
        row = db.execute("SELECT slot FROM item WHERE key = ?", (key,)).fetchone()
    except UnicodeEncodeError:  # a lone surrogate: possible in a path, but not in a stored key
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
    """Verify the indexes of keys and paths, so that a failed lookup means a missing item.

    Lookups are reliable if each index is sorted and holds exactly the items' values.

    Raises:
        GalleryCorrupt: an index is damaged.
    """
    for column, index in _INDEXES.items():
        query = f"SELECT {column}, slot FROM item {{}} WHERE {column} IS NOT NULL"
        count = total = 0
        last: tuple[Any, ...] = ()
        rows = db.execute(query.format(f"INDEXED BY {index}") + f" ORDER BY {column}")
        while batch := rows.fetchmany(_BATCH_ROWS):
            values = [*last, *(value for value, _ in batch)]
            # A value of another type does not belong here and cannot be compared.
            has_one_type = set(map(type, values)) == {_INDEXED_TYPES[column]}
            if not has_one_type or not all(map(operator.lt, values, values[1:])):
                raise GalleryCorrupt(f"{path}: the {column} index is damaged near {values[0]!r}")
            last = (values[-1],)
            count += len(batch)
            total += sum(map(hash, batch))
        rows = db.execute(query.format("NOT INDEXED"))
        while batch := rows.fetchmany(_BATCH_ROWS):
            count -= len(batch)
            total -= sum(map(hash, batch))
        if count or total:
            raise GalleryCorrupt(
                f"{path}: the {column} index is damaged: it does not match the items"
            )


def read_item(db: sqlite3.Connection, path: Path, slot: int, code: NDArray[np.uint8]) -> Item:
    """The item in an occupied slot; the caller supplies its code.

    Raises:
        GalleryCorrupt: the item is missing or damaged.
    """
    found, key, text, file = _verified(path, _read_row(db, path, slot))
    if found != slot:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}")
    return Item(key, code, read_metadata(path, text, key), file)


def read_metadata(path: Path, text: str, key: str = "an item") -> dict[str, Any]:
    """Parse an item's metadata.

    Args:
        path: the gallery's file, for messages.
        text: as stored.
        key: of the item, for messages.

    Raises:
        GalleryCorrupt: the text is not a JSON object.
    """
    try:
        return from_text(text)
    except ValueError as error:
        raise GalleryCorrupt(f"{path}: the metadata of {key!r} is damaged: {error}") from error


def read_image_refs(db: sqlite3.Connection, path: Path, codes: HammingIndex) -> list[ImageRef]:
    """A reference to every item's image, in slot order.

    Args:
        db: connection to the gallery.
        path: the gallery's file, for messages.
        codes: codes of all items.

    Raises:
        GalleryCorrupt: an item is missing or damaged.
    """
    refs: list[ImageRef] = []
    for slot, key, _, file in read_items(db, path, len(codes)):
        # Without a file, a replaced image is only visible by its new code.
        identity = (
            hashlib.blake2b(key.encode() + codes[slot].tobytes(), digest_size=16).digest()
            if file is None
            else file.content
        )
        refs.append(ImageRef(key, file, identity))
    return refs


def read_texts(db: sqlite3.Connection, path: Path, slots: Sequence[int]) -> Iterator[list[str]]:
    """The metadata as JSON of the items in some slots, ascending, after verifying each row.

    Returns:
        Lists of at most some hundred texts.

    Raises:
        GalleryCorrupt: an item is missing or damaged.
    """
    if not slots:
        return
    is_range = slots[-1] - slots[0] + 1 == len(slots)
    rows = db.execute(
        f"SELECT slot, metadata, crc, {_CRC_INPUT} FROM item NOT INDEXED WHERE slot "
        + ("BETWEEN ? AND ?" if is_range else "IN (SELECT value FROM json_each(?))")
        + " ORDER BY slot",
        (slots[0], slots[-1]) if is_range else (json.dumps(slots),),
    )
    for first in range(0, len(slots), _BATCH_TEXTS):
        expected = tuple(slots[first : first + _BATCH_TEXTS])
        batch = rows.fetchmany(_BATCH_TEXTS)
        found, texts, crcs, contents = zip(*batch, strict=True) if batch else ((),) * 4
        is_intact = (
            found == expected and None not in contents and tuple(map(zlib.crc32, contents)) == crcs
        )
        if not is_intact:
            for slot in expected:
                _verified(path, _read_row(db, path, slot))  # the error names the damaged item
            raise GalleryCorrupt(f"{path}: items from slot {expected[0]} on are damaged")
        yield list(texts)


def match_keys(
    db: sqlite3.Connection,
    condition: Condition,
    count: int,
    find: Callable[[str], int | None],
    check: Callable[[], None],
) -> NDArray[np.bool_]:
    """Which of `count` items have a key that meets a condition: bool, (count,), by slot.

    Args:
        db: connection to the gallery.
        condition: on the key.
        count: number of items.
        find: the slot of the item with a key, or None.
        check: verifies all items; called for conditions that look at each key, since a damaged key
            could hide.
    """
    matches = np.zeros(count, bool)
    operands = condition.operand if condition.operator == "in" else (condition.operand,)
    for operand in operands:
        if not isinstance(operand, str):
            continue  # keys are strings
        if condition.operator in RANGE_OPERATORS:
            check()
            # Compares bytes, since UTF-8 sorts by code point. The operator is one of
            # RANGE_OPERATORS, and the operand is a parameter.
            rows: Iterable[tuple[int]] = db.execute(
                f"SELECT slot FROM item NOT INDEXED WHERE CAST(key AS BLOB) {condition.operator} ?",
                (operand.encode(errors="surrogatepass"),),
            )
            matches[[slot for (slot,) in rows]] = True
            continue
        if _SURROGATES.search(operand):
            continue  # keys are valid Unicode
        # Stored keys have the spelling of their files' names, which differs between systems.
        for text in {operand, *(unicodedata.normalize(form, operand) for form in _FORMS)}:
            if condition.operator == "like":
                check()
                matches[list(_like(db, text))] = True
            elif (slot := find(text)) is not None:
                matches[slot] = True
    return ~matches if condition.operator == "!=" else matches


def _like(db: sqlite3.Connection, pattern: str) -> Iterator[int]:
    """Slots of the keys that match a pattern, in its spelling."""
    # SQLite's LIKE stops at a NUL.
    matches_pattern = like(pattern)
    found = db.execute(
        "SELECT slot, key FROM item NOT INDEXED WHERE key LIKE ?"
        " OR instr(CAST(key AS BLOB), x'00')",
        (pattern,),
    )
    return (slot for slot, key in found if "\0" not in key or matches_pattern(key))


def content_digest(path: str | bytes) -> bytes:
    """Digest of a file, as in `FileState.content`; `path` as in `FileState.path` or as text.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:  # noqa: PTH123
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()


def reason_changed(file: FileState) -> str | None:
    """Why a file no longer holds the item's image; None if it still does. Reads the whole file."""
    try:
        digest = content_digest(file.path)
    except OSError as error:
        return error.strerror or str(error)
    return None if digest == file.content else CHANGED


def write_item(db: sqlite3.Connection, slot: int, item: Item) -> None:
    """Write an item's row into a slot; `file_format.write_chunk` writes its code.

    Raises:
        TypeError: metadata that is not a JSON object, or a file that is not a valid `FileState`.
        ValueError: a key with a lone surrogate or of more than `MAX_BYTES`, or metadata beyond the
            limits of metadata.py.
    """
    # SQLite would store a lone surrogate and could not read it back.
    if len(item.key.encode()) > MAX_BYTES:
        raise ValueError(f"a key has more than {MAX_BYTES:,} bytes: {item.key[:80]!r}...")
    file = item.file
    if not _is_valid(file):
        raise TypeError(
            f"file of {item.key!r} is {file}, expected path and content as bytes of at most "
            f"{_MAX_FILE_BYTES:,}, and size, mtime_ns and ctime_ns as integers of at most 64 bits"
        )
    state = (
        (None,) * 5
        if file is None
        else (file.path, file.size, file.mtime_ns, file.ctime_ns, file.content)
    )
    row = (slot, item.key, _metadata_text(item), *state)
    db.execute(
        # Not INSERT OR REPLACE: a path that belongs to another item must raise, not delete it.
        f"INSERT INTO item({COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT(slot) DO UPDATE SET key = excluded.key, metadata = excluded.metadata,"
        " path = excluded.path, size = excluded.size, mtime_ns = excluded.mtime_ns,"
        " ctime_ns = excluded.ctime_ns, content = excluded.content, crc = excluded.crc",
        (*row, item_crc(*row)),
    )


def has_same_metadata(db: sqlite3.Connection, slot: int, item: Item) -> bool:
    """Whether the stored item in a slot has the same metadata as `item`."""
    query = "SELECT 1 FROM item WHERE slot = ? AND metadata = ?"
    return db.execute(query, (slot, _metadata_text(item))).fetchone() is not None


def _metadata_text(item: Item) -> str:
    if not isinstance(item.metadata, dict):
        raise TypeError(
            f"metadata of {item.key!r} must be a dict, got {type(item.metadata).__name__}"
        )
    for name in item.metadata:
        if not isinstance(name, str):  # JSON would turn 1 and "1" into the same name
            raise TypeError(
                f"field names in metadata of {item.key!r} must be str, got "
                f"{type(name).__name__}: {name!r}"
            )
    try:
        return to_text(item.metadata)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"metadata of {item.key!r} cannot be represented in JSON: {error}") from error


def release_key(db: sqlite3.Connection, slot: int) -> None:
    """Free an item's key and path, before `write_item` gives it new ones."""
    # A blob equals no text, so the placeholder collides with no item's key.
    db.execute("UPDATE item SET key = CAST(slot AS BLOB), path = NULL WHERE slot = ?", (slot,))


def delete_item(db: sqlite3.Connection, path: Path, slot: int, last: int) -> None:
    """Delete the item in a slot and move the last item there, since slots have no gaps.

    Raises:
        GalleryCorrupt: the last item is damaged; moving it would give it a valid checksum.
    """
    db.execute("DELETE FROM item WHERE slot = ?", (slot,))
    if slot != last:
        row = _read_row(db, path, last)
        _verified(path, row)
        crc = item_crc(slot, *row[1:-1])
        db.execute("UPDATE item SET slot = ?, crc = ? WHERE slot = ?", (slot, crc, last))


def _read_row(db: sqlite3.Connection, path: Path, slot: int) -> tuple[Any, ...]:
    """`COLUMNS` and crc of the item in an occupied slot."""
    row = db.execute(f"SELECT {COLUMNS}, crc FROM item WHERE slot = ?", (slot,)).fetchone()
    if row is None:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is missing")
    found: tuple[Any, ...] = row
    return found


def _verified(path: Path, row: tuple[Any, ...]) -> Row:
    """(slot, key, metadata, file) of a row of `COLUMNS` and crc, after verifying its checksum."""
    *values, crc = row
    slot, key, metadata, *state = values
    file = None if state[0] is None else FileState(*state)
    # Types too: a file made with malice has valid checksums.
    is_valid = isinstance(key, str) and isinstance(metadata, str) and _is_valid(file)
    if not is_valid or item_crc(*values) != crc:
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
    """CRC-32 of the columns as UTF-8, each but the last followed by a zero byte.

    The order is that of `_CRC_INPUT`. NULL is "None" for a number, and empty for path and content.
    """
    text = f"{slot}\0{key}\0{metadata}\0{size}\0{mtime_ns}\0{ctime_ns}\0"
    return zlib.crc32(b"%b%b\0%b" % (text.encode(), path or b"", content or b""))


def _is_valid(file: FileState | None) -> bool:
    return file is None or (
        isinstance(file.path, bytes)
        and isinstance(file.content, bytes)
        and len(file.path) + len(file.content) <= _MAX_FILE_BYTES
        # `type`, since True is an int too and would be read back as 1.
        and all(
            type(n) is int and -(2**63) <= n < 2**63
            for n in (file.size, file.mtime_ns, file.ctime_ns)
        )
    )
