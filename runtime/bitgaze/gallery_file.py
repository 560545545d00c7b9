"""The gallery's file: schema, identity, items, and the blobs that hold the codes.

Knows SQLite and bytes; all SQL is here. Knows nothing of pictures, models, searches or transactions
(gallery.py does).

Format 1 (`PRAGMA application_id` "bgaz", `PRAGMA user_version` 1, WAL journal):
  info(name, value)   fingerprint, model, bits, calibration: of the model that made the codes; and,
      if they are adapted to the gallery's pictures:
      adaptation              `Adaptation.to_bytes`
      adaptation_fingerprint  its SHA-256
      adapted_calibration     as calibration, of the adapted codes
  item(slot, key, path, size, mtime_ns, ctime_ns, content, metadata)
      slot      0 .. n-1 without a gap: the position of the item's code
      path      bytes of the file's path for an item that sync looks after, else NULL;
                with it size (bytes), mtime_ns, ctime_ns, and content (BLAKE2b, 16 bytes)
      metadata  a JSON object
  chunk(n, codes, crc)
      codes     of the slots from n * 4096 on, 4096 of them or, in the last chunk, the rest
      crc       CRC-32 of codes
"""

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.adaptation import Adaptation
from bitgaze.calibration import Calibration
from bitgaze.contract import Model, calibration_from
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.hamming import HammingIndex

FORMAT_VERSION = 1
CHUNK_CODES = 4096

_APPLICATION_ID = int.from_bytes(b"bgaz", "big")
_BUSY_TIMEOUT_S = 5.0
_ADAPTED = frozenset(["adaptation", "adaptation_fingerprint", "adapted_calibration"])
_SCHEMA = (
    "CREATE TABLE info(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, path BLOB UNIQUE,"
    " size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, content BLOB, metadata TEXT NOT NULL)",
    "CREATE TABLE chunk(n INTEGER PRIMARY KEY, codes BLOB NOT NULL, crc INTEGER NOT NULL)",
)


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


@dataclass(frozen=True)
class Frozen:
    """What tells a file that nobody is writing from its later self."""

    inode: int
    size: int
    mtime_ns: int


def find_frozen(path: Path) -> Frozen | None:
    """The state of a file that can only be read and that nobody has open to write, else None.

    SQLite keeps a log and its index ("-wal", "-shm") beside a file, even to read it. Where it
    cannot make them, it must be told that there will be no writer; one with more rights than we
    have may still come, and then the index appears and the state changes.
    """
    if not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return None
    log, index = (Path(f"{path}-{name}") for name in ("wal", "shm"))
    if index.exists() or (log.exists() and log.stat().st_size > 0):
        return None
    status = path.stat()
    return Frozen(status.st_ino, status.st_size, status.st_mtime_ns)


def connect(
    path: Path, create_for: Callable[[], Model] | None, *, is_frozen: bool
) -> sqlite3.Connection:
    """Open a gallery file, or make an empty one. One that cannot be written opens to be read.

    Args:
        path: the file.
        create_for: gives the model whose codes a new file will hold; None: a missing file is an
            error.
        is_frozen: nobody writes; see `find_frozen`.

    Raises:
        GalleryError: missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: not an SQLite file, or a damaged one.
    """
    if create_for is None and not path.exists():
        raise GalleryError(f"{path}: no such gallery; `bitgaze index FOLDER -g {path}` makes one")
    if path.is_dir():
        raise GalleryError(f"{path}: a folder; a gallery is a file, for example {path}.bitgaze")
    if not path.parent.is_dir():
        raise GalleryError(f"{path}: there is no folder {path.parent}")
    # Before there is a file: a model that cannot be read must not leave an empty one.
    model = None if create_for is None or path.exists() else create_for()
    with translated_errors(path):
        db = sqlite3.connect(
            # Absolute, so that ":memory:" is a file like any other.
            path.absolute().as_uri() + ("?immutable=1" if is_frozen else ""),
            uri=True,
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            # Removed keys and codes are overwritten with zeros, not only unlinked.
            db.execute("PRAGMA secure_delete = ON")
            if create_for is not None and _is_new(db):
                _create(db, model or create_for())
            _check_identity(db, path)
        except BaseException:
            db.close()
            raise
    return db


def read_info(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """What the file says of its codes.

    Returns:
        fingerprint, model, bits and calibration of the model; adaptation and adapted_calibration,
        None where there are none.

    Raises:
        GalleryCorrupt: an entry is missing or impossible.
    """
    info: dict[str, Any] = dict(db.execute("SELECT name, value FROM info"))
    try:
        for name, kind in (("fingerprint", str), ("model", str), ("bits", int)):
            if not isinstance(info[name], kind):
                raise ValueError(f"{name} is {info[name]!r}, expected {kind.__name__}")
        HammingIndex(info["bits"])
        info["calibration"] = _calibration(info["calibration"], info["bits"])
        is_adapted = not _ADAPTED.isdisjoint(info)
        info["adaptation"] = _adaptation(info) if is_adapted else None
        info["adapted_calibration"] = (
            _calibration(info["adapted_calibration"], info["bits"]) if is_adapted else None
        )
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: info is damaged: {error!r}") from error
    return info


def write_adaptation(
    db: sqlite3.Connection, adaptation: Adaptation | None, calibration: Calibration | None
) -> None:
    """Store what was done to the codes, and what their distances mean; None: nothing was done."""
    db.executemany("DELETE FROM info WHERE name = ?", [(name,) for name in _ADAPTED])
    if adaptation is not None:
        info = {
            "adaptation": adaptation.to_bytes(),
            "adaptation_fingerprint": adaptation.fingerprint,
            "adapted_calibration": json.dumps(calibration and asdict(calibration)),
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())


def read_codes(db: sqlite3.Connection, path: Path, bits: int) -> HammingIndex:
    """All codes, in order of slots.

    Raises:
        GalleryCorrupt: a chunk is missing, of a wrong length or checksum, or codes and items do not
            match one to one.
    """
    index = HammingIndex(bits)
    code_bytes = bits // 8
    chunks = db.execute("SELECT n, codes, crc FROM chunk ORDER BY n")
    for expected_n, (n, codes, crc) in enumerate(chunks):
        if n != expected_n or len(index) != n * CHUNK_CODES:
            raise GalleryCorrupt(f"{path}: chunk {expected_n} of the codes is missing or too short")
        is_sane = isinstance(codes, bytes) and 0 < len(codes) <= CHUNK_CODES * code_bytes
        if not is_sane or len(codes) % code_bytes or zlib.crc32(codes) != crc:
            raise GalleryCorrupt(f"{path}: chunk {n} of the codes is damaged")
        index.add(np.frombuffer(codes, np.uint8).reshape(-1, code_bytes))
    count, first, last = db.execute("SELECT count(*), min(slot), max(slot) FROM item").fetchone()
    if count != len(index) or (count and (first, last) != (0, count - 1)):
        raise GalleryCorrupt(f"{path}: {count} items, but {len(index)} codes")
    return index


def write_chunk(db: sqlite3.Connection, n: int, codes: NDArray[np.uint8]) -> None:
    """Store one chunk; without codes, delete it."""
    if len(codes):
        blob = codes.tobytes()
        db.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", (n, blob, zlib.crc32(blob)))
    else:
        db.execute("DELETE FROM chunk WHERE n = ?", (n,))


def write_back(db: sqlite3.Connection) -> None:
    """Empty the log beside the file, unless another connection is reading or writing just now."""
    db.execute("PRAGMA busy_timeout = 0")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # says "busy" in its row, not as an error
    db.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_S * 1000:.0f}")


def data_version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection has committed."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


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


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Errors of SQLite and the system as GalleryError and GalleryCorrupt, naming the file."""
    try:
        yield
    except UnicodeDecodeError as error:  # text of the file, or of SQLite's message that quotes it
        raise GalleryCorrupt(f"{path}: its text is damaged: {error}") from error
    except OSError as error:
        raise GalleryError(f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        # The low byte is the primary code: https://sqlite.org/rescode.html
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise GalleryCorrupt(f"{path}: not a gallery, or a damaged one: {error}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise GalleryError(
                f"{path}: another process has been writing for {_BUSY_TIMEOUT_S:.0f} s; try again"
            ) from error
        if code == sqlite3.SQLITE_READONLY:
            raise GalleryError(f"{path}: the file or its folder is read-only") from error
        if code == sqlite3.SQLITE_CANTOPEN and Path(f"{path}-wal").exists():
            raise GalleryError(
                f"{path}: changes in the log beside it (-wal) cannot be read where the folder is "
                "read-only; open the gallery once where it can be written"
            ) from error
        raise GalleryError(f"{path}: {error}") from error


def _is_sane(file: FileState | None) -> bool:
    return file is None or (
        isinstance(file.path, bytes)
        and isinstance(file.content, bytes)
        and all(isinstance(n, int) for n in (file.size, file.mtime_ns, file.ctime_ns))
    )


def _calibration(text: str, bits: int) -> Calibration | None:
    calibration = calibration_from(json.loads(text))
    if calibration is not None and calibration.bits != bits:
        raise ValueError(f"calibration is for {calibration.bits} bits")
    return calibration


def _adaptation(info: dict[str, Any]) -> Adaptation:
    adaptation = Adaptation.from_bytes(info["adaptation"], info["bits"])
    if adaptation.fingerprint != info["adaptation_fingerprint"]:
        raise ValueError(
            f"adaptation has fingerprint {adaptation.fingerprint}, "
            f"expected {info['adaptation_fingerprint']!r}"
        )
    return adaptation


def _is_new(db: sqlite3.Connection) -> bool:
    """Whether nobody has put anything into the file, not even a mark of whose it is."""
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not tables and not any(_identity(db))


def _identity(db: sqlite3.Connection) -> tuple[int, int]:
    """Application id and version of the format."""
    application_id, version = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application_id, version


def _create(db: sqlite3.Connection, model: Model) -> None:
    _use_log(db)
    db.execute("BEGIN IMMEDIATE")
    if _is_new(db):  # still, now that nobody else writes
        for statement in _SCHEMA:
            db.execute(statement)
        info = {
            "fingerprint": model.fingerprint,
            "model": model.contract.name,
            "bits": model.contract.bits,
            "calibration": json.dumps(
                model.contract.calibration and asdict(model.contract.calibration)
            ),
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")


def _use_log(db: sqlite3.Connection) -> None:
    """Turn WAL on; unlike elsewhere, SQLite does not wait for another that does the same."""
    give_up = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            return


def _check_identity(db: sqlite3.Connection, path: Path) -> None:
    application_id, version = _identity(db)
    if application_id != _APPLICATION_ID:
        raise GalleryError(f"{path}: an SQLite file, but not a bitgaze gallery")
    if version < 1:
        raise GalleryCorrupt(f"{path}: gallery format {version}; the first one is 1")
    if version > FORMAT_VERSION:
        raise GalleryError(
            f"{path}: gallery format {version}, this version of bitgaze reads up to "
            f"{FORMAT_VERSION}; update bitgaze"
        )
