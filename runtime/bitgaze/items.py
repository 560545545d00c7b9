"""Items in a gallery's file: what one is, and its row.

Knows the table `item` and its SQL. Does not know codes in chunks (gallery_file.py), transactions
(store.py) or pictures.
"""

import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import GalleryCorrupt
from bitgaze.hamming import HammingIndex
from bitgaze.where import Condition

# json.dumps writes others, and SQLite looks for them, with escapes.
_PLAIN_NAME = re.compile(r"[ !#-\[\]-~]*")


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
    """One picture of a gallery.

    Attributes:
        key: unique name; for an item that sync looks after, the file's path as text.
        code: uint8, (bits // 8,).
        metadata: a JSON object.
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


class Picture(NamedTuple):
    """What an item's code was made from.

    Attributes:
        key: of the item.
        file: where sync found it, or None for an item added by hand.
        identity: 16 bytes; where they are equal, so are the pictures.
    """

    key: str
    file: FileState | None
    identity: bytes


def read_keys(db: sqlite3.Connection) -> list[str]:
    """All keys, in order of slots."""
    return [key for (key,) in db.execute("SELECT key FROM item ORDER BY slot")]


def find_slot(db: sqlite3.Connection, key: str, *, use_index: bool = True) -> int | None:
    """The slot of the item with this key, or None; without its index, every item is looked at."""
    if not isinstance(key, str):  # SQLite would find "5" for 5
        raise TypeError(f"a key is a str, not {type(key).__name__}: {key!r}")
    table = "item" if use_index else "item NOT INDEXED"
    try:
        row = db.execute(f"SELECT slot FROM {table} WHERE key = ?", (key,)).fetchone()
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


def read_item(db: sqlite3.Connection, path: Path, slot: int, code: NDArray[np.uint8]) -> Item:
    """The item in a slot that is known to be taken; its code comes from the index.

    Raises:
        GalleryCorrupt: its columns do not hold what they should.
    """
    row = db.execute(
        "SELECT key, metadata, path, size, mtime_ns, ctime_ns, content FROM item WHERE slot = ?",
        (slot,),
    ).fetchone()
    if row is None:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is missing")
    key, metadata, *state = row
    file = None if state[0] is None else FileState(*state)
    try:
        item = Item(key, code, json.loads(metadata), file)
    except (ValueError, TypeError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: metadata of item {key!r} is damaged: {error}") from error
    if not (isinstance(key, str) and isinstance(item.metadata, dict) and _is_sane(file)):
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {item}")
    return item


def read_pictures(db: sqlite3.Connection, path: Path, codes: HammingIndex) -> list[Picture]:
    """Of every item, in order of slots, what its code was made from.

    Args:
        db: the gallery.
        path: of its file, for messages.
        codes: of all items.

    Raises:
        GalleryCorrupt: columns do not hold what they should.
    """
    pictures: list[Picture] = []
    rows = db.execute(
        "SELECT slot, key, path, size, mtime_ns, ctime_ns, content FROM item ORDER BY slot"
    )
    for slot, key, *state in rows:
        file = None if state[0] is None else FileState(*state)
        if not (isinstance(key, str) and _is_sane(file)):
            raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}, {file}")
        # Of a picture that only the caller knows, another code tells that it is another.
        identity = (
            hashlib.blake2b(key.encode() + codes[slot].tobytes(), digest_size=16).digest()
            if file is None
            else file.content
        )
        pictures.append(Picture(key, file, identity))
    return pictures


def read_field(db: sqlite3.Connection, name: str) -> Iterator[str | None]:
    """Of every item, in order of slots, what its metadata has under a name, as JSON, or None.

    Raises:
        ValueError: metadata that is no JSON object.
    """
    if _PLAIN_NAME.fullmatch(name):
        try:
            for (text,) in db.execute(
                "SELECT metadata -> ? FROM item ORDER BY slot", (f'$."{name}"',)
            ):
                yield text
        except sqlite3.OperationalError as error:  # "malformed JSON"
            raise ValueError(str(error)) from error
        return
    # SQLite's paths have no escapes.
    for (text,) in db.execute("SELECT metadata FROM item ORDER BY slot"):
        metadata = json.loads(text)
        if not isinstance(metadata, dict):
            raise ValueError(f"{metadata!r} is not an object")
        yield json.dumps(metadata[name]) if name in metadata else None


def keys_that_match(db: sqlite3.Connection, condition: Condition, count: int) -> NDArray[np.bool_]:
    """Which of so many items have a key that fulfils a condition: bool, (count,), by slot."""
    matches = np.zeros(count, bool)
    operands = condition.operand if condition.operator == "in" else (condition.operand,)
    operator = "=" if condition.operator in ("in", "!=") else condition.operator
    for operand in operands:
        if not isinstance(operand, str):
            continue  # a key is a text
        # The operator is one of where.py's, the operand a parameter.
        rows = db.execute(f"SELECT slot FROM item WHERE key {operator} ?", (operand,))
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


def write_item(db: sqlite3.Connection, slot: int, item: Item) -> None:
    """Put an item into a slot; its code goes to `write_chunk`."""
    if not isinstance(item.metadata, dict):
        raise TypeError(f"metadata is a dict, not {type(item.metadata).__name__}")
    item.key.encode()  # SQLite would store half of a surrogate pair and never give it back
    file = item.file
    state = (
        (None,) * 5
        if file is None
        else (file.path, file.size, file.mtime_ns, file.ctime_ns, file.content)
    )
    db.execute(
        # Not INSERT OR REPLACE: a path that another key owns must raise, not delete that item.
        "INSERT INTO item(slot, key, metadata, path, size, mtime_ns, ctime_ns, content)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(slot) DO UPDATE SET key = excluded.key,"
        " metadata = excluded.metadata, path = excluded.path, size = excluded.size,"
        " mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns, content = excluded.content",
        (slot, item.key, json.dumps(item.metadata, allow_nan=False), *state),
    )


def release_key(db: sqlite3.Connection, slot: int) -> None:
    """Free the key and the path of an item that `write_item` is about to give others."""
    # A blob equals no text: until then, no other item's key is in the way.
    db.execute("UPDATE item SET key = CAST(slot AS BLOB), path = NULL WHERE slot = ?", (slot,))


def delete_item(db: sqlite3.Connection, slot: int, last: int) -> None:
    """Empty a slot, and move the item in the last slot there: slots have no gaps."""
    db.execute("DELETE FROM item WHERE slot = ?", (slot,))
    db.execute("UPDATE item SET slot = ? WHERE slot = ?", (slot, last))


def read_files(db: sqlite3.Connection, prefix: bytes) -> dict[str, FileState]:
    """Key to file of the items whose path begins with these bytes."""
    rows = db.execute(
        "SELECT key, path, size, mtime_ns, ctime_ns, content FROM item"
        " WHERE substr(path, 1, ?) = ?",
        (len(prefix), prefix),
    )
    return {key: FileState(*state) for key, *state in rows}


def _is_sane(file: FileState | None) -> bool:
    return file is None or (
        isinstance(file.path, bytes)
        and isinstance(file.content, bytes)
        and all(isinstance(n, int) for n in (file.size, file.mtime_ns, file.ctime_ns))
    )
