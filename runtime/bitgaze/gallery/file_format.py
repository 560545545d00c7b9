"""The gallery's file: schema, identity, whose codes it holds, and the blobs that hold them.

Knows SQLite and bytes. Knows nothing of items' rows (items.py), transactions (store.py), images,
models or searches (gallery.py).

Format 2 (`PRAGMA application_id` "bgaz", `PRAGMA user_version` 2, WAL journal):
  info(name, value)   fingerprint, model, bits, calibration: of the model that made the codes, the
      first two empty where no model did; and, if they are adapted to the gallery's images:
      adaptation              `Adaptation.to_bytes`
      adaptation_fingerprint  its SHA-256
      adapted_calibration     as calibration, of the adapted codes
      crc                     CRC-32 of all the others, see `_info_crc`
  item(slot, key, path, size, mtime_ns, ctime_ns, content, metadata, crc)
      slot      0 .. n-1 without a gap: the position of the item's code
      path      bytes of the file's path for an item that sync looks after, else NULL;
                with it size (bytes), mtime_ns, ctime_ns, and content (BLAKE2b, 16 bytes)
      metadata  a JSON object
      crc       CRC-32 of all the others, see `items.item_crc`
  chunk(n, codes, crc)
      codes     of the slots from n * 4096 on, 4096 of them or, in the last chunk, the rest
      crc       CRC-32 of codes

Format 1 had no crc in info and item; a file of it becomes one of format 2 when it is opened.
"""

import json
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import calibration_from
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.items import COLUMNS, item_crc
from bitgaze.hamming import HammingIndex

FORMAT_VERSION = 2
CHUNK_CODES = 4096

_APPLICATION_ID = int.from_bytes(b"bgaz", "big")
# The largest of our own, an adaptation of 1024 bits, takes 4 MB. A damaged length may say 1 GB.
_MAX_VALUE_BYTES = 64 << 20
_ADAPTED = frozenset(["adaptation", "adaptation_fingerprint", "adapted_calibration"])
_SCHEMA = (
    "CREATE TABLE info(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, path BLOB UNIQUE,"
    " size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, content BLOB, metadata TEXT NOT NULL,"
    # SQLite checks no page of its own.
    " crc INTEGER NOT NULL)",
    "CREATE TABLE chunk(n INTEGER PRIMARY KEY, codes BLOB NOT NULL, crc INTEGER NOT NULL)",
)
_SCHEMA_1 = (_SCHEMA[0], _SCHEMA[1].replace(", crc INTEGER NOT NULL", ""), _SCHEMA[2])


class ModelFacts(NamedTuple):
    """Whose codes a gallery holds.

    Attributes:
        fingerprint: of the model; "" where the caller makes the codes.
        model: its name, or "".
        bits: length of a code.
        calibration: of the model, or None.
    """

    fingerprint: str
    model: str
    bits: int
    calibration: Calibration | None


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
    path: Path,
    create_for: Callable[[], ModelFacts] | None,
    timeout_s: float,
    *,
    is_frozen: bool,
) -> sqlite3.Connection:
    """Open a gallery file, or make an empty one. One that cannot be written opens to be read.

    Args:
        path: the file.
        create_for: says whose codes a new file will hold; None: a missing file is an error.
        timeout_s: how long to wait for another writer.
        is_frozen: nobody writes; see `find_frozen`.

    Raises:
        GalleryError: missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: not an SQLite file, or a damaged one.
    """
    if create_for is None and not path.exists():
        raise GalleryError(f"{path}: no such gallery; `bitgaze index FOLDER -g {path}` makes one")
    if path.is_dir():
        raise GalleryError(
            f"{path}: a folder; a gallery is a file, for example {path / 'g.bitgaze'}"
        )
    if not path.parent.is_dir():
        raise GalleryError(f"{path}: there is no folder {path.parent}")
    # Before there is a file: a model that cannot be read must not leave an empty one.
    facts = None if create_for is None or path.exists() else create_for()
    with translated_errors(path, timeout_s):
        db = sqlite3.connect(
            # Absolute, so that ":memory:" is a file like any other.
            path.absolute().as_uri() + ("?immutable=1" if is_frozen else ""),
            uri=True,
            timeout=timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
            # Removed keys and codes are overwritten with zeros, not only unlinked.
            db.execute("PRAGMA secure_delete = ON")
            if create_for is not None and _is_new(db):
                _create(db, facts or create_for(), timeout_s)
            if check_version(db, path) == 1:
                _migrate(db, path, is_frozen=is_frozen)
            _check_schema(db, path, _SCHEMA)
        except BaseException:
            db.close()
            raise
    return db


@contextmanager
def new_file(out: Path, what: str) -> Iterator[Path]:
    """Where to write a gallery that takes its name when it is whole, and leaves nothing else.

    Args:
        out: the file, which must not exist.
        what: makes it, for the message.

    Raises:
        GalleryError: it exists, or a log of an earlier file lies where it would be taken for its
            own; or there is no such folder.
    """
    if out.exists():
        raise GalleryError(f"{out}: exists already; {what} makes a new file")
    for log in _beside(out):
        if log.exists():
            raise GalleryError(
                f"{log}: left by a gallery that is gone, and would change the new one; move it away"
            )
    if not out.parent.is_dir():
        raise GalleryError(f"{out}: there is no folder {out.parent}")
    # A folder of its own: two that make the same file must not meet.
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix=".bitgaze-", dir=out.parent))
        except OSError as error:
            raise GalleryError(f"{out}: cannot be made: {error.strerror}") from error
        unfinished = Path(folder) / "unfinished"
        yield unfinished
        for log in _beside(unfinished):
            # SQLite says nothing when it cannot write its log back as it closes.
            if log.exists() and log.stat().st_size > 0:
                raise GalleryError(f"{out}: could not be written to its end; is the disk full?")
        if out.exists():
            raise GalleryError(f"{out}: exists by now; {what} makes a new file")
        try:
            unfinished.replace(out)
        except OSError as error:
            raise GalleryError(f"{out}: cannot be made: {error.strerror}") from error


def _beside(path: Path) -> list[Path]:
    """What SQLite would read as a part of a file."""
    return [Path(f"{path}-{name}") for name in ("wal", "shm", "journal")]


def read_info(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """What the file says of its codes.

    Returns:
        fingerprint, model, bits and calibration of the model; adaptation and adapted_calibration,
        None where there are none.

    Raises:
        GalleryCorrupt: an entry is missing or impossible, or not as it was written.
    """
    info: dict[str, Any] = dict(db.execute("SELECT name, value FROM info"))
    try:
        crc = _info_crc(info)
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
        if info.pop("crc") != crc:
            raise ValueError("its checksum is of other entries")
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
    seal_info(db)


def seal_info(db: sqlite3.Connection) -> None:
    """Store the checksum of what `info` holds now."""
    crc = _info_crc(dict(db.execute("SELECT name, value FROM info")))
    db.execute("INSERT OR REPLACE INTO info VALUES ('crc', ?)", (crc,))


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


def write_back(db: sqlite3.Connection, timeout_s: float) -> None:
    """Empty the log beside the file, unless another connection is reading or writing just now."""
    db.execute("PRAGMA busy_timeout = 0")
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # says "busy" in its row, not as an error
    finally:
        db.execute(f"PRAGMA busy_timeout = {timeout_s * 1000:.0f}")


def data_version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection has committed."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


@contextmanager
def translated_errors(path: Path, timeout_s: float) -> Iterator[None]:
    """Errors of SQLite and the system as GalleryError and GalleryCorrupt, naming the file."""
    try:
        yield
    except UnicodeDecodeError as error:  # text of the file, or of SQLite's message that quotes it
        raise GalleryCorrupt(f"{path}: its text is damaged: {error}") from error
    except MemoryError as error:  # SQLite's, too, where a length in the file is absurd
        raise GalleryCorrupt(f"{path}: damaged lengths, or too little memory for it") from error
    except OSError as error:
        raise GalleryError(f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        # The low byte is the primary code: https://sqlite.org/rescode.html
        full_code = getattr(error, "sqlite_errorcode", 0)
        code = full_code & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise GalleryCorrupt(f"{path}: not a gallery, or a damaged one: {error}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise GalleryError(
                f"{path}: another process has been writing for {timeout_s:g} s; try again, or wait "
                "longer (timeout_s)"
            ) from error
        if code == sqlite3.SQLITE_FULL or full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
            raise GalleryError(
                f"{path}: the disk is full; even to be read, a gallery needs 32 KB beside it"
            ) from error
        if full_code == sqlite3.SQLITE_CONSTRAINT_UNIQUE and "item.path" in str(error):
            raise GalleryError(f"{path}: an item's file belongs to another key") from error
        if code == sqlite3.SQLITE_READONLY:
            raise GalleryError(f"{path}: the file or its folder is read-only") from error
        if code == sqlite3.SQLITE_CANTOPEN and Path(f"{path}-wal").exists():
            raise GalleryError(
                f"{path}: changes in the log beside it (-wal) cannot be read where the folder is "
                "read-only; open the gallery once where it can be written"
            ) from error
        if code == sqlite3.SQLITE_CANTOPEN:
            raise GalleryError(
                f"{path}: cannot be opened or made; see who may write to it and to its folder"
            ) from error
        raise GalleryError(f"{path}: {error}") from error


def _info_crc(info: dict[str, Any]) -> int:
    """CRC-32 of the entries in order of names: name and value, UTF-8, a zero byte behind each."""
    crc = 0
    for name, value in sorted(info.items()):
        if name != "crc":
            content = value if isinstance(value, bytes) else str(value).encode()
            crc = zlib.crc32(b"%b\0%b\0" % (str(name).encode(), content), crc)
    return crc


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


def _create(db: sqlite3.Connection, facts: ModelFacts, timeout_s: float) -> None:
    _use_log(db, timeout_s)
    db.execute("BEGIN IMMEDIATE")
    if _is_new(db):  # still, now that nobody else writes
        for statement in _SCHEMA:
            db.execute(statement)
        info = facts._asdict() | {
            "calibration": json.dumps(facts.calibration and asdict(facts.calibration))
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())
        seal_info(db)
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")


def _use_log(db: sqlite3.Connection, timeout_s: float) -> None:
    """Turn WAL on; unlike elsewhere, SQLite does not wait for another that does the same."""
    give_up = time.monotonic() + timeout_s
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


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """The version of the format, 1 to `FORMAT_VERSION`.

    Raises:
        GalleryError: not a gallery, or of a newer format.
        GalleryCorrupt: there is no such version.
    """
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
    return version


def _check_schema(db: sqlite3.Connection, path: Path, schema: tuple[str, ...]) -> None:
    # Nothing else, either: a trigger would run when we write, a view could answer for a table.
    found = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
    if sorted(map(str, found)) != sorted(schema) or db.execute("PRAGMA auto_vacuum").fetchone()[0]:
        raise GalleryCorrupt(f"{path}: its tables are not those of a gallery")


def _migrate(db: sqlite3.Connection, path: Path, *, is_frozen: bool) -> None:
    """Make a file of format 1 one of format 2, in one transaction: checksums of items and info."""
    if is_frozen:
        raise GalleryError(
            f"{path}: gallery format 1, which is brought up to date when it is opened where it can "
            "be written; here the file or its folder is read-only"
        )
    db.execute("BEGIN IMMEDIATE")
    try:
        if _identity(db)[1] == 1:  # still, now that nobody else writes
            _check_schema(db, path, _SCHEMA_1)
            db.execute(f"CREATE TEMP TABLE old AS SELECT {COLUMNS} FROM item")
            db.execute("DROP TABLE item")
            db.execute(_SCHEMA[1])
            db.create_function("item_crc", -1, item_crc, deterministic=True)
            db.execute(
                f"INSERT INTO item({COLUMNS}, crc) SELECT {COLUMNS}, item_crc({COLUMNS}) FROM old"
            )
            db.execute("DROP TABLE old")
            seal_info(db)
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
