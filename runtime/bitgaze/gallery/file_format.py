"""A gallery's file: where it is, how it is opened and created, and its log.

schema.py describes the tables.
"""

import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bitgaze.errors import GalleryError
from bitgaze.gallery.connection import Connection
from bitgaze.gallery.info import ModelInfo, new_file_id, write_info
from bitgaze.gallery.lookup import write_all
from bitgaze.gallery.migration import migrate
from bitgaze.gallery.schema import (
    APPLICATION_ID,
    FORMAT_VERSION,
    SCHEMA,
    check_schema,
    check_version,
    marks,
)

# The largest valid value, an adaptation of 1024 bits, has 4 MB. A damaged length can claim 1 GB.
_MAX_VALUE_BYTES = 64 << 20


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


def identity(path: str) -> tuple[int, int] | None:
    """Device and inode of a file, or None if it is missing.

    A file system without lasting inodes answers differently each time.
    """
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
        version = check_version(db, path)
        if version < FORMAT_VERSION:
            if is_immutable:
                raise GalleryError(
                    f"{path}: has gallery format {version} and must be upgraded, but the file or "
                    "its folder is read-only; open it once where both are writable"
                )
            migrate(db, path)
            checkpoint(db, timeout_s)
        check_schema(db, path, SCHEMA)
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
        try:
            _name(unfinished, out)
        except FileExistsError as error:
            raise GalleryError(
                f"{out}: was created by another process; {what} needs the name of a new file"
            ) from error
        except OSError as error:
            raise GalleryError(f"{out}: cannot be created: {error.strerror}") from error


def _name(unfinished: Path, out: Path) -> None:
    """Give a file a name that none has, in one step where the file system has hard links."""
    try:
        out.hardlink_to(unfinished)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):
        if out.exists():
            raise FileExistsError from None
        unfinished.replace(out)


def has_log(path: Path) -> bool:
    """Whether there is a log with commits next to a file."""
    try:
        return os.stat(f"{path}-wal").st_size > 0  # noqa: PTH116
    except OSError:
        return False


def _log_files(path: Path) -> list[Path]:
    """The files next to a database that SQLite reads as parts of it."""
    return [Path(f"{path}-{name}") for name in ("wal", "shm", "journal")]


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


def _is_new(db: sqlite3.Connection) -> bool:
    """Whether the file is empty: it has no tables, and no application id or version."""
    tables = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    return not tables and not any(marks(db))


def _create(db: Connection, model_info: ModelInfo, timeout_s: float) -> None:
    _enable_wal(db, timeout_s)
    db.execute("BEGIN IMMEDIATE")
    is_new = _is_new(db)  # checked again under the write lock
    if is_new:
        for statement in SCHEMA:
            db.execute(statement)
        write_info(db, model_info)
        write_all(db, (), 0)
        new_file_id(db)
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")
    if is_new:
        checkpoint(db, timeout_s)  # the log must not hold the id


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
