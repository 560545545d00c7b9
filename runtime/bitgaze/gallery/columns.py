"""Kept columns: fields and keys of a gallery's items, so that a condition reads few bytes.

Fields of metadata, and properties of the image's file where the metadata have no such field.

Owns two tables, and evaluates conditions with them. Column by column, 4,096 slots at a time:
  field(id, column)
      id       n * 64 + a number below 64, for a field of the items in chunk n
      column   see column.py; absent where the slot's metadata have changed since
  field_chunk(n, version, built, names, is_complete, changed, crc)
      version      counts the writes of this row, from a random number on
      built        number of slots that the columns cover, from n * 4096 on
      names        JSON: name of each field, "@key" for keys -> [id % 64, CRC-32 of the column]
      is_complete  whether the items have no other fields: at most 64 are kept, and none whose
                   column or name is too large
      changed      slots that the columns do not describe, relative to the chunk; uint16,
                   little-endian, ascending. Their items are read instead
      crc          CRC-32 of the other columns, see `_crc`
Each chunk has its row, so that a missing one is noticed, and each column is bound to its row by its
checksum. The sum of the rows' checksums is a part of the file's state (`info.columns`): neither a
damaged nor an older column answers. What an item no longer holds is removed from the columns by the
same commit.
"""

import json
import secrets
import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.properties import PROPERTIES
from bitgaze.errors import GalleryCorrupt, WhereError
from bitgaze.gallery import items
from bitgaze.gallery.column import ABSENT, MAX_SLOTS, Column, Test
from bitgaze.gallery.filters import KEY, RANGE_OPERATORS, Condition
from bitgaze.gallery.info import write_entry
from bitgaze.gallery.metadata import objects_from
from bitgaze.gallery.segment import Segment

_MAX_FIELDS = 64
# In a message.
_MAX_LISTED = 20
_MAX_NAME_LETTERS = 256
# A kilobyte per item; without a limit, values of 16 MB would be read and written by every commit.
_MAX_COLUMN_BYTES = 4 << 20
_MAX_TEXT_LETTERS = 32 << 20
# Changed items are read one by one, 5 us each. Rebuilding a chunk of five fields takes 20 ms.
_MAX_CHANGED = 512
# Of all chunks: from here on, a chunk is rebuilt at every `_CHANGED_STEP` changes.
_MAX_ALL_CHANGED, _CHANGED_STEP = 8192, 32
# Columns kept in memory, and how many chunks of a field are kept as one.
_MAX_CACHED_BYTES = 256 << 20
_SEGMENT_CHUNKS = 32


@dataclass(frozen=True)
class _Chunk:
    """A row of `field_chunk`; `columns` maps a field's name to its column's id and CRC-32.

    `crc` is that of the row as it is stored, 0 if it is not.
    """

    version: int
    built: int
    columns: dict[str, tuple[int, int]]
    names: str  # `columns` as JSON
    is_complete: bool
    changed: frozenset[int]
    crc: int = 0


# CRC-32 of a chunk's column, None if it has none; and the number of items.
_Mark: TypeAlias = tuple[int | None, int]


class _Part(NamedTuple):
    """Values of a field in some slots, relative to their chunk."""

    slots: NDArray[np.int64]
    column: Column


class Columns:
    """Evaluates conditions with the kept columns of an open gallery, and brings them up to date.

    Holds rows of `field_chunk` as of the present snapshot, and columns of any snapshot with the
    version or checksum by which they are recognized.

    Attributes:
        sum: of the checksums of the rows of `field_chunk`, modulo 2**32; as the file says, until
            `commit` changes it.
    """

    def __init__(self) -> None:
        self.sum = 0
        self._chunks: dict[int, _Chunk] = {}
        self._has_all = False
        # (field, number of the segment) -> checksum and size of each chunk, and the segment.
        self._kept: dict[tuple[str, int], tuple[list[_Mark], Segment]] = {}
        # (field, chunk) -> for what is read from items, version and parts.
        self._read: dict[tuple[str, int], tuple[int, list[_Part]]] = {}
        self._cached_bytes = 0

    def refresh(self, stored_sum: int) -> None:
        """Forget the snapshot; columns that have not changed stay in memory.

        Args:
            stored_sum: `sum` in the new one.
        """
        self.sum = stored_sum
        self._chunks.clear()
        self._has_all = False

    def allowed(
        self,
        db: sqlite3.Connection,
        path: Path,
        conditions: Sequence[Condition],
        count: int,
        pending: Collection[int],
    ) -> NDArray[np.bool_]:
        """Which of `count` items meet all conditions: bool, (count,), by slot.

        Args:
            db: connection to the gallery.
            path: the gallery's file, for messages.
            conditions: on fields of metadata, or on the key.
            count: number of items.
            pending: slots whose keys or metadata the present transaction has changed.

        Raises:
            WhereError: no item has a field, or a range is of another type than all its values.
            GalleryCorrupt: a column is damaged, or an item that is read.
        """
        self._load_all(db, path)
        self._check_fields(db, path, conditions, count, pending)
        kinds: dict[str, set[type]] = {}
        tests: dict[str, list[Test]] = {}
        for condition in conditions:
            tests.setdefault(condition.field, []).append(Test(condition))
        allowed = np.ones(count, bool)
        chunks = self._checked_chunks(path, count, pending)
        while segment := list(islice(chunks, _SEGMENT_CHUNKS)):
            first = segment[0][0]
            held = {name: self._segment(db, path, name, segment) for name in tests}
            met = {name: held[name].matches(tests[name]) for name in tests}
            for name, of_name in held.items():
                columns = [column for column in of_name.columns if column is not None]
                kinds.setdefault(name, set()).update(*(column.kinds for column in columns))
            for n, chunk, size, new in segment:
                is_described = chunk.is_complete and (KEY not in tests or KEY in chunk.columns)
                if chunk.changed or new or not is_described:
                    parts = self._parts(db, path, n, chunk, size, tests, new)
                    for name, found in met.items():
                        for slots, column in parts[name]:
                            kinds[name] |= column.kinds
                            is_met = [column.matches(test) for test in tests[name]]
                            found[(n - first) * MAX_SLOTS + slots] = np.all(is_met, axis=0)
            target = allowed[first * MAX_SLOTS :][: len(next(iter(met.values())))]
            for found in met.values():
                target &= found
        _check_types(path, conditions, kinds)
        return allowed

    def _check_fields(
        self,
        db: sqlite3.Connection,
        path: Path,
        conditions: Sequence[Condition],
        count: int,
        pending: Collection[int],
    ) -> None:
        """Refuse conditions on fields that no item has: most are mistyped.

        Raises:
            WhereError: there is one, and it is not whether a field is absent.
        """
        unknown = {
            condition.field
            for condition in conditions
            if not (condition.operator == "in" and None in condition.operand)
        }.difference((KEY, *PROPERTIES), *(chunk.columns for chunk in self._chunks.values()))
        if not (unknown and count):
            return
        fields = sorted(self.fields(db, path, count, pending))
        if unknown := unknown.difference(fields):
            known = ", ".join(fields[:_MAX_LISTED]) + (", ..." if len(fields) > _MAX_LISTED else "")
            fields_are = f"fields are {known}" if fields else "no item has metadata"
            names = " or ".join(map(repr, sorted(unknown)))
            raise WhereError(f"{path}: no item has a field {names}; {fields_are}")

    def unread(
        self, db: sqlite3.Connection, path: Path, names: Collection[str], count: int
    ) -> dict[int, set[str]]:
        """Chunk to those of some fields that no column holds and no search has read.

        `allowed` has to read all items of these chunks. Arguments and errors as there.
        """
        self._load_all(db, path)
        found: dict[int, set[str]] = {}
        for n, chunk, _, _ in self._checked_chunks(path, count, ()):
            if not chunk.is_complete:
                read = {name for name in names if self._has_read(name, n, chunk)}
                if unread := set(names).difference(chunk.columns, read):
                    found[n] = unread
        return found

    def read(
        self, db: sqlite3.Connection, path: Path, names: Collection[str], count: int, n: int
    ) -> None:
        """Read fields of the items of a chunk from `unread`, for `allowed`."""
        self._load_all(db, path)
        chunk = self._chunks.get(n)
        if chunk is not None:
            self._parts(db, path, n, chunk, min(count - n * MAX_SLOTS, MAX_SLOTS), names, ())

    def _has_read(self, name: str, n: int, chunk: _Chunk) -> bool:
        cached = self._read.get((name, n))
        return cached is not None and cached[0] == chunk.version

    def fields(
        self, db: sqlite3.Connection, path: Path, count: int, pending: Collection[int]
    ) -> set[str]:
        """Names of the metadata fields that items have; arguments and errors as in `allowed`."""
        self._load_all(db, path)
        names: set[str] = set()
        for n, chunk, size, new in self._checked_chunks(path, count, pending):
            if new:
                kept = [s for s in range(min(size, chunk.built)) if s not in new]
                names.update(
                    name
                    for name in chunk.columns
                    if name not in names and self._column(db, path, n, chunk, name).holds(kept)
                )
            else:
                names.update(chunk.columns)
            slots = _slots_to_read(chunk, size, new, is_complete=chunk.is_complete)
            for _, objects in _read_objects(db, path, n, slots):
                names.update(*objects)
        return names - {KEY}

    def commit(
        self, db: sqlite3.Connection, path: Path, count: int, changed: Collection[int]
    ) -> None:
        """Bring the columns up to date, in the transaction that changed metadata.

        Args:
            db: connection to the gallery.
            path: the gallery's file, for messages.
            count: number of items.
            changed: slots whose keys or metadata have changed, or that are new or gone.

        Raises:
            GalleryCorrupt: a row of `field_chunk` is damaged.
        """
        for n, slots in _by_chunk(changed).items():
            size = min(count - n * MAX_SLOTS, MAX_SLOTS)
            chunk = self._chunks.get(n) or self._load(db, path, n)
            if size <= 0:
                self._delete(db, n)
                db.execute("DELETE FROM field_chunk WHERE n = ?", (n,))
                self._chunks.pop(n, None)
                self._change_sum(_EMPTY if chunk is None else chunk, 0)
                continue
            if chunk is None:
                if len(slots) < size:
                    raise _damaged(path, n)
                chunk = _EMPTY
            end = max(size, chunk.built)
            all_changed = chunk.changed.union(slot for slot in slots if slot < end)
            if len(all_changed) > _MAX_CHANGED or (
                len(all_changed) % _CHANGED_STEP == 0 and _has_many_changed(db)
            ):
                self._rebuild(db, path, n, size, chunk)
                continue
            columns = chunk.columns
            stale = [slot for slot in slots if slot < chunk.built and slot not in chunk.changed]
            if stale and columns:
                try:
                    columns = _without(db, path, n, chunk, stale)
                except GalleryCorrupt:  # the items are what counts
                    self._rebuild(db, path, n, size, chunk)
                    continue
            names = chunk.names if columns is chunk.columns else _to_text(columns)
            chunk = replace(chunk, columns=columns, names=names, changed=all_changed)
            self._write(db, n, chunk)

    def problems(self, db: sqlite3.Connection, path: Path, count: int) -> Iterator[str]:
        """Compare all columns with the items; a sentence for each chunk in which they differ."""
        try:
            self._load_all(db, path)
            chunks = list(self._checked_chunks(path, count, ()))
            if len(chunks) != len(self._chunks):
                raise _damaged(path, len(chunks))
        except GalleryCorrupt as error:
            yield str(error)
            return
        for n, chunk, _, _ in chunks:
            try:
                _compare(db, path, n, chunk)
            except GalleryCorrupt as error:
                yield str(error)
        found = db.execute("SELECT count(*) FROM field").fetchone()[0]
        expected = sum(len(chunk.columns) for chunk in self._chunks.values())
        if found != expected:
            yield f"{path}: holds {found} columns of metadata, expected {expected}"

    def _load_all(self, db: sqlite3.Connection, path: Path) -> None:
        if not self._has_all:
            rows = db.execute(f"SELECT n, {_ROW} FROM field_chunk ORDER BY n")
            chunks = {n: _chunk(path, n, row) for n, *row in rows}
            if sum(chunk.crc for chunk in chunks.values()) & _MAX_CRC != self.sum:
                raise GalleryCorrupt(
                    f"{path}: the columns of metadata are damaged, or of another state of the file"
                )
            self._chunks = chunks
            self._has_all = True

    def _checked_chunks(
        self, path: Path, count: int, pending: Iterable[int]
    ) -> Iterator[tuple[int, _Chunk, int, set[int]]]:
        """(n, chunk, number of items, pending slots) of each chunk, which together are complete."""
        pending_by_chunk = _by_chunk(pending)
        for n in range(-(-count // MAX_SLOTS)):
            chunk, new = self._chunks.get(n, _EMPTY), pending_by_chunk.get(n, set())
            size = min(count - n * MAX_SLOTS, MAX_SLOTS)
            if chunk.built != size:
                known = chunk.changed | new
                low, high = sorted((chunk.built, size))
                if not all(slot in known for slot in range(low, high)):
                    raise _damaged(path, n)
            yield n, chunk, size, new

    def _load(self, db: sqlite3.Connection, path: Path, n: int) -> _Chunk | None:
        row = db.execute(f"SELECT {_ROW} FROM field_chunk WHERE n = ?", (n,)).fetchone()
        return None if row is None else _chunk(path, n, row)

    def _segment(
        self,
        db: sqlite3.Connection,
        path: Path,
        name: str,
        chunks: Sequence[tuple[int, _Chunk, int, set[int]]],
    ) -> Segment:
        """A field's columns of successive chunks."""
        key = name, chunks[0][0] // _SEGMENT_CHUNKS
        marks: list[_Mark] = [
            (chunk.columns[name][1] if name in chunk.columns else None, size)
            for _, chunk, size, _ in chunks
        ]
        cached = self._kept.get(key)
        if cached is not None and cached[0] == marks:
            return cached[1]
        columns = [
            self._column(db, path, n, chunk, name) if name in chunk.columns else None
            for n, chunk, _, _ in chunks
        ]
        segment = Segment(columns, [size for _, size in marks])
        self._forget(key)
        self._kept[key] = marks, segment
        self._note_cached(segment.nbytes)
        return segment

    def _column(
        self, db: sqlite3.Connection, path: Path, n: int, chunk: _Chunk, name: str
    ) -> Column:
        number, crc = chunk.columns[name]
        marks, segment = self._kept.get((name, n // _SEGMENT_CHUNKS), ([], None))
        place = n % _SEGMENT_CHUNKS
        column = None
        if segment is not None and place < len(marks) and marks[place][0] == crc:
            column = segment.columns[place]
        return column or _read_column(db, path, n, chunk, number, crc)

    def _parts(
        self,
        db: sqlite3.Connection,
        path: Path,
        n: int,
        chunk: _Chunk,
        size: int,
        names: Collection[str],
        pending: Collection[int],
    ) -> dict[str, list[_Part]]:
        """For each field, the values that no column of the chunk holds."""
        found: dict[str, list[_Part]] = {}
        unknown: dict[bool, list[str]] = {False: [], True: []}  # by whether a column has the rest
        for name in names:
            cached = self._read.get((name, n))
            if not pending and cached is not None and cached[0] == chunk.version:
                found[name] = cached[1]
            else:
                is_known = name in chunk.columns or (chunk.is_complete and name != KEY)
                unknown[is_known].append(name)
        for is_complete, wanted in unknown.items():
            slots = _slots_to_read(chunk, size, pending, is_complete=is_complete) if wanted else ()
            new = _read_parts(db, path, n, slots, wanted)
            found |= new
            if not pending and slots:
                for name, parts in new.items():
                    self._forget((name, n), is_kept=False)
                    self._read[name, n] = chunk.version, parts
                    self._note_cached(sum(part.column.nbytes for part in parts))
        return found

    def _forget(self, key: tuple[str, int], *, is_kept: bool = True) -> None:
        if is_kept:
            segment = self._kept.pop(key, None)
            self._cached_bytes -= 0 if segment is None else segment[1].nbytes
        else:
            parts = self._read.pop(key, None)
            self._cached_bytes -= 0 if parts is None else sum(p.column.nbytes for p in parts[1])

    def _note_cached(self, added: int) -> None:
        self._cached_bytes += added
        while self._cached_bytes > _MAX_CACHED_BYTES:
            is_kept = len(self._kept) >= len(self._read)
            self._forget(next(iter(self._kept if is_kept else self._read)), is_kept=is_kept)

    def _change_sum(self, chunk: _Chunk, crc: int) -> None:
        self.sum = (self.sum - chunk.crc + crc) & _MAX_CRC

    def _rebuild(
        self, db: sqlite3.Connection, path: Path, n: int, size: int, before: _Chunk
    ) -> None:
        self._delete(db, n)
        try:
            blobs, is_complete = _build(db, path, n, size)
        except GalleryCorrupt:
            # Readers will find it when they read the items; a writer has not asked for them.
            blobs, is_complete = {}, False
        columns = {
            name: (number, _write_column(db, n, number, blob))
            for number, (name, blob) in enumerate(blobs.items())
        }
        names = _to_text(columns)
        chunk = replace(before, built=size, columns=columns, names=names, is_complete=is_complete)
        self._write(db, n, replace(chunk, changed=frozenset()))

    def _delete(self, db: sqlite3.Connection, n: int) -> None:
        first = n * _MAX_FIELDS
        db.execute("DELETE FROM field WHERE id BETWEEN ? AND ?", (first, first + _MAX_FIELDS - 1))

    def _write(self, db: sqlite3.Connection, n: int, chunk: _Chunk) -> None:
        # A new row starts anywhere: another process may remember the versions of a deleted one.
        version = chunk.version + 1 if chunk.version else secrets.randbits(48) + 1
        chunk = replace(chunk, version=version)
        changed = sorted(chunk.changed)
        row = (
            chunk.version,
            chunk.built,
            chunk.names,
            int(chunk.is_complete),
            struct.pack(f"<{len(changed)}H", *changed),
        )
        crc = _crc(n, *row)
        db.execute(
            "INSERT OR REPLACE INTO field_chunk VALUES (?, ?, ?, ?, ?, ?, ?)", (n, *row, crc)
        )
        self._change_sum(chunk, crc)
        self._chunks[n] = replace(chunk, crc=crc)


def _check_types(path: Path, conditions: Sequence[Condition], kinds: dict[str, set[type]]) -> None:
    for condition in conditions:
        found = kinds.get(condition.field, set())
        wanted = str if isinstance(condition.operand, str) else float
        if condition.operator in RANGE_OPERATORS and found and wanted not in found:
            values, operand = (
                ("strings", "a number") if wanted is float else ("numbers", "a string")
            )
            raise WhereError(
                f"{path}: where[{condition.field!r}] is compared with {condition.operand!r}, "
                f"{operand}, but its values are {values}"
            )


def rebuild_all(db: sqlite3.Connection, path: Path, count: int) -> None:
    """Build all columns from the items; takes 5 s for a million with five fields."""
    db.execute("DELETE FROM field")
    db.execute("DELETE FROM field_chunk")
    columns = Columns()
    columns.commit(db, path, count, range(count))
    write_entry(db, "columns", columns.sum)


_ROW = "version, built, names, is_complete, changed, crc"
_EMPTY = _Chunk(0, 0, {}, "{}", True, frozenset())
_MAX_CRC = 0xFFFFFFFF


def _damaged(path: Path, n: int) -> GalleryCorrupt:
    first = n * MAX_SLOTS
    return GalleryCorrupt(
        f"{path}: the columns of metadata of items {first} to {first + MAX_SLOTS - 1} are damaged"
    )


def _crc(n: int, version: int, built: int, names: str, is_complete: int, changed: bytes) -> int:
    """CRC-32 of the values as text, each but the last followed by a zero byte."""
    text = f"{n}\0{version}\0{built}\0{names}\0{is_complete}\0"
    return zlib.crc32(text.encode() + changed)


def _to_text(columns: dict[str, tuple[int, int]]) -> str:
    return json.dumps(columns)


def _chunk(path: Path, n: int, row: Sequence[Any]) -> _Chunk:
    version, built, names, is_complete, changed, crc = row
    try:
        kinds = [type(value) for value in row]
        if kinds != [int, int, str, int, bytes, int] or _crc(n, *row[:-1]) != crc:
            raise ValueError
        columns = {name: (number, crc) for name, (number, crc) in json.loads(names).items()}
        numbers = [number for number, _ in columns.values()]
        slots = frozenset(struct.unpack(f"<{len(changed) // 2}H", changed))
        is_valid = (
            0 <= built <= MAX_SLOTS
            and is_complete in (0, 1)
            and len(set(numbers)) == len(numbers)
            and all(type(k) is int and 0 <= k < _MAX_FIELDS for k in numbers)
            and all(type(crc) is int for _, crc in columns.values())
            and max(slots, default=0) < MAX_SLOTS
        )
        if not is_valid:
            raise ValueError
    # Made with malice: a row with a valid checksum.
    except (ValueError, TypeError, AttributeError, struct.error, RecursionError) as error:
        raise _damaged(path, n) from error
    return _Chunk(version, built, columns, names, bool(is_complete), slots, crc)


def _read_column(
    db: sqlite3.Connection, path: Path, n: int, chunk: _Chunk, number: int, crc: int
) -> Column:
    query = "SELECT column FROM field WHERE id = ?"
    row = db.execute(query, (n * _MAX_FIELDS + number,)).fetchone()
    if row is None or not isinstance(row[0], bytes) or zlib.crc32(row[0]) != crc:
        raise _damaged(path, n)
    try:
        column = Column.from_bytes(row[0])
    except ValueError as error:
        raise _damaged(path, n) from error
    if column.slots != chunk.built:
        raise _damaged(path, n)
    return column


def _write_column(db: sqlite3.Connection, n: int, number: int, blob: bytes) -> int:
    db.execute("INSERT OR REPLACE INTO field VALUES (?, ?)", (n * _MAX_FIELDS + number, blob))
    return zlib.crc32(blob)


def _without(
    db: sqlite3.Connection, path: Path, n: int, chunk: _Chunk, slots: Sequence[int]
) -> dict[str, tuple[int, int]]:
    """Remove the values of some slots from the columns of a chunk; returns those that are left."""
    left = dict(chunk.columns)
    for name, (number, crc) in chunk.columns.items():
        column = _read_column(db, path, n, chunk, number, crc)
        if not column.holds(slots):
            continue
        column = column.without(slots)
        if column.is_empty:
            db.execute("DELETE FROM field WHERE id = ?", (n * _MAX_FIELDS + number,))
            del left[name]
        else:
            left[name] = number, _write_column(db, n, number, column.to_bytes())
    return left


def _has_many_changed(db: sqlite3.Connection) -> bool:
    total = db.execute("SELECT sum(length(changed)) / 2 FROM field_chunk").fetchone()[0]
    return total is not None and total > _MAX_ALL_CHANGED


def _build(db: sqlite3.Connection, path: Path, n: int, size: int) -> tuple[dict[str, bytes], bool]:
    """Columns of the items of a chunk, by name, and whether there are no other fields."""
    objects = _objects(db, path, n, range(size), size)
    if objects is None:
        return {}, False
    counts = Counter(chain.from_iterable(objects))
    names = sorted(
        (name for name in counts if len(name) <= _MAX_NAME_LETTERS),
        key=lambda name: (-counts[name], name != KEY, name),
    )[:_MAX_FIELDS]
    blobs = {name: _blob(path, n, objects, name) for name in names}
    blobs = {name: blob for name, blob in blobs.items() if len(blob) <= _MAX_COLUMN_BYTES}
    return blobs, len(blobs) == len(counts)


def _compare(db: sqlite3.Connection, path: Path, n: int, chunk: _Chunk) -> None:
    """Compare a chunk's columns with its items.

    Raises:
        GalleryCorrupt: they differ, or a column or an item is damaged.
    """
    for number, crc in chunk.columns.values():
        _read_column(db, path, n, chunk, number, crc)
    slots = [slot for slot in range(chunk.built) if slot not in chunk.changed]
    objects = _objects(db, path, n, slots, chunk.built)
    if objects is None:
        is_same = not chunk.columns and not chunk.is_complete
    else:
        is_same = all(
            zlib.crc32(_blob(path, n, objects, name)) == crc
            for name, (_, crc) in chunk.columns.items()
        ) and (not chunk.is_complete or chunk.columns.keys() | {KEY} == {KEY}.union(*objects))
    if not is_same:
        raise _damaged(path, n)


def _blob(path: Path, n: int, objects: Sequence[dict[str, Any]], name: str) -> bytes:
    return _column(path, n, [found.get(name, ABSENT) for found in objects]).to_bytes()


def _objects(
    db: sqlite3.Connection, path: Path, n: int, slots: Sequence[int], size: int
) -> list[dict[str, Any]] | None:
    """The metadata of the items in some slots of a chunk, {} in others; None if too large."""
    found: list[dict[str, Any]] = []
    letters = 0
    for texts, batch in _read_objects(db, path, n, slots):
        letters += sum(map(len, texts))
        if letters > _MAX_TEXT_LETTERS:
            return None
        found += batch
    if len(found) == size:
        return found
    objects: list[dict[str, Any]] = [{}] * size
    for slot, metadata in zip(slots, found, strict=True):
        objects[slot] = metadata
    return objects


def _slots_to_read(
    chunk: _Chunk, size: int, pending: Collection[int], *, is_complete: bool
) -> Sequence[int]:
    """Slots of a chunk that its columns do not describe, ascending."""
    if not is_complete:
        return range(size)
    if not chunk.changed and not pending:
        return ()
    return sorted(slot for slot in chunk.changed.union(pending) if slot < size)


def _read_objects(
    db: sqlite3.Connection, path: Path, n: int, slots: Sequence[int]
) -> Iterator[tuple[list[str], list[dict[str, Any]]]]:
    """Batches of texts and fields of the items in some slots of a chunk, ascending.

    The texts are keys, and metadata and properties as JSON. The key is the field "@key".
    """
    first = n * MAX_SLOTS
    for keys, texts, stored in items.read_texts(db, path, [first + slot for slot in slots]):
        known = [text for text in stored if text is not None]
        try:
            objects = objects_from(texts)
            properties = iter(objects_from(known))
        except ValueError as error:
            raise _damaged(path, n) from error
        for key, text, metadata in zip(keys, stored, objects, strict=True):
            if text is not None:
                for name, value in next(properties).items():
                    metadata.setdefault(name, value)
            metadata[KEY] = key
        yield [*keys, *texts, *known], objects


def _read_parts(
    db: sqlite3.Connection, path: Path, n: int, slots: Sequence[int], names: Collection[str]
) -> dict[str, list[_Part]]:
    """Values of fields of some items of a chunk, in parts of bounded size."""
    parts: dict[str, list[_Part]] = {name: [] for name in names}
    if not names:
        return parts
    values: dict[str, list[Any]] = {name: [] for name in names}

    start = letters = 0
    end = 0
    for texts, objects in _read_objects(db, path, n, slots):
        for name, held in values.items():
            held += [metadata.get(name, ABSENT) for metadata in objects]
        end += len(objects)
        letters += sum(map(len, texts))
        if letters > _MAX_TEXT_LETTERS or end == len(slots):
            for name, held in values.items():
                parts[name].append(_Part(np.array(slots[start:end]), _column(path, n, held)))
                held.clear()
            start, letters = end, 0
    return parts


def _column(path: Path, n: int, values: Sequence[Any]) -> Column:
    try:
        return Column.of(values)
    except ValueError as error:  # a number that metadata cannot have
        raise _damaged(path, n) from error


def _by_chunk(slots: Iterable[int]) -> dict[int, set[int]]:
    """Chunk to slots relative to it."""
    found: dict[int, set[int]] = {}
    for slot in slots:
        found.setdefault(slot // MAX_SLOTS, set()).add(slot % MAX_SLOTS)
    return found
