"""The gallery's file format: schema, identity, and the blobs that hold the codes.

Knows SQLite and bytes. Knows nothing of pictures, models or searches (gallery.py does).

Format 1 (`PRAGMA application_id` "bgaz", `PRAGMA user_version` 1, WAL journal):
  info(name, value)   fingerprint, model, bits, calibration: of the model that made the codes
  item(slot, key, path, size, mtime_ns, content, metadata)
      slot      0 .. n-1 without a gap: the position of the item's code
      path      bytes of the file's path for an item that sync looks after, else NULL;
                with it size (bytes), mtime_ns, and content (BLAKE2b, 16 bytes)
      metadata  a JSON object
  chunk(n, codes, crc)
      codes     of the slots from n * 4096 on, 4096 of them or, in the last chunk, the rest
      crc       CRC-32 of codes
"""

import json
import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.contract import Model
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.hamming import HammingIndex

FORMAT_VERSION = 1
CHUNK_CODES = 4096

_APPLICATION_ID = int.from_bytes(b"bgaz", "big")
_BUSY_TIMEOUT_S = 5.0
_SCHEMA = (
    "CREATE TABLE info(name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, path BLOB UNIQUE,"
    " size INTEGER, mtime_ns INTEGER, content BLOB, metadata TEXT NOT NULL)",
    "CREATE TABLE chunk(n INTEGER PRIMARY KEY, codes BLOB NOT NULL, crc INTEGER NOT NULL)",
)


def connect(path: Path, create_for: Model | None) -> sqlite3.Connection:
    """Open a gallery file, or make an empty one.

    Args:
        path: the file.
        create_for: the model whose codes a new file will hold; None: a missing file is an error.

    Raises:
        GalleryError: missing, not a gallery, locked, or of a newer format.
        GalleryCorrupt: not an SQLite file, or a damaged one.
    """
    if create_for is None and not path.exists():
        raise GalleryError(f"{path}: no such gallery; `bitgaze index FOLDER -g {path}` makes one")
    if not path.parent.is_dir():
        raise GalleryError(f"{path}: there is no folder {path.parent}")
    with translated_errors(path):
        db = sqlite3.connect(
            path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
        )
        try:
            # Removed keys and codes are overwritten with zeros, not only unlinked.
            db.execute("PRAGMA secure_delete = ON")
            if create_for is not None and _is_empty(db):
                _create(db, create_for)
            _check_identity(db, path)
        except BaseException:
            db.close()
            raise
    return db


def read_info(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """What the file says of the model: fingerprint, model, bits, calibration.

    Raises:
        GalleryCorrupt: an entry is missing or impossible.
    """
    info: dict[str, Any] = dict(db.execute("SELECT name, value FROM info"))
    try:
        info["calibration"] = [(int(d), float(p)) for d, p in json.loads(info["calibration"])]
        if not isinstance(info["fingerprint"], str) or not isinstance(info["bits"], int):
            raise ValueError("fingerprint or bits of a wrong type")
        HammingIndex(info["bits"])
    except (KeyError, ValueError, TypeError) as error:
        raise GalleryCorrupt(f"{path}: info is damaged: {error!r}") from error
    return info


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


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """SQLite's errors as GalleryError and GalleryCorrupt, naming the file."""
    try:
        yield
    except sqlite3.Error as error:
        # The low byte is the primary code: https://sqlite.org/rescode.html
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise GalleryCorrupt(f"{path}: not a gallery, or a damaged one: {error}") from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise GalleryError(
                f"{path}: another process has been writing for {_BUSY_TIMEOUT_S:.0f} s; try again"
            ) from error
        raise GalleryError(f"{path}: {error}") from error


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


def _create(db: sqlite3.Connection, model: Model) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("BEGIN IMMEDIATE")
    if _is_empty(db):  # still, now that nobody else writes
        for statement in _SCHEMA:
            db.execute(statement)
        info = {
            "fingerprint": model.fingerprint,
            "model": model.contract.name,
            "bits": model.contract.bits,
            "calibration": json.dumps(model.contract.calibration),
        }
        db.executemany("INSERT INTO info VALUES (?, ?)", info.items())
        db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {FORMAT_VERSION}")
    db.execute("COMMIT")


def _check_identity(db: sqlite3.Connection, path: Path) -> None:
    if db.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise GalleryError(f"{path}: an SQLite file, but not a bitgaze gallery")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > FORMAT_VERSION:
        raise GalleryError(
            f"{path}: gallery format {version}, this version of bitgaze reads up to "
            f"{FORMAT_VERSION}; update bitgaze"
        )
