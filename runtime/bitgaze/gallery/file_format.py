"""The gallery's file format: schema, version, description of the codes, and chunks of codes.

An SQLite file. items.py reads and writes the rows of items, store.py the transactions.

Format 2 (`PRAGMA application_id` "bgaz", `PRAGMA user_version` 2, WAL journal):
  info(name, value)
      fingerprint, model      of the model that made the codes; "" for the caller's own codes
      bits                    length of a code
      calibration             of the model, as JSON
      crc                     CRC-32 of all other entries, see `_info_crc`
    and if the codes are adapted to the gallery's images:
      adaptation              `Adaptation.to_bytes`
      adaptation_fingerprint  its SHA-256
      adapted_calibration     like calibration, for the adapted codes
  item(slot, key, path, size, mtime_ns, ctime_ns, content, metadata, crc)
      slot      0 .. n-1 without gaps: the position of the item's code
      path      the file's path as bytes for an item that sync made, else NULL; so are
                size (bytes), mtime_ns, ctime_ns, and content (BLAKE2b, 16 bytes)
      metadata  a JSON object
      crc       CRC-32 of all other columns, see `items.item_crc`
  field, field_chunk
      columns of the metadata's fields, see columns.py
  chunk(n, codes, crc)
      codes     of the 4096 slots from n * 4096 on; fewer in the last chunk
      crc       CRC-32 of codes

Format 1 had no crc in info and item. Opening such a file upgrades it to format 2.
"""

import json
import os
import sqlite3
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import code_length
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import Model, calibration_from
from bitgaze.errors import FingerprintMismatch, GalleryCorrupt, GalleryError
from bitgaze.gallery import columns
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.connection import Connection
from bitgaze.gallery.items import COLUMNS, item_crc
from bitgaze.hamming import HammingIndex

FORMAT_VERSION = 2
CHUNK_CODES = 4096

_APPLICATION_ID = int.from_bytes(b"bgaz", "big")
# The largest valid value, an adaptation of 1024 bits, has 4 MB. A damaged length can claim 1 GB.
_MAX_VALUE_BYTES = 64 << 20
_ADAPTED = frozenset(["adaptation", "adaptation_fingerprint", "adapted_calibration"])
_SCHEMA = (
    "CREATE TABLE info(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, path BLOB UNIQUE,"
    " size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, content BLOB, metadata TEXT NOT NULL,"
    # SQLite has no checksums of its pages.
    " crc INTEGER NOT NULL)",
    "CREATE TABLE chunk(n INTEGER PRIMARY KEY, codes BLOB NOT NULL, crc INTEGER NOT NULL)",
    *columns.SCHEMA,
)
_SCHEMA_1 = (_SCHEMA[0], _SCHEMA[1].replace(", crc INTEGER NOT NULL", ""), _SCHEMA[2])


class ModelInfo(NamedTuple):
    """The model whose codes a gallery holds, as stored in a new file.

    Attributes:
        fingerprint: of the model; "" for the caller's own codes.
        model: name of the model; "" for the caller's own codes.
        bits: length of a code.
        calibration: of the model, or None.
    """

    fingerprint: str
    model: str
    bits: int
    calibration: Calibration | None


def gallery_path(path: str | os.PathLike[str]) -> Path:
    """The path of a gallery's file, with ~ expanded.

    Raises:
        GalleryError: it cannot be the path of a file.
    """
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as error:
        raise GalleryError(f"{path}: {error}; write the whole path") from error
    if "\0" in str(expanded):  # SQLite would end the name there
        raise GalleryError(f"{str(path)!r}: holds a NUL character, which no file name can")
    return expanded


@dataclass(frozen=True)
class ImmutableState:
    """State of a file opened as immutable, to notice if another process writes it after all."""

    inode: int
    size: int
    mtime_ns: int


def immutable_state(path: Path) -> ImmutableState | None:
    """The state of a read-only file that no process has open for writing; None for other files.

    Even to read a file, SQLite keeps a log and its index ("-wal", "-shm") next to it. If it cannot
    create them, it has to open the file as immutable. A process with more rights can still write
    the file later; then the index appears and the state changes.
    """
    with system_errors(path):
        if not path.exists() or (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return None
        log, index = (Path(f"{path}-{name}") for name in ("wal", "shm"))
        if index.exists() or (log.exists() and log.stat().st_size > 0):
            return None
        status = path.stat()
        return ImmutableState(status.st_ino, status.st_size, status.st_mtime_ns)


def identity(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of a gallery's file and of its log's index ("-shm"), None for a missing one.

    A file system without lasting inodes answers differently each time.
    """
    return _identity_of(str(path)), _identity_of(f"{path}-shm")


def _identity_of(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)  # noqa: PTH116 (called by every read, and twice as fast)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def file_size(path: Path) -> int:
    """Size of a gallery's file in bytes."""
    with system_errors(path):
        return path.stat().st_size


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system about a gallery's file into GalleryError."""
    try:
        yield
    except OSError as error:
        raise GalleryError(f"{path}: {error.strerror or error}") from error


def connect(
    path: Path,
    model_info: Callable[[], ModelInfo] | None,
    timeout_s: float,
    *,
    is_immutable: bool,
) -> Connection:
    """Open a gallery file, or create an empty one. A file that is not writable opens read-only.

    Args:
        path: the file.
        model_info: returns the model whose codes a new file will hold; None if a missing file is an
            error.
        timeout_s: how long to wait for another writer, in seconds.
        is_immutable: no process writes the file; see `immutable_state`.

    Raises:
        GalleryError: the file is missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: the file is damaged, or not an SQLite file.
    """
    if model_info is None and not path.exists():
        raise GalleryError(
            f"{path}: no such gallery; create it with `bitgaze index FOLDER -g {path}`"
        )
    if path.is_dir():
        raise GalleryError(
            f"{path}: is a folder, expected a gallery file such as {path / 'g.bitgaze'}"
        )
    if not path.parent.is_dir():
        raise GalleryError(f"{path}: the folder {path.parent} does not exist; create it first")
    # Before the file exists: a model that cannot be read must not leave an empty file behind.
    new_info = None if model_info is None or path.exists() else model_info()
    if model_info is not None:
        create_private(path)
    db = Connection.open(path, "immutable=1" if is_immutable else "", timeout_s)
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
        # Overwrite removed keys and codes with zeros instead of only unlinking them.
        db.execute("PRAGMA secure_delete = ON")
        if model_info is not None and _is_new(db):
            _create(db, new_info or model_info(), timeout_s)
        if check_version(db, path) == 1:
            _migrate(db, path, is_immutable=is_immutable)
        _check_schema(db, path, _SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def create_private(path: Path) -> None:
    """Create an empty file that only its owner can read, unless it exists.

    In a folder that is shared on purpose, which has the setgid bit or a default ACL, these and the
    umask decide. SQLite gives its log the permissions of the file. Reports no error: SQLite does.
    """
    target = path.resolve()  # a dangling link is created where it leads
    with suppress(OSError):
        is_shared = target.parent.stat().st_mode & stat.S_ISGID or (
            hasattr(os, "listxattr") and "system.posix_acl_default" in os.listxattr(target.parent)
        )
        mode = 0o666 if is_shared else 0o600
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))


@contextmanager
def new_file(out: Path, what: str) -> Iterator[Path]:
    """A temporary path to write a gallery to; it is renamed to `out` on success, else deleted.

    Args:
        out: the new file; must not exist.
        what: the operation, for messages.

    Raises:
        GalleryError: `out` exists, its folder does not, or a file next to it would be taken for its
            log; or the disk is full.
    """
    with system_errors(out):
        if out.exists():
            raise GalleryError(f"{out}: already exists; {what} needs the name of a new file")
        for log in _log_files(out):
            if log.exists():
                raise GalleryError(
                    f"{log}: left over from a deleted gallery and would corrupt the new one; "
                    "delete it or choose another name"
                )
    if not out.parent.is_dir():
        raise GalleryError(f"{out}: the folder {out.parent} does not exist; create it first")
    # In a folder of its own, so that two processes can create the same file.
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(TemporaryDirectory(prefix=".bitgaze-", dir=out.parent))
        except OSError as error:
            raise GalleryError(f"{out}: cannot be created: {error.strerror}") from error
        unfinished = Path(folder) / "unfinished"
        yield unfinished
        for log in _log_files(unfinished):
            # SQLite reports no error if it cannot checkpoint its log while closing.
            if log.exists() and log.stat().st_size > 0:
                raise GalleryError(f"{out}: could not be written completely; is the disk full?")
        if out.exists():
            raise GalleryError(
                f"{out}: was created by another process; {what} needs the name of a new file"
            )
        try:
            unfinished.replace(out)
        except OSError as error:
            raise GalleryError(f"{out}: cannot be created: {error.strerror}") from error


def _log_files(path: Path) -> list[Path]:
    """The files next to a database that SQLite reads as parts of it."""
    return [Path(f"{path}-{name}") for name in ("wal", "shm", "journal")]


def read_info(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """Read the description of the file's codes.

    Returns:
        The entries fingerprint, model, bits and calibration of the model, and adaptation and
        adapted_calibration, which are None if the codes are not adapted.

    Raises:
        GalleryCorrupt: an entry is missing, invalid or damaged.
    """
    info: dict[str, Any] = dict(db.execute("SELECT name, value FROM info"))
    try:
        crc = _info_crc(info)
        for name, kind in (("fingerprint", str), ("model", str), ("bits", int)):
            if not isinstance(info[name], kind):
                raise ValueError(f"{name} is {info[name]!r}, expected {kind.__name__}")
        code_length(info["bits"])
        info["calibration"] = _calibration(info["calibration"], info["bits"])
        is_adapted = not _ADAPTED.isdisjoint(info)
        info["adaptation"] = _adaptation(info) if is_adapted else None
        info["adapted_calibration"] = (
            _calibration(info["adapted_calibration"], info["bits"]) if is_adapted else None
        )
        if info.pop("crc") != crc:
            raise ValueError("the checksum does not match the entries")
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise GalleryCorrupt(f"{path}: the info table is damaged: {error!r}") from error
    return info


def origin(info: dict[str, Any]) -> str:
    """Where the codes of a gallery with this info come from, in words for messages."""
    if not info["fingerprint"]:
        return "your own"
    return f"from model {info['model']!r} ({info['fingerprint'][:12]})"


def check_model(info: dict[str, Any], model: Model, path: Path) -> None:
    """Check that a model made the codes of the gallery with this info.

    Raises:
        FingerprintMismatch: it did not.
    """
    if model.fingerprint != info["fingerprint"]:
        remedy = (
            "open it with the model that made them (on the command line, -m FILE), or index the "
            "images into a new gallery"
            if info["fingerprint"]
            else "open it without a model"
        )
        raise FingerprintMismatch(
            f"{path}: its codes are {origin(info)}, not from model {model.contract.name!r} "
            f"({model.fingerprint[:12]}) in {model.path}; {remedy}"
        )


def write_adaptation(
    db: sqlite3.Connection, adaptation: Adaptation | None, calibration: Calibration | None
) -> None:
    """Store the adaptation of the codes and its calibration; None for the model's own codes."""
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
    """Store the checksum of the present entries of `info`."""
    crc = _info_crc(dict(db.execute("SELECT name, value FROM info")))
    db.execute("INSERT OR REPLACE INTO info VALUES ('crc', ?)", (crc,))


def read_codes(db: sqlite3.Connection, path: Path, bits: int) -> HammingIndex:
    """Read all codes, in slot order.

    Raises:
        GalleryCorrupt: a chunk is missing or damaged, or codes and items do not match one to one.
    """
    index = HammingIndex(bits)
    code_bytes = bits // 8
    chunks = db.execute("SELECT n, codes, crc FROM chunk ORDER BY n")
    for expected_n, (n, codes, crc) in enumerate(chunks):
        if n != expected_n or len(index) != n * CHUNK_CODES:
            raise GalleryCorrupt(f"{path}: chunk {expected_n} of the codes is missing or too short")
        chunk = verified_chunk(codes, crc, code_bytes)
        if chunk is None or not 0 < len(chunk) <= CHUNK_CODES:
            raise GalleryCorrupt(f"{path}: chunk {n} of the codes is damaged")
        index.add(chunk)
    count, first, last = db.execute("SELECT count(*), min(slot), max(slot) FROM item").fetchone()
    if count != len(index) or (count and (first, last) != (0, count - 1)):
        raise GalleryCorrupt(f"{path}: holds {count} items but {len(index)} codes")
    return index


def verified_chunk(codes: Any, crc: Any, code_bytes: int) -> NDArray[np.uint8] | None:
    """The codes of a row of `chunk`, uint8, (n, code_bytes); None if the row is damaged."""
    if not isinstance(codes, bytes) or len(codes) % code_bytes or zlib.crc32(codes) != crc:
        return None
    return np.frombuffer(codes, np.uint8).reshape(-1, code_bytes)


def write_chunk(db: sqlite3.Connection, n: int, codes: NDArray[np.uint8]) -> None:
    """Write a chunk of codes; an empty one is deleted."""
    if len(codes):
        blob = codes.tobytes()
        db.execute("INSERT OR REPLACE INTO chunk VALUES (?, ?, ?)", (n, blob, zlib.crc32(blob)))
    else:
        db.execute("DELETE FROM chunk WHERE n = ?", (n,))


def checkpoint(db: sqlite3.Connection, timeout_s: float) -> None:
    """Write the log ("-wal") back into the file and empty it, unless the file is in use."""
    restore = f"PRAGMA busy_timeout = {timeout_s * 1000:.0f}"
    try:
        db.execute("PRAGMA busy_timeout = 0")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # returns "busy" in a row, raises no error
    finally:
        # SQLite's own function, written in C: Ctrl-C cannot come before it.
        sqlite3.Connection.execute(db, restore)


def data_version(db: sqlite3.Connection) -> int:
    """A number that changes whenever another connection commits."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def _info_crc(info: dict[str, Any]) -> int:
    """CRC-32 of the entries sorted by name: name and value as UTF-8, a zero byte after each."""
    crc = 0
    for name, value in sorted(info.items()):
        if name != "crc":
            content = value if isinstance(value, bytes) else str(value).encode()
            crc = zlib.crc32(b"%b\0%b\0" % (str(name).encode(), content), crc)
    return crc


def _calibration(text: str, bits: int) -> Calibration | None:
    calibration = calibration_from(json.loads(text))
    if calibration is not None and calibration.bits != bits:
        raise ValueError(f"calibration is for {calibration.bits} bits, expected {bits}")
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
    """Whether the file is empty: it has no tables, and no application id or version."""
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not tables and not any(_identity(db))


def _identity(db: sqlite3.Connection) -> tuple[int, int]:
    """Application id and format version."""
    application_id, version = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application_id, version


def _create(db: Connection, model_info: ModelInfo, timeout_s: float) -> None:
    _enable_wal(db, timeout_s)
    db.execute("BEGIN IMMEDIATE")
    if _is_new(db):  # checked again under the write lock
        for statement in _SCHEMA:
            db.execute(statement)
        calibration = model_info.calibration
        info = model_info._asdict() | {
            "calibration": json.dumps(calibration and asdict(calibration))
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())
        seal_info(db)
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")


def _enable_wal(db: Connection, timeout_s: float) -> None:
    """Turn WAL on; for this statement SQLite ignores the timeout, so it is implemented here."""
    give_up = time.monotonic() + timeout_s
    while True:
        try:
            sqlite3.Connection.execute(db, "PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or time.monotonic() > give_up:
                raise db.translated(error) from error
            time.sleep(0.01)
        else:
            return


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """Check that the file is a gallery, and return its format version, 1 to `FORMAT_VERSION`.

    Raises:
        GalleryError: the file is not a gallery, or of a newer format.
        GalleryCorrupt: the version is below 1.
    """
    application_id, version = _identity(db)
    if application_id != _APPLICATION_ID:
        raise GalleryError(f"{path}: is an SQLite file, but not a bitgaze gallery")
    if version < 1:
        raise GalleryCorrupt(f"{path}: has gallery format {version}, expected at least 1")
    if version > FORMAT_VERSION:
        raise GalleryError(
            f"{path}: has gallery format {version}, but this version of bitgaze reads formats up "
            f"to {FORMAT_VERSION}; update bitgaze"
        )
    return version


def _check_schema(db: sqlite3.Connection, path: Path, schema: tuple[str, ...]) -> None:
    # Nothing may be added either: a trigger would run on writes, a view could replace a table.
    found = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
    if sorted(map(str, found)) != sorted(schema) or db.execute("PRAGMA auto_vacuum").fetchone()[0]:
        raise GalleryCorrupt(f"{path}: the tables are not those of a gallery")


def check_tables(db: sqlite3.Connection, path: Path) -> None:
    """Check that a damaged file has the tables of a gallery, whatever else it has.

    A view in place of a table could be endless, or hold what nobody stored.

    Raises:
        GalleryCorrupt: it has not.
    """
    found = db.execute(
        "SELECT name, type, rootpage FROM sqlite_schema"
        " WHERE lower(name) IN ('chunk', 'info', 'item') ORDER BY name"
    ).fetchall()
    is_table = [kind == "table" and isinstance(page, int) and page > 0 for _, kind, page in found]
    if [name for name, _, _ in found] != ["chunk", "info", "item"] or not all(is_table):
        raise GalleryCorrupt(f"{path}: the tables are not those of a gallery")


def _migrate(db: sqlite3.Connection, path: Path, *, is_immutable: bool) -> None:
    """Upgrade format 1 to format 2 in one transaction: add checksums to items and info."""
    if is_immutable:
        raise GalleryError(
            f"{path}: has gallery format 1 and must be upgraded, but the file or its folder is "
            "read-only; open it once where both are writable"
        )
    db.execute("BEGIN IMMEDIATE")
    try:
        if _identity(db)[1] == 1:  # checked again under the write lock
            _check_schema(db, path, _SCHEMA_1)
            db.execute(f"CREATE TEMP TABLE old AS SELECT {COLUMNS} FROM item")
            db.execute("DROP TABLE item")
            db.execute(_SCHEMA[1])
            db.create_function("item_crc", -1, item_crc, deterministic=True)
            db.execute(
                f"INSERT INTO item({COLUMNS}, crc) SELECT {COLUMNS}, item_crc({COLUMNS}) FROM old"
            )
            db.execute("DROP TABLE old")
            for statement in columns.SCHEMA:
                db.execute(statement)
            columns.rebuild_all(db, path, db.execute("SELECT count(*) FROM item").fetchone()[0])
            seal_info(db)
            db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
