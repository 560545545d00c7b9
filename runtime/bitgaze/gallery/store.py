"""A gallery's file with its codes in memory: snapshots to read from, transactions to write in.

Knows locks, commits of other processes, and slots. Does not know models, images or searches
(gallery.py does), nor SQL (gallery_file.py and items.py do).
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import check_array
from bitgaze.encoding.calibration import Calibration
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import file_format as gallery_file
from bitgaze.gallery import items
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.file_format import CHUNK_CODES, ModelFacts
from bitgaze.gallery.filters import KEY, Column, Condition
from bitgaze.gallery.items import FileState, Item, ItemImage
from bitgaze.hamming import HammingIndex

# So many changed items, or this share of all, are looked at one by one beside a field's column
# before it is made anew.
_MAX_CHANGED, _MAX_CHANGED_SHARE = 1024, 1 / 64
# What closing may write anew after a removal: 250,000 items, a second.
_MOST_COMPACTED_BYTES = 64 << 20
# So many fields are kept, the last ones read; of a million items each takes 4 MB or more.
_MOST_FIELDS = 64


class _Field:
    """A metadata field of all items, and the slots whose items have changed since it was read."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self.changed: set[int] = set()


class Store:
    """The file, open; what is in memory is what the file held when it was last looked at.

    Every read is done inside `reading`, every write inside `writing`. Safe to use from several
    threads, one at a time.

    Args:
        path: the file.
        create_for: says whose codes a new file will hold; None: a missing file is an error.
        timeout_s: how long to wait for another writer.

    Attributes:
        path: the file.
        index: codes by slot, as of the last snapshot.
        info: as `gallery_file.read_info` gives it, as of the last snapshot.

    Raises:
        GalleryError: missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: not an SQLite file, or a damaged one.
    """

    index: HammingIndex
    info: dict[str, Any]

    def __init__(
        self, path: Path, create_for: Callable[[], ModelFacts] | None, timeout_s: float
    ) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._lock = threading.RLock()
        self._changed_chunks: set[int] = set()
        self._is_in_transaction = False
        self._fields: dict[str, _Field] = {}
        self._has_removed = False
        self._has_forgotten = False
        self._open(create_for)

    def _open(self, create_for: Callable[[], ModelFacts] | None) -> None:
        with self._translated_errors():
            self._frozen = gallery_file.find_frozen(self.path)
            self._db: sqlite3.Connection = gallery_file.connect(
                self.path, create_for, self._timeout_s, is_frozen=self._frozen is not None
            )
        self._data_version = -1
        self._has_checked_items = self._has_checked_indexes = False

    def close(self) -> None:
        """Release the file. Later calls raise GalleryError."""
        with self._lock:
            self._check_outside("close it")
            self._frozen = None  # else a change of the file would open it again
            try:
                # SQLite moves rows between pages, and clears only the place where one was last. If
                # others are at work, or the disk is full, it stays so until the next time.
                with suppress(GalleryError, OSError):
                    is_small = self.path.stat().st_size <= _MOST_COMPACTED_BYTES
                    if self._has_forgotten and is_small:
                        self.compact()
            finally:
                self._db.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One snapshot of the file, with the codes in memory as of that snapshot."""
        with self._lock, self._translated_errors():
            if self._db.in_transaction:
                yield
                return
            if self._is_thawed():
                self._db.close()
                self._open(None)
            self._db.execute("BEGIN")
            try:
                self._refresh()
                yield
            finally:
                self._db.execute("COMMIT")
            if self._is_thawed():
                raise GalleryError(f"{self.path}: written while it was being read; try again")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several writes as one: the file gets all of them or, after an exception, none.

        Raises:
            GalleryError: the file cannot be written, or a call inside failed and its exception was
                caught there.
        """
        with self._lock:
            is_part = self._is_in_transaction
            with self._translated_errors():
                if is_part and not self._db.in_transaction:  # else this would be one of its own
                    raise self._undone()
                if not is_part and self._db.in_transaction:
                    raise GalleryError(
                        f"{self.path}: cannot be written while it is being read (in on_progress)"
                    )
            try:
                if not is_part:
                    self._begin()
                    self._is_in_transaction = True
                yield
                if not is_part:
                    self._commit()
            except BaseException:
                # The codes in memory ran ahead of the file: load them again.
                self._data_version = -1
                if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                    self._db.execute("ROLLBACK")
                raise
            finally:
                if not is_part:
                    self._is_in_transaction = False

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction, or a part of one."""
        with self._translated_errors(), self.transaction():
            yield

    @property
    def calibration(self) -> Calibration | None:
        """Of the adapted codes, if they are adapted, else of the model's; or None."""
        is_adapted = self.info["adaptation"] is not None
        found: Calibration | None = self.info[
            "adapted_calibration" if is_adapted else "calibration"
        ]
        return found

    def keys(self) -> list[str]:
        """All keys, in order of slots."""
        return [key for _, key, _, _ in self._items()]

    def has(self, key: str) -> bool:
        """Whether the index of keys has this one; `find` is surer, and slower where it has not."""
        return items.find_slot(self._db, key) is not None

    def find(self, key: str) -> int | None:
        """The slot of the item with this key, or None.

        Raises:
            TypeError: a key that is not a str.
            GalleryCorrupt: the index of keys contradicts the items.
        """
        slot = items.find_slot(self._db, key)
        if slot is None:
            self._check()
        elif items.read_key(self._db, slot) != key:
            raise GalleryCorrupt(f"{self.path}: its key index is damaged at {key!r}")
        return slot

    def slot(self, key: str) -> int:
        """The slot of the item with this key.

        Raises:
            KeyError: there is none.
            TypeError: a key that is not a str.
            GalleryCorrupt: the index of keys contradicts the items.
        """
        slot = self.find(key)
        if slot is None:
            raise KeyError(f"{self.path} holds no item {key!r}")
        return slot

    def check_free(self, key: str) -> None:
        """GalleryError if an item has this key."""
        if self.find(key) is not None:
            raise GalleryError(f"{self.path}: key {key!r} is taken; remove it first")

    def item(self, slot: int) -> Item:
        """The item in a slot.

        Raises:
            GalleryCorrupt: there is no such slot, or its row is damaged.
        """
        if not 0 <= slot < len(self.index):
            raise GalleryCorrupt(f"{self.path}: slot {slot} of {len(self.index)} in its key index")
        return items.read_item(self._db, self.path, slot, self.index[slot])

    def item_of_file(self, path: bytes) -> Item | None:
        """The item that was made from this file, or None."""
        slot = items.find_file(self._db, path)
        if slot is None:
            self._check()
            return None
        item = self.item(slot)
        if item.file is None or item.file.path != path:
            raise GalleryCorrupt(f"{self.path}: its path index is damaged at {item.key!r}")
        return item

    def files(self, prefixes: tuple[bytes, ...]) -> dict[str, FileState]:
        """Key to file of the items whose path begins with any of these bytes."""
        return {
            key: file
            for _, key, _, file in self._items()
            if file is not None and file.path.startswith(prefixes)
        }

    def images(self) -> list[ItemImage]:
        """Of every item, in order of slots, what its code was made from."""
        return items.read_images(self._db, self.path, self.index)

    def allowed(self, conditions: Sequence[Condition]) -> NDArray[np.bool_]:
        """Which items fulfil all conditions: bool, (n,), by slot.

        The first of all looks at every item, see `_check`. The first on a field reads that field of
        every item, which takes a second or more for a million of them; it is then kept, and the
        next take milliseconds.

        Raises:
            GalleryCorrupt: metadata that is not JSON, or an item that is not as it was written.
        """
        self._check()
        allowed = np.ones(len(self.index), bool)
        for condition in conditions:
            if condition.field == KEY:
                self._check()
                allowed &= items.keys_that_match(self._db, condition, len(self.index))
            else:
                allowed &= self._matches(condition)
        return allowed

    def _matches(self, condition: Condition) -> NDArray[np.bool_]:
        name, count = condition.field, len(self.index)
        field = self._fields.get(name)
        most = max(_MAX_CHANGED, _MAX_CHANGED_SHARE * count)
        if field is None or len(field.changed) > most:
            self._check_items()
            texts = items.read_field(self._db, self.path, name)
            field = self._fields[name] = _Field(Column(texts))
            if len(self._fields) > _MOST_FIELDS:
                del self._fields[next(iter(self._fields))]
        matches = np.zeros(count, bool)
        known = field.column.matches(condition)[:count]
        matches[: len(known)] = known
        changed = [slot for slot in field.changed if slot < count]
        if changed:
            values = [self.item(slot).metadata.get(name) for slot in changed]
            matches[changed] = Column(map(json.dumps, values)).matches(condition)
        return matches

    def put(self, item: Item) -> None:
        """Keep an item, in place of the one with its key if there is one."""
        check_array(item.code, "code")
        slot = self.find(item.key)
        if slot is None:
            slot = len(self.index)
            self.index.add(item.code[None])
        else:
            self.index.replace(slot, item.code)
            self._has_removed = True  # its old code
            self._has_forgotten |= not items.has_metadata_of(self._db, slot, item)
        items.write_item(self._db, slot, item)
        self._note_changed(slot)

    def delete(self, key: str) -> None:
        """Forget an item; the last one moves into its slot."""
        slot, last = self.slot(key), len(self.index) - 1
        items.delete_item(self._db, self.path, slot, last)
        self.index.remove(slot)
        self._note_changed(slot, last)
        self._has_removed = self._has_forgotten = True

    def move(self, moves: Sequence[tuple[str, str, FileState | None]]) -> None:
        """Give items other keys and files, (key, new key, file) of each, all at once."""
        slots = [self.slot(key) for key, _, _ in moves]
        if len(set(slots)) < len(slots):
            raise ValueError("a key is moved twice")
        held = [self.item(slot) for slot in slots]
        self._check()  # while every row is whole
        for slot in slots:
            items.release_key(self._db, slot)
        for slot, item, (_, new_key, file) in zip(slots, held, moves, strict=True):
            self.check_free(new_key)
            items.write_item(self._db, slot, Item(new_key, item.code, item.metadata, file))
        self._has_removed = True  # the old keys
        self._has_forgotten |= any(key != new_key for key, new_key, _ in moves)

    def recode(
        self,
        codes: NDArray[np.uint8],
        adaptation: Adaptation | None,
        calibration: Calibration | None,
    ) -> None:
        """Other codes for all items, by slot, and what was done to them; None: nothing."""
        self.index = HammingIndex(self.index.bits)
        self.index.add(codes)
        self._changed_chunks.update(range(-(-len(codes) // CHUNK_CODES)))
        gallery_file.write_adaptation(self._db, adaptation, calibration)
        self.info = gallery_file.read_info(self._db, self.path)
        self._has_removed = True

    def _items(self) -> Iterator[items.Row]:
        return items.read_items(self._db, self.path, len(self.index))

    def _check_items(self) -> None:
        """Once while a file is open, before what all items say is believed."""
        if not self._has_checked_items:
            items.check_items(self._db, self.path, len(self.index))
            self._has_checked_items = True

    def _check(self) -> None:
        """Once while a file is open, before it is believed that something is not in it.

        Takes 4 s for a million items.
        """
        if not self._has_checked_indexes:
            self._check_items()
            items.check_indexes(self._db, self.path)
            self._has_checked_indexes = True

    def problems(self, most: int) -> list[str]:
        """What is wrong with pages, items and indexes; at most so many. Inside `reading`."""
        # One row, "ok", if nothing is.
        rows = self._db.execute(f"PRAGMA integrity_check({most})")
        found = [f"{self.path}: {text}" for (text,) in rows if text != "ok"]
        for slot in range(len(self.index)):
            if len(found) >= most:
                return found
            try:
                self.item(slot)
            except (GalleryCorrupt, UnicodeDecodeError) as error:
                found.append(str(error))
        try:
            items.check_indexes(self._db, self.path)
        except GalleryCorrupt as error:
            found.append(str(error))
        return found

    def compact(self) -> int:
        """Give back the room of what was removed; how many bytes of the file that was."""
        with self._lock, self._translated_errors():
            self._check_outside("compact it")
            if self._db.in_transaction:
                raise GalleryError(
                    f"{self.path}: cannot be compacted while it is being read (in on_progress)"
                )
            gallery_file.write_back(self._db, self._timeout_s)  # else the log counts as freed
            before = self.path.stat().st_size
            self._db.execute("VACUUM")
            gallery_file.write_back(self._db, self._timeout_s)
            self._has_forgotten = False
            return before - self.path.stat().st_size

    def write_back(self) -> None:
        """Bring all of the log into the file.

        Raises:
            GalleryError: the disk is full.
        """
        with self._lock, self._translated_errors():
            gallery_file.write_back(self._db, self._timeout_s)

    def backup(self, out: Path) -> None:
        """Copy the file as it is at this moment to one that does not exist yet."""
        with self._lock:
            self._check_outside("back it up")
        with (
            gallery_file.new_file(out, "a backup") as unfinished,
            self.reading(),
            gallery_file.translated_errors(out, self._timeout_s),
            closing(sqlite3.connect(unfinished)) as copy,
        ):
            self._db.backup(copy)

    def _note_changed(self, *slots: int) -> None:
        self._changed_chunks.update(slot // CHUNK_CODES for slot in slots)
        for field in self._fields.values():
            field.changed.update(slots)

    def _is_thawed(self) -> bool:
        """Whether a file that nobody could have written has been written."""
        return self._frozen is not None and self._frozen != gallery_file.find_frozen(self.path)

    def _begin(self) -> None:
        with self._translated_errors():
            self._db.execute("BEGIN IMMEDIATE")
            self._changed_chunks.clear()
            self._refresh()

    def _commit(self) -> None:
        with self._translated_errors():
            if not self._db.in_transaction:
                raise self._undone()
            for n in self._changed_chunks:
                first = n * CHUNK_CODES
                codes = self.index[first : first + CHUNK_CODES]
                gallery_file.write_chunk(self._db, n, codes)
            self._db.execute("COMMIT")
            if self._has_removed:
                # What is in the file is told as done. A full disk keeps what was removed in the
                # log, as another reader does, until the next commit.
                with suppress(sqlite3.Error):
                    gallery_file.write_back(self._db, self._timeout_s)
                    self._has_removed = False

    def _undone(self) -> GalleryError:
        return GalleryError(f"{self.path}: a call in the transaction failed; it was undone")

    def _check_outside(self, what: str) -> None:
        if self._is_in_transaction:
            raise GalleryError(f"{self.path}: in a transaction; {what} before or after it")

    def _refresh(self) -> None:
        """Load what another process has committed since the last look."""
        version = gallery_file.data_version(self._db)
        if version != self._data_version:
            self.info = gallery_file.read_info(self._db, self.path)
            self.index = gallery_file.read_codes(self._db, self.path, self.info["bits"])
            self._fields.clear()
            self._data_version = version

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        with gallery_file.translated_errors(self.path, self._timeout_s):
            yield
