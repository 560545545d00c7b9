"""The store: a gallery's file with its codes in memory, read in snapshots, written in transactions.

Handles locks, commits of other processes, and slots. The SQL is in file_format.py and items.py;
models, images and searches are above.
"""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import check_array
from bitgaze.encoding.calibration import Calibration
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import file_format, items
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.blocks import Steps, block, body
from bitgaze.gallery.columns import Columns
from bitgaze.gallery.connection import Connection, deadline, seconds_allowed, translated_errors
from bitgaze.gallery.file_format import CHUNK_CODES, ModelInfo
from bitgaze.gallery.filters import KEY, Condition
from bitgaze.gallery.items import FileState, ImageRef, Item
from bitgaze.hamming import HammingIndex

# Larger files are not compacted on close: 250,000 items take a second.
_MAX_COMPACTED_BYTES = 64 << 20


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
        info: the result of `file_format.read_info`, as of the last snapshot.

    Raises:
        GalleryError: the file is missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: the file is damaged, or not an SQLite file.
    """

    index: HammingIndex
    info: dict[str, Any]
    _db: Connection
    _identity: tuple[tuple[int, int] | None, ...] | None

    def __init__(
        self, path: Path, model_info: Callable[[], ModelInfo] | None, timeout_s: float
    ) -> None:
        self.path = path
        with file_format.system_errors(path):  # a working directory that was deleted
            self.file = path.absolute()
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._changed_chunks: set[int] = set()
        self._is_in_transaction = False
        self._must_reopen = False
        self._pid = os.getpid()
        self._columns = Columns()
        # Slots whose metadata this transaction has changed.
        self._changed_metadata: set[int] = set()
        # Removed bytes are still in the log, and in free places of the file.
        self._needs_checkpoint = False
        self._needs_compaction = False
        self._open(path, model_info)

    def _open(self, path: Path, model_info: Callable[[], ModelInfo] | None) -> None:
        immutable = file_format.immutable_state(path)
        db = file_format.connect(
            path, model_info, self._timeout_s, is_immutable=immutable is not None
        )
        self._data_version = -1
        self._has_checked = self._has_checked_items = False
        self._connected_pid = os.getpid()
        self._identity = None
        self._db = db
        self._immutable = immutable  # last: after an interruption the next read opens it again

    def close(self) -> None:
        """Close the file. Later calls raise GalleryError."""
        with self._lock:
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
                self._db.rollback()  # nothing to do if SQLite rolled back itself
                raise
            finally:
                if not is_nested:
                    self._is_in_transaction = False
                    self._db.close_cursors()

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

    def has(self, key: str) -> bool:
        """Whether the key index holds a key; unlike `find`, does not verify the index if not."""
        return items.find_slot(self._db, key) is not None

    def find(self, key: str) -> int | None:
        """The slot of the item with this key, or None.

        Raises:
            TypeError: the key is not a str.
            GalleryCorrupt: the key index does not match the items.
        """
        slot = items.find_slot(self._db, key)
        if slot is None:
            self._check()
        elif items.read_key(self._db, slot) != key:
            raise GalleryCorrupt(f"{self.path}: the key index is damaged at {key!r}")
        return slot

    def slot(self, key: str) -> int:
        """The slot of the item with this key.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str.
            GalleryCorrupt: the key index does not match the items.
        """
        slot = self.find(key)
        if slot is None:
            raise KeyError(f"{self.path} holds no item {key!r}")
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
        return items.read_item(self._db, self.path, slot, self.index[slot])

    def item_of_file(self, path: bytes) -> Item | None:
        """The item that sync made from the file with this path, or None."""
        slot = items.find_file(self._db, path)
        if slot is None:
            self._check()
            return None
        item = self.item(slot)
        if item.file is None or item.file.path != path:
            raise GalleryCorrupt(f"{self.path}: the path index is damaged at {item.key!r}")
        return item

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

    def image_refs(self) -> list[ImageRef]:
        """A reference to every item's image, in slot order."""
        return items.read_image_refs(self._db, self.path, self.index)

    def allowed(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """Which items meet all conditions: bool, (n,), by slot.

        Conditions on fields read the field's columns, see columns.py. Patterns and ranges of the
        key look at each item, and the first of them verifies all items.

        Raises:
            GalleryCorrupt: a column is damaged, or an item that is read.
        """
        count = len(self.index)
        on_fields = [condition for condition in conditions if condition.field != KEY]
        allowed = np.ones(count, bool)
        if on_fields:
            changed = self._changed_metadata
            allowed = self._columns.allowed(self._db, self.path, on_fields, count, changed)
        for condition in conditions:
            if condition.field == KEY:
                allowed &= items.match_keys(
                    self._db, condition, count, self.find, self._check_items
                )
        return allowed

    def put(self, item: Item) -> None:
        """Store an item; one with the same key is replaced."""
        check_array(item.code, "code")
        slot = self.find(item.key)
        # The row first: if it cannot be written, codes and items still match.
        if slot is None:
            slot = len(self.index)
            items.write_item(self._db, slot, item)
            self.index.add(item.code[None])
            self._changed_metadata.add(slot)
        else:
            has_same_metadata = items.has_same_metadata(self._db, slot, item)
            items.write_item(self._db, slot, item)
            self.index.replace(slot, item.code)
            self._needs_checkpoint = True  # for its old code
            if not has_same_metadata:
                self._needs_compaction = True
                self._changed_metadata.add(slot)
        self._changed_chunks.add(slot // CHUNK_CODES)

    def delete(self, key: str) -> None:
        """Delete an item; the last one moves into its slot."""
        slot, last = self.slot(key), len(self.index) - 1
        items.delete_item(self._db, self.path, slot, last)
        self.index.remove(slot)
        self._changed_chunks.update((slot // CHUNK_CODES, last // CHUNK_CODES))
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
        self._check()  # before rows have placeholders for keys
        for slot in slots:
            items.release_key(self._db, slot)
        for slot, item, (_, new_key, file) in zip(slots, moved, moves, strict=True):
            self.check_free(new_key)
            items.write_item(self._db, slot, Item(new_key, item.code, item.metadata, file))
        self._needs_checkpoint = True  # for the old keys
        self._needs_compaction |= any(key != new_key for key, new_key, _ in moves)

    def replace_codes(
        self,
        codes: NDArray[np.uint8],
        adaptation: Adaptation | None,
        calibration: Calibration | None,
    ) -> None:
        """Replace the codes of all items.

        Args:
            codes: uint8, (n, bits // 8), by slot.
            adaptation: the adaptation that made them; None for the model's own codes.
            calibration: of the adapted codes, if measured.
        """
        self.index = HammingIndex(self.index.bits)
        self.index.add(codes)
        self._changed_chunks.update(range(-(-len(codes) // CHUNK_CODES)))
        file_format.write_adaptation(self._db, adaptation, calibration)
        self.info = file_format.read_info(self._db, self.path)
        self._needs_checkpoint = True

    def _items(self) -> Iterator[items.Row]:
        return items.read_items(self._db, self.path, len(self.index))

    def _check(self) -> None:
        """Verify items and indexes, once per connection, before a failed lookup is trusted.

        Takes 4 s for a million items.
        """
        if not self._has_checked:
            self._check_items()
            items.check_indexes(self._db, self.path)
            self._has_checked = True

    def _check_items(self) -> None:
        """Verify items, once per connection; takes 2 s for a million."""
        if not self._has_checked_items:
            items.check_items(self._db, self.path, len(self.index))
            self._has_checked_items = True

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
        try:
            items.check_indexes(self._db, self.path)
        except GalleryCorrupt as error:
            problems.append(str(error))
        if not problems:  # damaged items cannot be compared
            problems += self._columns.problems(self._db, self.path, len(self.index))
        return problems[:limit]

    def compact(self) -> int:
        """Rewrite the file without free space; return by how many bytes it shrank."""
        with self._lock:
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
            file_format.checkpoint(self._db, self._timeout_s)

    def backup(self, out: Path) -> None:
        """Copy a snapshot to a new file."""
        with self._lock:
            self._check_no_transaction("back up")
        with file_format.new_file(out, "a backup") as unfinished, self.reading():
            file_format.create_private(unfinished)
            with (
                translated_errors(out, self._timeout_s),
                closing(sqlite3.connect(unfinished)) as copy,
            ):
                self._db.backup(copy)

    def _reopen_if_replaced(self) -> None:
        """Open the file again if the connection would no longer read and write what others do."""
        if not self._must_reopen:
            is_inherited = self._connected_pid != os.getpid()
            if self._db.in_transaction:
                if is_inherited:  # even a rollback would change what the parent writes
                    raise GalleryError(
                        f"{self.path}: a transaction was open when this process was forked; open "
                        "the gallery again in this process"
                    )
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
        return self._identity is not None and self._identity != file_format.identity(self.file)

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._changed_chunks.clear()
        self._changed_metadata.clear()
        self._refresh()

    def _commit(self) -> None:
        if not self._db.in_transaction:
            raise self._rolled_back()
        if self._is_replaced():
            raise GalleryError(
                f"{self.path}: was replaced or lost its locks during the transaction; nothing was "
                "written; do not copy or read a gallery's files while it is open, use backup"
            )
        for n in self._changed_chunks:
            first = n * CHUNK_CODES
            codes = self.index[first : first + CHUNK_CODES]
            file_format.write_chunk(self._db, n, codes)
        self._columns.commit(self._db, self.path, len(self.index), self._changed_metadata)
        self._db.execute("COMMIT")
        self._changed_metadata.clear()
        if self._needs_checkpoint:
            # The commit counts as done even if this fails: with a full disk, or another reader, the
            # log keeps removed bytes until the next commit.
            with suppress(GalleryError, sqlite3.Error):
                file_format.checkpoint(self._db, self._timeout_s)
                self._needs_checkpoint = False

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
                self.info = file_format.read_info(self._db, self.path)
                self.index = file_format.read_codes(self._db, self.path, self.info["bits"])
            self._columns.refresh()
            self._changed_metadata.clear()
            if self._immutable is None:
                identity = file_format.identity(self.file)
                is_lasting = identity == file_format.identity(self.file)
                self._identity = identity if is_lasting else None
            self._data_version = version
