"""The connection to a gallery's file: SQLite's errors become GalleryError where SQLite is called.

Errors of anything else, such as a caller's function that runs during a read, pass unchanged.
"""

import _thread
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import forks
from bitgaze.gallery.blocks import Steps, block, body
from bitgaze.gallery.flat.header import is_flat

# UnicodeDecodeError: text of the file, or an SQLite message that quotes it.
_ERRORS = (sqlite3.Error, UnicodeDecodeError, MemoryError)

# Noted before those that are freed are dropped.
_MOST_CURSORS = 1000


class Connection(sqlite3.Connection):
    """A connection whose statements raise GalleryError and GalleryCorrupt with the file's path.

    `rollback` is SQLite's own, a function written in C: Ctrl-C cannot come before it.

    Attributes:
        path: the file, for messages.
        timeout_s: how long to wait for another writer, in seconds.
    """

    path: Path
    timeout_s: float

    @classmethod
    def open(cls, path: Path, parameters: str, timeout_s: float) -> "Connection":
        """Open a file.

        Args:
            path: the file.
            parameters: of an SQLite URI, such as "immutable=1".
            timeout_s: how long to wait for another writer, in seconds.

        Raises:
            GalleryError: see `check_not_cut_off`; or SQLite cannot open the file.
        """
        check_not_cut_off(path)
        with translated_errors(path, timeout_s):
            db: Connection = sqlite3.connect(
                # Absolute, so that ":memory:" names a file.
                f"{path.absolute().as_uri()}?{parameters}",
                uri=True,
                timeout=timeout_s,
                isolation_level=None,
                check_same_thread=False,
                factory=cls,
            )
            db.path, db.timeout_s = path, timeout_s
            return db

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors: list[weakref.ref[Cursor]] = []

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        try:
            return super().in_transaction
        except sqlite3.Error as error:
            raise self.translated(error) from error

    def execute(self, sql: str, parameters: Any = (), /) -> "Cursor":
        """Run a statement."""
        try:
            cursor = self.cursor(Cursor)
            self._cursors.append(weakref.ref(cursor))
            if len(self._cursors) > _MOST_CURSORS:  # in a long transaction
                self._cursors = [one for one in self._cursors if one() is not None]
            return cursor.execute(sql, parameters)
        except _ERRORS as error:
            raise self.translated(error) from error

    def executemany(self, sql: str, parameters: Any, /) -> "Cursor":
        """Run a statement for each of several parameters."""
        try:
            return self.cursor(Cursor).executemany(sql, parameters)
        except _ERRORS as error:
            raise self.translated(error) from error

    def close_cursors(self) -> None:
        """End statements that have rows left; they would keep the snapshot after a transaction.

        An exception that is kept, as interactive sessions keep the last one, keeps cursors alive.
        """
        while self._cursors:
            cursor = self._cursors.pop()()
            if cursor is not None:
                cursor.close()

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back."""
        self.close_cursors()
        super().close()

    def translated(self, error: BaseException) -> GalleryError:
        """The exception to raise in place of one of SQLite."""
        return translated(error, self.path, self.timeout_s)


class Cursor(sqlite3.Cursor):
    """Rows of a statement; reading them raises GalleryError and GalleryCorrupt."""

    __slots__ = ()

    connection: Connection

    def fetchone(self) -> Any:
        """The next row, or None."""
        try:
            return super().fetchone()
        except _ERRORS as error:
            raise self.connection.translated(error) from error

    def fetchmany(self, size: int | None = 1) -> list[Any]:
        """The next rows, at most `size`."""
        try:
            return super().fetchmany(size)
        except _ERRORS as error:
            raise self.connection.translated(error) from error

    def fetchall(self) -> list[Any]:
        """All rows that are left."""
        try:
            return super().fetchall()
        except _ERRORS as error:
            raise self.connection.translated(error) from error

    def __next__(self) -> Any:
        try:
            return super().__next__()
        except _ERRORS as error:
            raise self.connection.translated(error) from error


def check_not_cut_off(path: Path) -> None:
    """Check that this process can use SQLite.

    Raises:
        GalleryError: when it was forked, another thread was using a gallery. SQLite may hold a
            mutex of that thread, for which any call could wait without end.
    """
    if forks.is_cut_off():
        raise GalleryError(
            f"{path}: another thread was using a gallery when this process was forked; fork before "
            "threads use galleries, or start processes by the method spawn"
        )


@block
def deadline(db: sqlite3.Connection, seconds: float) -> Steps:
    """Interrupt the statements of a connection once some seconds have passed.

    Pages that refer to each other in a circle, or a view in place of a table, can make a statement
    endless. A thread watches, since some statements call no progress handler. If the system has no
    thread left, nobody does.
    """
    done = _thread.allocate_lock()
    done.acquire()

    def watch() -> None:
        if done.acquire(timeout=seconds):
            return
        with suppress(sqlite3.Error):  # closed
            while not done.acquire(timeout=0.05):
                db.interrupt()

    try:
        with suppress(RuntimeError):
            # Not threading.Thread, whose start is not safe from Ctrl-C.
            _thread.start_new_thread(watch, ())
        yield from body()
    finally:
        done.release()


def seconds_allowed(size: int) -> float:
    """How long reading all of a file of this size in bytes may take: far longer than it does."""
    return 60 + size / 100_000


@contextmanager
def translated_errors(path: Path, timeout_s: float) -> Iterator[None]:
    """Turn errors of SQLite into GalleryError and GalleryCorrupt with the path.

    Only around calls of SQLite itself: whatever else runs inside has its errors turned too.
    """
    try:
        yield
    except _ERRORS as error:
        raise translated(error, path, timeout_s) from error


def _is_flat(path: Path) -> bool:
    # Opens the file beside SQLite, which is no harm where it is no database.
    with suppress(OSError):
        return is_flat(path)
    return False


def translated(error: BaseException, path: Path, timeout_s: float) -> GalleryError:  # noqa: PLR0911, PLR0912
    """The exception to raise in place of one of SQLite."""
    # The low byte is the primary code: https://sqlite.org/rescode.html
    full_code = getattr(error, "sqlite_errorcode", 0)
    code = full_code & 0xFF
    if isinstance(error, UnicodeDecodeError):
        return GalleryCorrupt(f"{path}: text in the file is damaged: {error}")
    if isinstance(error, MemoryError):
        return GalleryError(
            f"{path}: there is not enough memory; free some (no value in a gallery takes more than "
            "64 MB)"
        )
    if "closed database" in str(error):
        return GalleryError(f"{path}: this gallery is closed; open it again with Gallery(path)")
    if code == sqlite3.SQLITE_TOOBIG:
        return GalleryCorrupt(f"{path}: a length in the file is damaged: {error}")
    if code == sqlite3.SQLITE_NOTADB and _is_flat(path):
        return GalleryError(
            f"{path}: is a flat file, which cannot be changed; FlatGallery searches it"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return GalleryCorrupt(f"{path}: not a gallery, or damaged: {error}")
    if "Could not decode to UTF-8" in str(error):
        return GalleryCorrupt(f"{path}: text in the file is damaged: {str(error)[:200]}")
    if code == sqlite3.SQLITE_INTERRUPT:
        return GalleryCorrupt(f"{path}: damaged: reading it takes too long for a file of its size")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return GalleryError(
            f"{path}: another process is still writing after {timeout_s:g} s; try again, or wait "
            "longer with timeout_s"
        )
    if code == sqlite3.SQLITE_FULL or full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
        return GalleryError(
            f"{path}: the disk is full; free some space (32 KB are needed even for reading)"
        )
    if full_code in (
        sqlite3.SQLITE_IOERR_SHMMAP,
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMLOCK,
    ):
        return GalleryError(
            f"{path}: its file system does not share memory between processes, as network drives "
            f"and shared folders do not ({error}); put the gallery on a local disk"
        )
    if full_code == sqlite3.SQLITE_CONSTRAINT_UNIQUE and "item.path" in str(error):
        return GalleryError(f"{path}: an item's file belongs to another item")
    if code == sqlite3.SQLITE_READONLY:
        return GalleryError(f"{path}: the file or its folder is read-only")
    if code == sqlite3.SQLITE_CANTOPEN and Path(f"{path}-wal").exists():
        return GalleryError(
            f"{path}: recent changes are in its log ({path.name}-wal), which cannot be read in a "
            "read-only folder; open the gallery once where the folder is writable"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return GalleryError(
            f"{path}: cannot be opened or created; check the permissions of the file and its folder"
        )
    return GalleryError(f"{path}: {error}")
