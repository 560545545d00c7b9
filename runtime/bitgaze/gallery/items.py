"""Items of a gallery: what an item is, and how it is stored as a row.

All SQL on the table `item` is here. chunks.py has the codes, store.py the transactions.
"""

import hashlib
import json
import os
import re
import sqlite3
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.encoder import Encoded
from bitgaze.encoding.images import ImageFile, printable
from bitgaze.encoding.likely import Likely
from bitgaze.errors import GalleryCorrupt, ImageError
from bitgaze.gallery.chunks import SLOTS, Sums, unsigned
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.lookup import Kind
from bitgaze.gallery.metadata import MAX_BYTES, from_text, to_text
from bitgaze.hamming import HammingIndex

# In the order of the arguments of `item_crc`.
COLUMNS_2 = "slot, key, metadata, path, size, mtime_ns, ctime_ns, content"  # of format 2
COLUMNS = f"{COLUMNS_2}, properties, boxes, classes"

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


_NO_LOOKS = np.empty((0, 0), np.uint8)
_NO_BOXES = np.empty((0, 4), np.float32)


@dataclass(frozen=True)
class Item:
    """One entry of a gallery: an image's key, code and metadata, without its pixels.

    Attributes:
        key: unique name. Sync uses the file's path as text.
        code: uint8, (bits // 8,).
        metadata: a JSON object as a dict.
        file: the file that sync made the item from; None for an item added by hand.
        looks: codes of looks, parts of the image: uint8, (m, bits // 8).
        boxes: where the looks are: float32, (m, 4): x0, y0, x1, y1 in [0, 1] of the upright image,
            stored in steps of 1/65535.
        structure: structural code, uint8, (structure bits // 8,); None if not known. A gallery
            without structural codes leaves it out.
        properties: what the image's file says of itself, a JSON object as a dict; None if not read.
        classes: likely classes of the image and its looks, as `bitgaze.encoding.likely` packs them;
            None if not known.
    """

    key: str
    code: NDArray[np.uint8]
    metadata: dict[str, Any] = field(default_factory=dict)
    file: FileState | None = None
    looks: NDArray[np.uint8] = field(default_factory=lambda: _NO_LOOKS)
    boxes: NDArray[np.float32] = field(default_factory=lambda: _NO_BOXES)
    structure: NDArray[np.uint8] | None = None
    properties: dict[str, Any] | None = None
    classes: bytes | None = None

    @classmethod
    def of_image(
        cls,
        key: str,
        encoded: Encoded,
        row: int = 0,
        metadata: Mapping[str, Any] | None = None,
        file: FileState | None = None,
        properties: dict[str, Any] | None = None,
    ) -> "Item":
        """The item for one of the images that `Gallery.encode` has encoded.

        Args:
            key: of the item.
            encoded: the gallery's codes of some images.
            row: of the image.
            metadata: of the item.
            file: the file that sync makes the item from.
            properties: as in `Item`.
        """
        # An image with fewer places to look at repeats itself, whose box is the whole.
        is_look = (encoded.boxes[row] != (0, 0, 1, 1)).any(axis=1)
        return cls(
            key,
            encoded.codes[row],
            dict(metadata or {}),
            file,
            encoded.looks[row][is_look],
            encoded.boxes[row][is_look],
            encoded.structure[row],
            properties,
            encoded.classes[row] or None,
        )

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


# The bytes that `item_crc` covers, joined by SQLite; NULL if a column has the wrong type.
_CRC_INPUT = (
    "CASE WHEN typeof(key) = 'text' AND typeof(metadata) = 'text' AND (path IS NULL OR"
    " typeof(path) = 'blob' AND typeof(content) = 'blob' AND typeof(size) = 'integer'"
    " AND typeof(mtime_ns) = 'integer' AND typeof(ctime_ns) = 'integer')"
    " AND typeof(properties) IN ('text', 'null') AND typeof(boxes) IN ('blob', 'null')"
    " AND typeof(classes) IN ('blob', 'null') THEN CAST("
    "slot || x'00' || key || x'00' || metadata || x'00' || ifnull(size, 'None') || x'00'"
    " || ifnull(mtime_ns, 'None') || x'00' || ifnull(ctime_ns, 'None') || x'00'"
    " || ifnull(path, '') || x'00' || ifnull(content, '')"
    " || CASE WHEN coalesce(properties, boxes, classes) IS NULL THEN '' ELSE x'00'"
    " || ifnull(properties, '') || x'00' || ifnull(boxes, '') || x'00' || ifnull(classes, '') END"
    " AS BLOB) END"
)
_INSERT = f"INSERT INTO item({COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_BATCH_ROWS = 4096
BOX_STEPS = 65535
_BOX_BYTES = 8
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
    for slot, key, metadata, *state in _verified_rows(db, path, count, COLUMNS_2):
        yield slot, key, metadata, None if state[0] is None else FileState(*state)


def read_records(
    db: sqlite3.Connection, path: Path, count: int
) -> Iterator[tuple[str, str, bytes | None]]:
    """Read (key, metadata as JSON, boxes as stored) of every item, in slot order.

    Raises:
        GalleryCorrupt: the number of items is not `count`, or an item is damaged.
    """
    yield from _verified_rows(db, path, count, "key, metadata, boxes")


def check_sums(db: sqlite3.Connection, path: Path, sums: Sums) -> None:
    """Compare the sums of stored checksums, not the items: takes 0.3 s for a million.

    Raises:
        GalleryCorrupt: they differ.
    """
    for problem in sum_problems(db, sums):
        raise GalleryCorrupt(f"{path}: {problem}")


def sum_problems(db: sqlite3.Connection, sums: Sums) -> Iterator[str]:
    """The chunks whose items are not those that were stored with them, a sentence each."""
    slots = SLOTS["chunk"]
    query = f"SELECT slot / {slots}, sum(crc) FROM item NOT INDEXED GROUP BY 1"
    found = {n: unsigned(total) for n, total in db.execute(query)}
    for n, expected in enumerate(sums.items):
        if found.get(n, 0) != expected:
            first = n * slots
            yield (
                f"the items in slots {first} to {first + slots - 1} are not those that were "
                f"stored with chunk {n} of the codes: one is damaged, or they are of another state "
                "of the file"
            )


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


def names(db: sqlite3.Connection, count: int) -> Iterator[tuple[Kind, str | bytes, int]]:
    """(kind, name, slot) of every key and path, as the lookup must have them."""
    query = "SELECT slot, key, path FROM item NOT INDEXED WHERE slot >= 0 AND slot < ?"
    for slot, key, path in db.execute(query, (count,)):
        if isinstance(key, str):
            yield "key", key, slot
        if isinstance(path, bytes):
            yield "path", path, slot


def read_item(
    db: sqlite3.Connection,
    path: Path,
    slot: int,
    code: NDArray[np.uint8],
    looks: NDArray[np.uint8],
    structure: NDArray[np.uint8],
    columns: str = COLUMNS,
) -> Item:
    """The item in an occupied slot.

    Args:
        db: connection to the gallery.
        path: the gallery's file, for messages.
        slot: of the item.
        code: the item's, uint8, (bits // 8,).
        looks: codes of its looks and of free places, uint8, (m, bits // 8).
        structure: its structural code, uint8; zero if not known.
        columns: what to select as `COLUMNS`, in a file of an older format.

    Raises:
        GalleryCorrupt: the item is missing or damaged.
    """
    found, key, text, file, properties, packed, classes = _verified(
        path, _read_row(db, path, slot, columns)
    )
    if found != slot or (packed is not None and len(packed) > len(looks) * _BOX_BYTES):
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}")
    metadata = read_metadata(path, text, key)
    boxes = _NO_BOXES if packed is None else _unpacked(packed)
    return Item(
        key,
        code,
        metadata,
        file,
        looks[: len(boxes)].copy() if len(boxes) else _NO_LOOKS,
        boxes,
        structure.copy() if len(structure) and structure.any() else None,
        None if properties is None else read_metadata(path, properties, key),
        classes,
    )


def _packed(boxes: NDArray[np.float32]) -> bytes | None:
    if not len(boxes):
        return None
    steps = np.rint(np.asarray(boxes, np.float64) * BOX_STEPS)
    return steps.astype("<u2").tobytes()


def _unpacked(packed: bytes) -> NDArray[np.float32]:
    steps = np.frombuffer(packed, "<u2").reshape(-1, 4)
    return (steps / BOX_STEPS).astype(np.float32)


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
        identity = image_identity(key, None if file is None else file.content, codes[slot])
        refs.append(ImageRef(key, file, identity))
    return refs


def image_identity(key: str, content: bytes | None, code: NDArray[np.uint8]) -> bytes:
    """`ImageRef.identity` of an item, given the digest of its file, or None without one."""
    if content is not None:
        return content
    # Without a file, a replaced image is only visible by its new code.
    return hashlib.blake2b(key.encode() + code.tobytes(), digest_size=16).digest()


def read_identity(db: sqlite3.Connection, slot: int, code: NDArray[np.uint8]) -> bytes:
    """`ImageRef.identity` of the item in an occupied slot, without verifying the row."""
    key, content = db.execute("SELECT key, content FROM item WHERE slot = ?", (slot,)).fetchone()
    return image_identity(str(key), content, code)


def contents_among(db: sqlite3.Connection, contents: Iterable[bytes]) -> set[bytes]:
    """Those of some digests that files of items have. Looks at all items: 0.3 s for a million."""
    marks = json.dumps([content.hex().upper() for content in contents])
    query = "SELECT content FROM item WHERE hex(content) IN (SELECT value FROM json_each(?))"
    return {content for (content,) in db.execute(query, (marks,))}


def keys_without_file(db: sqlite3.Connection) -> Iterator[tuple[int, str]]:
    """(slot, key) of the items that were added by hand, without verifying the rows."""
    for slot, key in db.execute("SELECT slot, key FROM item WHERE content IS NULL"):
        yield slot, str(key)


def read_texts(
    db: sqlite3.Connection, path: Path, slots: Sequence[int]
) -> Iterator[tuple[Sequence[str], Sequence[str], Sequence[str | None]]]:
    """Keys, metadata and properties of the items in some slots, ascending; verifies each row.

    Returns:
        Keys, metadata as JSON, and properties as JSON or None, of at most some hundred items at a
        time.

    Raises:
        GalleryCorrupt: an item is missing or damaged.
    """
    if not slots:
        return
    is_range = slots[-1] - slots[0] + 1 == len(slots)
    rows = db.execute(
        f"SELECT slot, key, metadata, properties, crc, {_CRC_INPUT}"
        " FROM item NOT INDEXED WHERE slot "
        + ("BETWEEN ? AND ?" if is_range else "IN (SELECT value FROM json_each(?))")
        + " ORDER BY slot",
        (slots[0], slots[-1]) if is_range else (json.dumps(slots),),
    )
    for first in range(0, len(slots), _BATCH_TEXTS):
        expected = tuple(slots[first : first + _BATCH_TEXTS])
        batch = rows.fetchmany(_BATCH_TEXTS)
        found, keys, texts, properties, crcs, contents = (
            zip(*batch, strict=True) if batch else ((),) * 6
        )
        is_intact = (
            found == expected and None not in contents and tuple(map(zlib.crc32, contents)) == crcs
        )
        if not is_intact:
            for slot in expected:
                _verified(path, _read_row(db, path, slot))  # the error names the damaged item
            raise GalleryCorrupt(f"{path}: items from slot {expected[0]} on are damaged")
        yield keys, texts, properties


def read_classes(db: sqlite3.Connection, path: Path, first: int, end: int) -> list[bytes | None]:
    """Likely classes, as stored, of the items in slots `first` to `end` - 1; verifies each row.

    Raises:
        GalleryCorrupt: an item is missing or damaged.
    """
    rows = db.execute(
        f"SELECT slot, classes, crc, {_CRC_INPUT} FROM item NOT INDEXED"
        " WHERE slot >= ? AND slot < ? ORDER BY slot",
        (first, end),
    ).fetchall()
    slots, classes, crcs, contents = zip(*rows, strict=True) if rows else ((),) * 4
    is_intact = (
        slots == tuple(range(first, end))
        and None not in contents
        and tuple(map(zlib.crc32, contents)) == crcs
    )
    if not is_intact:
        for slot in range(first, end):
            _verified(path, _read_row(db, path, slot))  # the error names the damaged item
        raise GalleryCorrupt(f"{path}: items from slot {first} on are damaged")
    return list(classes)


def match_keys(
    condition: Condition, count: int, find: Callable[[str], int | None]
) -> NDArray[np.bool_]:
    """Which of `count` items have a key that meets a condition: bool, (count,), by slot.

    Args:
        condition: "in" or "!=", on the key.
        count: number of items.
        find: the slot of the item with a key, or None.
    """
    matches = np.zeros(count, bool)
    operands = condition.operand if condition.operator == "in" else (condition.operand,)
    for operand in operands:
        if not isinstance(operand, str) or _SURROGATES.search(operand):
            continue  # keys are strings, of valid Unicode
        # Stored keys have the spelling of their files' names, which differs between systems.
        for text in {operand, *(unicodedata.normalize(form, operand) for form in _FORMS)}:
            if (slot := find(text)) is not None:
                matches[slot] = True
    return ~matches if condition.operator == "!=" else matches


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


def reason_unusable(file: FileState, read: ImageFile, error: ImageError | None) -> str | None:
    """Why what was read is not the image of an item; None if it is.

    The digest is of the bytes that were decoded: a code must be of the image that the gallery
    holds, not of one that has taken its file's name since.

    Args:
        file: of the item.
        read: the file, after it has been encoded.
        error: of encoding it, or None.
    """
    if read.content and read.content != file.content:
        return CHANGED
    return None if error is None else str(error).removeprefix(f"{printable(read.path)}: ")


class Written(NamedTuple):
    """What `write_item` has replaced.

    Attributes:
        crc: CRC of the new row.
        old_crc: CRC of the row before; 0 if there was none.
        old_path: the path of its file; None without one.
        has_same_metadata: whether the row before had the same metadata and properties.
    """

    crc: int
    old_crc: int
    old_path: bytes | None
    has_same_metadata: bool


def write_item(db: sqlite3.Connection, slot: int, item: Item, *, is_new: bool) -> Written:
    """Write an item's row into a slot; codes and the lookup are written elsewhere.

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
    if not (item.classes is None or isinstance(item.classes, bytes)):
        raise TypeError(f"classes of {item.key!r} must be bytes, got {item.classes!r}")
    try:
        Likely.of([item.classes])
    except ValueError as error:
        raise ValueError(f"classes of {item.key!r}: {error}") from None
    state = (
        (None,) * 5
        if file is None
        else (file.path, file.size, file.mtime_ns, file.ctime_ns, file.content)
    )
    metadata = _text(item.metadata, "metadata", item.key)
    properties = None
    if item.properties is not None:
        properties = _text(item.properties, "properties", item.key)
    row = (slot, item.key, metadata, *state, properties, _packed(item.boxes), item.classes or None)
    crc = item_crc(*row)
    if is_new:
        db.execute(_INSERT, (*row, crc))
        return Written(crc, 0, None, has_same_metadata=True)
    old_path, old_crc, has_same_metadata = db.execute(
        "SELECT CASE typeof(path) WHEN 'blob' THEN path END, crc, metadata = ? AND properties IS ?"
        " FROM item WHERE slot = ?",
        (metadata, properties, slot),
    ).fetchone()
    db.execute(
        "UPDATE item SET key = ?, metadata = ?, path = ?, size = ?, mtime_ns = ?, ctime_ns = ?,"
        " content = ?, properties = ?, boxes = ?, classes = ?, crc = ? WHERE slot = ?",
        (*row[1:], crc, slot),
    )
    return Written(crc, unsigned(old_crc), old_path, bool(has_same_metadata))


def _text(values: dict[str, Any], what: str, key: str) -> str:
    if not isinstance(values, dict):
        raise TypeError(f"{what} of {key!r} must be a dict, got {type(values).__name__}")
    for name in values:
        if not isinstance(name, str):  # JSON would turn 1 and "1" into the same name
            raise TypeError(
                f"field names in {what} of {key!r} must be str, got {type(name).__name__}: {name!r}"
            )
    try:
        return to_text(values)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what} of {key!r} cannot be represented in JSON: {error}") from error


class Removed(NamedTuple):
    """What `delete_item` has removed, and moved.

    Attributes:
        path: of the removed item's file, or None.
        crc: of its row.
        last_key: key of the item that has moved into its slot; None if the last item was removed.
        last_path: path of that item's file, or None.
        last_crc: CRC of its row before.
        new_crc: CRC of its row in the new slot.
    """

    path: bytes | None
    crc: int
    last_key: str | None = None
    last_path: bytes | None = None
    last_crc: int = 0
    new_crc: int = 0


def delete_item(db: sqlite3.Connection, path: Path, slot: int, last: int) -> Removed:
    """Delete the item in a slot and move the last item there, since slots have no gaps.

    Raises:
        GalleryCorrupt: the last item is damaged; moving it would give it a valid checksum.
    """
    file_path, crc = db.execute(
        "SELECT CASE typeof(path) WHEN 'blob' THEN path END, crc FROM item WHERE slot = ?", (slot,)
    ).fetchone()
    db.execute("DELETE FROM item WHERE slot = ?", (slot,))
    if slot == last:
        return Removed(file_path, unsigned(crc))
    row = _read_row(db, path, last)
    _, key, _, file, *_ = _verified(path, row)
    new_crc = item_crc(slot, *row[1:-1])
    db.execute("UPDATE item SET slot = ?, crc = ? WHERE slot = ?", (slot, new_crc, last))
    last_path = None if file is None else file.path
    return Removed(file_path, unsigned(crc), key, last_path, row[-1], new_crc)


def _read_row(
    db: sqlite3.Connection, path: Path, slot: int, columns: str = COLUMNS
) -> tuple[Any, ...]:
    """`columns` and crc of the item in an occupied slot."""
    row = db.execute(f"SELECT {columns}, crc FROM item WHERE slot = ?", (slot,)).fetchone()
    if row is None:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is missing")
    found: tuple[Any, ...] = row
    return found


def _verified(
    path: Path, row: tuple[Any, ...]
) -> tuple[int, str, str, FileState | None, str | None, bytes | None, bytes | None]:
    """(slot, key, metadata, file, properties, boxes, classes) of a row of `COLUMNS` and crc."""
    *values, crc = row
    slot, key, metadata, *state, properties, boxes, classes = values
    file = None if state[0] is None else FileState(*state)
    # Types too: a file made with malice has valid checksums.
    is_valid = (
        isinstance(key, str)
        and isinstance(metadata, str)
        and (properties is None or isinstance(properties, str))
        and (boxes is None or (isinstance(boxes, bytes) and not len(boxes) % _BOX_BYTES))
        and (classes is None or isinstance(classes, bytes))
        # Without a path nothing is known of a file: a 0 there would count as NULL in the checksum.
        and (state == [None] * 5 if file is None else _is_valid(file))
    )
    if not is_valid or item_crc(*values) != crc:
        raise GalleryCorrupt(f"{path}: the item in slot {slot} is damaged: {key!r}, {file}")
    return slot, key, metadata, file, properties, boxes, classes


def item_crc(
    slot: int,
    key: str,
    metadata: str,
    path: bytes | None,
    size: int | None,
    mtime_ns: int | None,
    ctime_ns: int | None,
    content: bytes | None,
    properties: str | None = None,
    boxes: bytes | None = None,
    classes: bytes | None = None,
) -> int:
    """CRC-32 of the columns as UTF-8, each but the last followed by a zero byte.

    The order is that of `_CRC_INPUT`. NULL is "None" for a number, and empty for the others.
    Properties, boxes and classes are left out if all are NULL, as in older formats.
    """
    text = f"{slot}\0{key}\0{metadata}\0{size}\0{mtime_ns}\0{ctime_ns}\0"
    covered = b"%b%b\0%b" % (text.encode(), path or b"", content or b"")
    if not (properties is None and boxes is None and classes is None):
        covered += b"\0%b\0%b\0%b" % ((properties or "").encode(), boxes or b"", classes or b"")
    return zlib.crc32(covered)


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
