"""The store: a gallery's file with its codes in memory, read in snapshots, written in transactions.

Handles locks, commits of other processes, and slots. The SQL is in the modules below (schema.py
describes the tables); models, images and searches are above.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import check_array
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.likely import Likely
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import chunks, distinct, file_format, forks, info, items, lookup, thumbnails
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.blocks import Steps, block, body
from bitgaze.gallery.chunks import SLOTS, Sums
from bitgaze.gallery.columns import Columns
from bitgaze.gallery.connection import (
    Connection,
    check_not_cut_off,
    deadline,
    seconds_allowed,
    translated_errors,
)
from bitgaze.gallery.filters import KEY, Condition
from bitgaze.gallery.info import ModelInfo
from bitgaze.gallery.items import FileState, ImageRef, Item
from bitgaze.gallery.lookup import Lookup
from bitgaze.gallery.remembered import Sources, read_sources, write_sources
from bitgaze.hamming import HammingIndex
from bitgaze.views import ViewIndex

# Larger files are not compacted on close: 250,000 items take a second.
# Keys that a missing one is compared with for a message: 20 ms for these.
_MOST_COMPARED = 1000
_MAX_COMPACTED_BYTES = 64 << 20
# Up to this many items, those of a file with a log are compared with its codes when it is opened:
# 30 ms. `verify` compares all.
_MAX_COMPARED = 100_000
# Items whose views are joined at a time, when a gallery is opened.
_JOINED = 65_536
_YIELD_S = 0.001
_NO_LOOKS, _NO_STRUCTURE = np.empty((0, 0), np.uint8), np.empty(0, np.uint8)


class Store:
    """An open gallery file, with a copy of its codes and info that each snapshot brings up to date.

    All reads happen inside `reading`, all writes inside `writing`. Threads can share a store; a
    lock admits one at a time.

    Args:
        path: the file.
        model_info: returns the model whose codes a new file will hold; None if a missing file is an
            error.
        timeout_s: how long to wait for another writer, in seconds.

    Attributes:
        path: the file as given, for messages.
        file: its absolute path: the working directory may change while it is open.
        index: codes by slot, as of the last snapshot.
        views: codes of items and of their looks by slot, as of the last snapshot; None if items
            have no looks. Free places of an item with fewer looks hold its code.
        structure: structural codes by slot, as of the last snapshot, zero where not known; None if
            items have none.
        info: the result of `info.read_info`, as of the last snapshot.

    Raises:
        GalleryError: the file is missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: the file is damaged, or not an SQLite file.
    """

    index: HammingIndex
    info: dict[str, Any]
    views: ViewIndex | None
    structure: HammingIndex | None
    _sums: Sums
    _file_id: bytes
    # Those of `SLOTS` that this gallery uses.
    _tables: list[str]
    _lookup: Lookup
    _db: Connection
    _identity: tuple[tuple[int, int] | None, ...] | None

    def __init__(
        self, path: Path, model_info: Callable[[], ModelInfo] | None, timeout_s: float
    ) -> None:
        self.path = path
        with file_format.system_errors(path):  # a working directory that was deleted
            self.file = path.absolute()
        self._names = str(self.file), f"{self.file}-shm"
        self._timeout_s = timeout_s
        self._lock = forks.Lock()
        self._changed_chunks: dict[str, set[int]] = {table: set() for table in SLOTS}
        self._is_in_transaction = False
        self._must_reopen = False
        self._pid = os.getpid()
        self._columns = Columns()
        # Likely classes by chunk of items, with the sum of the items' checksums.
        self._likely: dict[int, tuple[int, Likely]] = {}
        # Slots whose keys or metadata this transaction has changed.
        self._changed_metadata: set[int] = set()
        # Identities of images that this transaction has removed or replaced, to their keys.
        self._gone_images: dict[bytes, str] = {}
        self._has_pairs = False
        # Whether there is a thumbnail; None if this transaction has not looked.
        self._has_thumbnails: bool | None = None
        # Removed bytes are still in the log, and in free places of the file.
        self._needs_checkpoint = False
        self._needs_compaction = False
        self._open(path, model_info)

    def _open(self, path: Path, model_info: Callable[[], ModelInfo] | None) -> None:
        immutable = file_format.immutable_state(path)
        has_log = file_format.has_log(path)
        db = file_format.connect(
            path, model_info, self._timeout_s, is_immutable=immutable is not None
        )
        self._data_version = -1
        self._must_compare = has_log
        self._connected_pid = os.getpid()
        self._identity = None
        self._lookup = Lookup(db, self.path)
        self._db = self._lock.guarded = db
        self._immutable = immutable  # last: after an interruption the next read opens it again

    def close(self) -> None:
        """Close the file. Later calls raise GalleryError."""
        with self._lock:
            is_inherited = self._db is self._lock.inherited
            if is_inherited and (forks.is_cut_off() or self._db.in_transaction):
                return  # it belongs to the parent
            self._check_no_transaction("close")
            # Or a change of the file would reopen it.
            self._immutable = self._identity = None
            self._must_reopen = False
            try:
                # SQLite moves rows between pages and overwrites only their last place. If others
                # use the file or the disk is full, the copies stay until the next compaction.
                with suppress(GalleryError):
                    is_small = file_format.file_size(self.file) <= _MAX_COMPACTED_BYTES
                    if self._needs_compaction and is_small and not self._is_forked():
                        self.compact()
            finally:
                self._db.close()

    @block
    def reading(self) -> Steps:
        """Read one snapshot of the file; `index` and `info` are as of that snapshot."""
        with self._lock:
            self._reopen_if_replaced()
            if self._db.in_transaction:
                yield from body()
                return
            try:
                self._db.execute("BEGIN")
                self._refresh()
                yield from body()
            finally:
                self._db.rollback()
                self._db.close_cursors()
                self._lookup.forget()
            if self._is_immutable_outdated():
                raise GalleryError(
                    f"{self.path}: another process wrote it during this read; try again"
                )

    @block
    def writing(self) -> Steps:
        """Write in a transaction, or as a part of the one that is open.

        An exception rolls back all of the transaction.

        Raises:
            GalleryError: the file cannot be written, or a call inside failed and the caller caught
                its exception.
        """
        with self._lock:
            if self._is_forked():
                raise GalleryError(
                    f"{self.path}: was opened before this process was forked; to write, open it "
                    "again in this process"
                )
            self._reopen_if_replaced()
            is_nested = self._is_in_transaction
            if is_nested and not self._db.in_transaction:  # or this would start a new one
                raise self._rolled_back()
            if not is_nested and self._db.in_transaction:
                raise GalleryError(
                    f"{self.path}: cannot be written during a read, such as in on_progress; "
                    "write after the call returns"
                )
            try:
                if not is_nested:
                    self._begin()
                    self._is_in_transaction = True
                yield from body()
                if not is_nested:
                    self._commit()
            except BaseException:
                # The codes in memory are ahead of the file: load them again.
                self._data_version = -1
                # In a child that was forked inside, it would change what the parent writes.
                if self._db is not self._lock.inherited:
                    self._db.rollback()  # nothing to do if SQLite rolled back itself
                raise
            finally:
                if not is_nested:
                    self._is_in_transaction = False
                    self._db.close_cursors()
                    self._lookup.forget()

    @property
    def calibration(self) -> Calibration | None:
        """What distances between the codes mean; None if not measured. Inside `reading`."""
        is_adapted = self.info["adaptation"] is not None
        calibration: Calibration | None = self.info[
            "adapted_calibration" if is_adapted else "calibration"
        ]
        return calibration

    def keys(self) -> list[str]:
        """All keys, in slot order."""
        return [key for _, key, _, _ in self._items()]

    def structural_codes(self, slots: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Structural codes of the items in some slots: uint8, (n, 32); zero where not known."""
        if self.structure is None:
            return np.zeros((len(slots), STRUCTURE_BITS // 8), np.uint8)
        return self.structure[slots]

    def find(self, key: str) -> int | None:
        """The slot of the item with this key, or None.

        Raises:
            TypeError: the key is not a str.
            GalleryCorrupt: the key index is damaged.
        """
        return self._find(key, None)

    def _find(self, key: str, read: Callable[[int], str] | None) -> int | None:
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, got {type(key).__name__}: {key!r}")
        try:
            return self._lookup.find("key", key, read)
        except UnicodeEncodeError:  # a lone surrogate: possible in a path, but not in a stored key
            return None

    def get(self, key: str) -> Item:
        """The item with this key; reads its row once.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str.
            GalleryCorrupt: the item is damaged, or the key index.
        """
        found: list[Item] = []

        def read(slot: int) -> str:
            found.append(self.item(slot))
            return found[-1].key

        if self._find(key, read) is None:
            raise self._no_item(key)
        return found[-1]

    def _no_item(self, key: str) -> KeyError:
        near: list[str] = []
        if len(self.index) <= _MOST_COMPARED:
            near = get_close_matches(key, self.keys(), n=3)
        words = f"; the nearest are {', '.join(map(repr, near))}" if near else ""
        return KeyError(f"{self.path} holds no item {key!r}{words}")

    def slot(self, key: str) -> int:
        """The slot of the item with this key.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str.
            GalleryCorrupt: the key index does not match the items.
        """
        slot = self.find(key)
        if slot is None:
            raise self._no_item(key)
        return slot

    def check_free(self, key: str) -> None:
        """Raise GalleryError if an item has this key."""
        if self.find(key) is not None:
            raise GalleryError(
                f"{self.path}: key {key!r} is already in use; choose another or remove the item"
            )

    def item(self, slot: int) -> Item:
        """The item in a slot.

        Raises:
            GalleryCorrupt: the slot does not exist, or its row is damaged.
        """
        if not 0 <= slot < len(self.index):
            raise GalleryCorrupt(
                f"{self.path}: an index names slot {slot}, but there are {len(self.index)} items"
            )
        looks = _NO_LOOKS if self.views is None else self.views[slot][1:]
        structure = _NO_STRUCTURE if self.structure is None else self.structure[slot]
        return items.read_item(self._db, self.path, slot, self.index[slot], looks, structure)

    def item_of_file(self, path: bytes) -> Item | None:
        """The item that sync made from the file with this path, or None."""
        slot = self._lookup.find("path", path)
        return None if slot is None else self.item(slot)

    def files(self, prefixes: tuple[bytes, ...]) -> dict[str, FileState]:
        """Key to file, for the items whose path starts with one of the prefixes."""
        return {
            key: file
            for _, key, _, file in self._items()
            if file is not None and file.path.startswith(prefixes)
        }

    def fields(self) -> set[str]:
        """Names of the metadata fields that items have."""
        return self._columns.fields(self._db, self.path, len(self.index), self._changed_metadata)

    def unread_fields(self, names: Collection[str]) -> dict[int, set[str]]:
        """What `allowed` would have to read of all items, by chunk; see `Columns.unread`."""
        return self._columns.unread(self._db, self.path, names, len(self.index))

    def read_fields(self, names: Collection[str]) -> None:
        """Read what conditions on these fields require, in short reads; outside `reading`.

        Others can read and write in between, so what they change may be left for `allowed`.
        """
        with self.reading():
            chunks = self.unread_fields(names)
        for n, unread in chunks.items():
            with self.reading():
                self._columns.read(self._db, self.path, unread, len(self.index), n)
            time.sleep(_YIELD_S)  # a lock that is taken again at once passes over those who wait

    def image_refs(self) -> list[ImageRef]:
        """A reference to every item's image, in slot order."""
        return items.read_image_refs(self._db, self.path, self.index)

    def allowed(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """Which items meet all conditions: bool, (n,), by slot.

        Reads the columns of fields and keys, see columns.py, and the lookup for equal keys.

        Raises:
            GalleryCorrupt: a column is damaged, or an item that is read.
        """
        count = len(self.index)
        on_columns = [c for c in conditions if c.field != KEY or c.operator not in ("in", "!=")]
        allowed = np.ones(count, bool)
        if on_columns:
            changed = self._changed_metadata
            allowed = self._columns.allowed(self._db, self.path, on_columns, count, changed)
        for condition in conditions:
            if condition not in on_columns:
                allowed &= items.match_keys(condition, count, self.find)
        return allowed

    def likely(self) -> Iterator[Likely]:
        """Likely classes of items, in slot order, some thousand at a time.

        They stay in memory, 180 bytes an item with three looks, and are read again where items have
        changed.

        Raises:
            GalleryCorrupt: an item is damaged.
        """
        for n in range(-(-len(self.index) // SLOTS["chunk"])):
            yield self._likely_of(n)[0]

    def read_likely(self) -> None:
        """Read what `likely` requires, in short reads; outside `reading`.

        Others can read and write in between, so what they change may be left for `likely`.

        Raises:
            GalleryCorrupt: an item is damaged.
        """
        n, is_left = 0, True
        while is_left:
            with self.reading():
                is_left = n * SLOTS["chunk"] < len(self.index)
                was_read = is_left and self._likely_of(n)[1]
            if was_read:
                time.sleep(_YIELD_S)  # as in `read_fields`
            n += 1

    def _likely_of(self, n: int) -> tuple[Likely, bool]:
        """Likely classes of a chunk of items, and whether they had to be read."""
        first, mark = n * SLOTS["chunk"], self._sums.items[n]
        end = min(first + SLOTS["chunk"], len(self.index))
        kept = self._likely.get(n)
        if kept is not None and kept[0] == mark and len(kept[1].is_known) == end - first:
            return kept[1], False
        blocks = items.read_classes(self._db, self.path, first, end)
        try:
            found = Likely.of(blocks)
        except ValueError as error:
            raise GalleryCorrupt(f"{self.path}: items from slot {first}: {error}") from None
        self._likely[n] = mark, found
        return found, True

    def put(self, item: Item) -> None:
        """Store an item; one with the same key is replaced."""
        self.put_all([item])

    def put_all(self, new_items: Iterable[Item]) -> None:
        """Store items, one after the other, as `put`."""
        new_codes: list[NDArray[np.uint8]] = []
        for item in new_items:
            self._put(item, new_codes)
        if new_codes:
            self.index.add(np.stack(new_codes))

    def _put(self, item: Item, new_codes: list[NDArray[np.uint8]]) -> None:
        """Store an item; `new_codes` are those that the index does not have yet."""
        check_array(item.code, "code")
        if item.code.shape != (self.index.bits // 8,):
            raise ValueError(
                f"code of {item.key!r} has {item.code.size} bytes in shape {item.code.shape}, "
                f"expected ({self.index.bits // 8},)"
            )
        looks, structure = self._checked_looks(item), self._checked_structure(item)
        slot, count = self.find(item.key), len(self.index)
        is_new = slot is None
        if slot is None:
            slot = count + len(new_codes)
        elif slot < count:
            self._note_gone_image(item.key, slot)
        # The row first: if it cannot be written, codes and items still match.
        written = self._write_item(slot, item, is_new=is_new)
        if is_new:
            new_codes.append(item.code)
            self._changed_metadata.add(slot)
        else:
            if slot >= count:  # twice among new items: none has a thumbnail yet
                new_codes[slot - count] = item.code
            else:
                if not np.array_equal(self.index[slot], item.code):
                    self._delete_thumbnail(slot)  # of another image
                self.index.replace(slot, item.code)
            self._needs_checkpoint = True  # for its old code
            if not written.has_same_metadata:
                self._needs_compaction = True
                self._changed_metadata.add(slot)
        if self.views is not None:
            _set(self.views, slot, np.concatenate([item.code[None], looks]))
        if self.structure is not None:
            _set(self.structure, slot, structure)
        self._note_changed(slot)

    def _write_item(self, slot: int, item: Item, *, is_new: bool) -> items.Written:
        """Write an item's row, and what says where it is."""
        self._check_file_free(item.file, slot)
        written = items.write_item(self._db, slot, item, is_new=is_new)
        if is_new:
            self._lookup.resize(slot + 1)
            self._lookup.add("key", item.key, slot)
        path = None if item.file is None else item.file.path
        if path != written.old_path:
            if written.old_path is not None:
                self._lookup.remove("path", written.old_path, slot)
            if path is not None:
                self._lookup.add("path", path, slot)
        self._sums.change_item(slot, written.old_crc, written.crc)
        return written

    def _delete_thumbnail(self, slot: int) -> None:
        if self._has_thumbnails is None:
            self._has_thumbnails = thumbnails.has_any(self._db)
        if self._has_thumbnails:
            thumbnails.delete_thumbnail(self._db, slot)

    def _check_file_free(self, file: FileState | None, slot: int) -> None:
        """Raise GalleryError if another item was made from this file."""
        if file is None or not isinstance(file.path, bytes):  # `write_item` reports the second
            return
        if self._lookup.find("path", file.path) not in (None, slot):
            raise GalleryError(f"{self.path}: an item's file belongs to another item")

    def _checked_looks(self, item: Item) -> NDArray[np.uint8]:
        """The codes for an item's places for looks: uint8, (looks, bits // 8)."""
        places, width = self.info["looks"], self.index.bits // 8
        count = len(item.looks)
        if not (places or count or len(item.boxes)):
            return _NO_LOOKS
        boxes = np.asarray(item.boxes)
        if count > places:
            raise ValueError(
                f"{item.key!r} has {count} looks, but this gallery has places for {places}"
            )
        if boxes.shape != (count, 4) or not ((boxes >= 0) & (boxes <= 1)).all():
            raise ValueError(
                f"boxes of {item.key!r} have shape {boxes.shape}, expected ({count}, 4), from 0 to "
                "1: a box for each look"
            )
        if not count:
            return np.broadcast_to(item.code, (places, width))
        check_array(item.looks, "looks")
        if item.looks.shape != (count, width):
            raise ValueError(
                f"looks of {item.key!r} have shape {item.looks.shape}, expected ({count}, {width})"
            )
        return np.concatenate([item.looks, np.broadcast_to(item.code, (places - count, width))])

    def _checked_structure(self, item: Item) -> NDArray[np.uint8]:
        """An item's structural code; zero if it is not known, nothing in a gallery without them."""
        width = self.info["structure"] // 8
        if not width:
            return _NO_STRUCTURE
        if item.structure is None:
            return np.zeros(width, np.uint8)
        check_array(item.structure, "structure")
        if item.structure.shape != (width,):
            raise ValueError(
                f"structure of {item.key!r} has shape {item.structure.shape}, expected ({width},)"
            )
        return item.structure

    def delete(self, key: str) -> None:
        """Delete an item; the last one moves into its slot."""
        slot, last = self.slot(key), len(self.index) - 1
        self._note_gone_image(key, slot)
        removed = items.delete_item(self._db, self.path, slot, last)
        self._lookup.remove("key", key, slot)
        if removed.path is not None:
            self._lookup.remove("path", removed.path, slot)
        self._sums.change_item(slot, removed.crc, removed.new_crc)
        self._delete_thumbnail(slot)
        if removed.last_key is not None:
            if self._has_thumbnails:
                thumbnails.move_thumbnail(self._db, self.path, last, slot)
            self._lookup.move("key", removed.last_key, last, slot)
            if removed.last_path is not None:
                self._lookup.move("path", removed.last_path, last, slot)
            self._sums.change_item(last, removed.last_crc, 0)
        self._lookup.resize(last)
        self.index.remove(slot)
        if self.views is not None:
            self.views.remove(slot)
        if self.structure is not None:
            self.structure.remove(slot)
        self._note_changed(slot, last)
        self._changed_metadata.update((slot, last))
        self._needs_checkpoint = self._needs_compaction = True

    def move(self, moves: Sequence[tuple[str, str, FileState | None]]) -> None:
        """Change keys and files of items at once, given (key, new key, new file) of each.

        Raises:
            KeyError: no item has one of the keys.
            GalleryError: a new key is in use by another item.
            ValueError: a key is given twice.
        """
        slots = [self.slot(key) for key, _, _ in moves]
        if len(set(slots)) < len(slots):
            raise ValueError(f"{self.path}: a key is moved twice")
        moved = [self.item(slot) for slot in slots]
        for slot, item in zip(slots, moved, strict=True):
            self._lookup.remove("key", item.key, slot)
            if item.file is not None:
                self._lookup.remove("path", item.file.path, slot)
        for slot, item, (_, new_key, file) in zip(slots, moved, moves, strict=True):
            self.check_free(new_key)
            self._check_file_free(file, slot)
            moved_item = replace(item, key=new_key, file=file)
            before = items.read_identity(self._db, slot, item.code) if self._has_pairs else b""
            written = items.write_item(self._db, slot, moved_item, is_new=False)
            self._lookup.add("key", new_key, slot)
            if file is not None:
                self._lookup.add("path", file.path, slot)
            self._sums.change_item(slot, written.old_crc, written.crc)
            self._changed_chunks["chunk"].add(slot // SLOTS["chunk"])
            if self._has_pairs:
                after = items.read_identity(self._db, slot, item.code)
                distinct.rename_image(self._db, before, after)
        self._changed_metadata.update(slots)
        self._needs_checkpoint = True  # for the old keys
        self._needs_compaction |= any(key != new_key for key, new_key, _ in moves)

    def replace_codes(
        self,
        views: NDArray[np.uint8],
        adaptation: Adaptation | None,
        calibration: Calibration | None,
        structure: NDArray[np.uint8] | None = None,
    ) -> None:
        """Replace the codes of all items.

        Args:
            views: uint8, (n, 1 + looks, bits // 8), by slot: the code of each item, and those of
                its places for looks.
            adaptation: the adaptation that made them; None for the model's own codes.
            calibration: of the adapted codes, if measured.
            structure: structural codes, uint8, (n, 32); a gallery without them has them from then
                on. None keeps what there is.
        """
        if self._has_pairs:  # images without a file are known by their codes
            for slot, key in items.keys_without_file(self._db):
                old, new = self.index[slot], views[slot, 0]
                names = (items.image_identity(key, None, code) for code in (old, new))
                distinct.rename_image(self._db, *names)
        self.index = HammingIndex(self.index.bits)
        self.index.add(np.ascontiguousarray(views[:, 0]))
        if self.views is not None:
            self.views = ViewIndex(self.index.bits, self.views.views)
            self.views.add(views)
        if structure is not None:
            self.structure = HammingIndex(8 * structure.shape[1])
            self.structure.add(structure)
            info.write_entry(self._db, "structure", 8 * structure.shape[1])
            if "structure_chunk" not in self._tables:
                self._tables.append("structure_chunk")
        for table in self._tables:
            self._changed_chunks[table].update(range(-(-len(views) // SLOTS[table])))
        info.write_adaptation(self._db, adaptation, calibration)
        self.info = info.read_info(self._db, self.path)
        self._needs_checkpoint = True

    def _items(self) -> Iterator[items.Row]:
        return items.read_items(self._db, self.path, len(self.index))

    def records(self) -> Iterator[tuple[str, str, bytes | None]]:
        """(key, metadata as JSON, boxes as stored) of all items. Inside `reading`."""
        return items.read_records(self._db, self.path, len(self.index))

    def problems(self, limit: int) -> list[str]:
        """Damage of pages, items and indexes, a sentence each, up to a limit. Inside `reading`."""
        with deadline(self._db, seconds_allowed(file_format.file_size(self.file))):
            return self._problems(limit)

    def _problems(self, limit: int) -> list[str]:
        # A sound file returns the single row "ok".
        rows = self._db.execute(f"PRAGMA integrity_check({limit})")
        problems = [f"{self.path}: {text}" for (text,) in rows if text != "ok"]
        for slot in range(len(self.index)):
            if len(problems) >= limit:
                return problems
            try:
                self.item(slot)
            except GalleryCorrupt as error:
                problems.append(str(error))
        count = len(self.index)
        found = chain(
            items.sum_problems(self._db, self._sums),
            lookup.problems(self._db, items.names(self._db, count), count),
            thumbnails.problems(self._db, self.path, count),
            distinct.problems(self._db),
        )
        try:
            problems += (f"{self.path}: {problem}" for problem in found)
        except GalleryCorrupt as error:  # text that cannot be read, which may be named above
            problems += [] if problems else [str(error)]
        if not problems:  # damaged items cannot be compared
            problems += self._columns.problems(self._db, self.path, count)
        return problems[:limit]

    def compact(self) -> int:
        """Rewrite the file without free space; return by how many bytes it shrank."""
        with self._lock:
            self._reopen_if_replaced()
            self._check_no_transaction("compact")
            if self._db.in_transaction:
                raise GalleryError(
                    f"{self.path}: cannot be compacted during a read, such as in on_progress; "
                    "compact after the call returns"
                )
            file_format.checkpoint(self._db, self._timeout_s)  # or the log would count as freed
            before = file_format.file_size(self.file)
            self._db.execute("VACUUM")
            file_format.checkpoint(self._db, self._timeout_s)
            self._needs_compaction = False
            return before - file_format.file_size(self.file)

    def checkpoint(self) -> None:
        """Write the log back into the file.

        Raises:
            GalleryError: the disk is full.
        """
        with self._lock:
            self._reopen_if_replaced()
            file_format.checkpoint(self._db, self._timeout_s)

    def backup(self, out: Path) -> None:
        """Copy a snapshot to a new file."""
        with self._lock:
            self._reopen_if_replaced()
            self._check_no_transaction("back up")
        with file_format.new_file(out, "a backup") as unfinished, self.reading():
            file_format.create_private(unfinished)
            with (
                translated_errors(out, self._timeout_s),
                closing(sqlite3.connect(unfinished)) as copy,
            ):
                self._db.backup(copy)
                copy.execute("PRAGMA secure_delete = ON")
                info.new_file_id(copy)
                copy.commit()

    @property
    def sources(self) -> Sources | None:
        """What the gallery was last synced with; None if it never was. Inside `reading`."""
        return read_sources(self.info, self.path)

    def remember(self, sources: Sources | None) -> None:
        """Store what the gallery was synced with; None to forget. Inside `writing`."""
        write_sources(self._db, sources)
        self.info = info.read_info(self._db, self.path)

    def thumbnail(self, slot: int) -> bytes | None:
        """The thumbnail of the item in a slot, an encoded image; None without one."""
        return thumbnails.read_thumbnail(self._db, self.path, slot)

    def set_thumbnail(self, slot: int, image: bytes) -> None:
        """Store the thumbnail of the item in a slot, until its code changes. Inside `writing`."""
        thumbnails.write_thumbnail(self._db, slot, image)
        self._has_thumbnails = True
        self._needs_checkpoint = True  # for the one before

    def distinct_pairs(self) -> set[tuple[bytes, bytes]]:
        """Identities of images that a person called distinct; the lower one of each pair first."""
        return distinct.read_pairs(self._db, self.path)

    def set_distinct(self, one: bytes, other: bytes, *, are_distinct: bool = True) -> None:
        """Store that two images, by identity, are distinct, or remove that. Inside `writing`."""
        (distinct.add_pair if are_distinct else distinct.remove_pair)(self._db, one, other)
        self._has_pairs = True
        self._needs_checkpoint = True  # for a pair that is removed

    def _note_changed(self, *slots: int) -> None:
        for table in self._tables:
            changed, length = self._changed_chunks[table], SLOTS[table]
            for slot in slots:
                changed.add(slot // length)

    def _reopen_if_replaced(self) -> None:
        """Open the file again if the connection would no longer read and write what others do."""
        check_not_cut_off(self.path)
        if not self._must_reopen:
            is_inherited = self._connected_pid != os.getpid()
            if self._db.in_transaction:
                if is_inherited:  # even a rollback would change what the parent writes
                    raise self._forked_inside()
                return
            if not (is_inherited or self._is_immutable_outdated() or self._is_replaced()):
                return
        self._must_reopen = True
        # First: two connections of a process share the locks of a file, and what is left of them.
        self._db.close()
        self._open(self.file, None)
        self._must_reopen = False

    def _is_forked(self) -> bool:
        return self._pid != os.getpid()

    def _is_immutable_outdated(self) -> bool:
        """Whether the file was opened as immutable and has been written since."""
        return self._immutable is not None and self._immutable != file_format.immutable_state(
            self.file
        )

    def _is_replaced(self) -> bool:
        """Whether another file has the name of this one, or of its log's index.

        SQLite keeps the index while a connection is open. Another process deletes it if the locks
        of this one are gone, which is so once this process has read the file by other means:
        closing any descriptor of a file drops a process's POSIX locks on it.
        """
        return self._identity is not None and self._identity != self._identities()

    def _identities(self) -> tuple[tuple[int, int] | None, ...]:
        """Of the file and of its log's index ("-shm")."""
        file, index = self._names
        return file_format.identity(file), file_format.identity(index)

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for changed in self._changed_chunks.values():
            changed.clear()
        self._changed_metadata.clear()
        self._gone_images.clear()
        self._has_thumbnails = None
        self._refresh()
        self._has_pairs = distinct.are_any(self._db)

    def _note_gone_image(self, key: str, slot: int) -> None:
        if self._has_pairs:
            identity = items.read_identity(self._db, slot, self.index[slot])
            self._gone_images[identity] = key

    def _remove_pairs(self) -> None:
        """Remove the pairs of images that are gone, unless another item has an equal image."""
        paired = distinct.paired(self._db, self._gone_images)
        for identity in paired - items.contents_among(self._db, paired) if paired else ():
            slot = self.find(self._gone_images[identity])
            if slot is None or identity != items.read_identity(self._db, slot, self.index[slot]):
                distinct.remove_image(self._db, identity)
                self._needs_checkpoint = True

    def _commit(self) -> None:
        if self._is_forked():
            raise self._forked_inside()
        if not self._db.in_transaction:
            raise self._rolled_back()
        if self._is_replaced():
            raise GalleryError(
                f"{self.path}: was replaced or lost its locks during the transaction; nothing was "
                "written; do not copy or read a gallery's files while it is open, use backup"
            )
        if self._gone_images:
            self._remove_pairs()
        self._write_chunks()
        self._lookup.flush()
        self._columns.commit(self._db, self.path, len(self.index), self._changed_metadata)
        self._sums.columns = self._columns.sum
        if self._sums.columns != self.info["columns"]:
            info.write_entry(self._db, "columns", self._sums.columns)
        state = self._sums.digest(self._file_id, self.info["crc"])
        if state != self.info["state"]:
            info.write_entry(self._db, "state", state)
        self._db.execute("COMMIT")
        self.info |= {"state": state, "columns": self._sums.columns}
        self._changed_metadata.clear()
        if self._needs_checkpoint:
            # The commit counts as done even if this fails: with a full disk, or another reader, the
            # log keeps removed bytes until the next commit.
            with suppress(GalleryError, sqlite3.Error):
                file_format.checkpoint(self._db, self._timeout_s)
                self._needs_checkpoint = False

    def _forked_inside(self) -> GalleryError:
        return GalleryError(
            f"{self.path}: a transaction was open when this process was forked; open the gallery "
            "again in this process"
        )

    def _write_chunks(self) -> None:
        for table, changed in self._changed_chunks.items():
            for n in sorted(changed):
                slots = slice(n * SLOTS[table], (n + 1) * SLOTS[table])
                chunks.write_chunk(self._db, table, n, self._chunk(table, slots), self._sums)

    def _chunk(self, table: str, slots: slice) -> NDArray[np.uint8]:
        if table == "chunk":
            return self.index[slots]
        if table == "look_chunk":
            assert self.views is not None  # or the table is not used
            return self.views[slots][:, 1:]
        assert self.structure is not None
        return self.structure[slots]

    def _rolled_back(self) -> GalleryError:
        return GalleryError(
            f"{self.path}: the transaction was rolled back, because a call inside it failed; "
            "start a new transaction"
        )

    def _check_no_transaction(self, operation: str) -> None:
        if self._is_in_transaction:
            raise GalleryError(
                f"{self.path}: cannot {operation} inside a transaction; do it before or after"
            )

    def _refresh(self) -> None:
        """Reload codes and info if another process has committed since the last snapshot."""
        version = file_format.data_version(self._db)
        if version != self._data_version:
            with deadline(self._db, seconds_allowed(file_format.file_size(self.file))):
                self._load()
            self._columns.refresh(self._sums.columns)
            self._changed_metadata.clear()
            if self._immutable is None:
                identity = self._identities()
                self._identity = identity if identity == self._identities() else None
            self._data_version = version

    def _load(self) -> None:
        """Read codes and info, and check that all parts of the file belong together.

        Raises:
            GalleryCorrupt: one is damaged, or of another state of the file.
        """
        db, path = self._db, self.path
        self.info = info.read_info(db, path)
        width, sums = self.info["bits"] // 8, Sums()
        sums.columns = self.info["columns"]
        self.index = chunks.read_codes(db, path, self.info["bits"], sums)
        count = len(self.index)
        self.views = self.structure = None
        if self.info["looks"]:
            looks = chunks.read_looks(db, path, (self.info["looks"], width), count, sums)
            self.views = _views(self.index, looks)
        if self.info["structure"]:
            self.structure = chunks.read_structure(db, path, self.info["structure"], count, sums)
        self._file_id = info.read_file_id(db, path)
        if sums.digest(self._file_id, self.info["crc"]) != self.info["state"]:
            raise GalleryCorrupt(
                f"{path}: its parts are of different states: damaged, or copied over a gallery "
                f"whose log was left ({path.name}-wal); in that case delete the log and copy again"
            )
        if self._must_compare and count <= _MAX_COMPARED:
            items.check_sums(db, path, sums)
        self._must_compare = False
        self._sums = sums
        self._lookup.forget(count)
        uses = {"look_chunk": self.info["looks"], "structure_chunk": self.info["structure"]}
        self._tables = [table for table in SLOTS if uses.get(table, True)]


def _set(index: HammingIndex | ViewIndex, slot: int, code: NDArray[np.uint8]) -> None:
    """Replace what a slot holds, or append to it."""
    if slot == len(index):
        index.add(np.ascontiguousarray(code[None]))
    else:
        index.replace(slot, code)


def _views(index: HammingIndex, looks: NDArray[np.uint8]) -> ViewIndex:
    """An index of codes, (n,), and those of looks, (n, looks, bits // 8)."""
    views = ViewIndex(index.bits, 1 + looks.shape[1])
    views.reserve(len(index))
    for start in range(0, len(index), _JOINED):
        part = slice(start, start + _JOINED)
        joined = np.concatenate([index[part][:, None], looks[part]], axis=1)
        views.add(np.ascontiguousarray(joined))
    return views
