"""Migration: a file of an older format becomes one of the newest, in one transaction."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from bitgaze.gallery import columns, lookup, schema
from bitgaze.gallery.chunks import CHUNK_CODES
from bitgaze.gallery.info import new_file_id, seal_info
from bitgaze.gallery.items import COLUMNS_2, item_crc

_ITEM_2 = (
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, path BLOB UNIQUE,"
    " size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER, content BLOB, metadata TEXT NOT NULL,"
    " crc INTEGER NOT NULL)"
)
_CHUNK_2 = "CREATE TABLE chunk(n INTEGER PRIMARY KEY, codes BLOB NOT NULL, crc INTEGER NOT NULL)"
_SCHEMAS = {
    1: (schema.INFO, _ITEM_2.replace(", crc INTEGER NOT NULL", ""), _CHUNK_2),
    2: (schema.INFO, _ITEM_2, _CHUNK_2),
}


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Upgrade a file of format 1 or 2; damage stays what it is, for `verify` and `repair`.

    Raises:
        GalleryCorrupt: the tables are not those of its format.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        version = schema.marks(db)[1]
        if version in _SCHEMAS:  # under the write lock: another process may have done it
            schema.check_schema(db, path, _SCHEMAS[version])
            _migrate(db, path, version)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _migrate(db: sqlite3.Connection, path: Path, version: int) -> None:
    for table in ("item", "chunk"):
        db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    for statement in schema.SCHEMA:
        if statement != schema.INFO:
            db.execute(statement)
    crc = "crc"
    if version == 1:
        db.create_function("item_crc", -1, item_crc, deterministic=True)
        crc = f"item_crc({COLUMNS_2})"
    db.execute(
        f"INSERT INTO item({COLUMNS_2}, crc) SELECT {COLUMNS_2}, {crc} FROM old_item NOT INDEXED"
        " ORDER BY slot"
    )
    db.execute(
        "INSERT INTO chunk(n, crc, items, codes) SELECT n, crc, coalesce((SELECT sum(crc)"
        f" FROM item WHERE slot >= n * {CHUNK_CODES} AND slot < (n + 1) * {CHUNK_CODES}), 0)"
        " & 4294967295, codes FROM old_chunk ORDER BY n"
    )
    for table in ("item", "chunk"):
        db.execute(f"DROP TABLE old_{table}")
    count = db.execute("SELECT count(*) FROM item").fetchone()[0]
    lookup.write_all(db, _names(db, count), count)
    columns.rebuild_all(db, path, count)
    if version == 1:
        seal_info(db)
    new_file_id(db)
    db.execute(f"PRAGMA user_version = {schema.FORMAT_VERSION}")


def _names(db: sqlite3.Connection, count: int) -> Iterator[tuple[lookup.Kind, bytes, int]]:
    """Every key and path. As bytes: damaged text must not stop the migration."""
    query = "SELECT slot, CAST(key AS BLOB), path FROM item WHERE slot >= 0 AND slot < ?"
    for slot, key, path in db.execute(query, (count,)):
        yield "key", key, slot
        if isinstance(path, bytes):
            yield "path", path, slot
