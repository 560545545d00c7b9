"""The tables of a gallery's file, and the marks that tell its format.

An SQLite file. Format 3 (`PRAGMA application_id` "bgaz", `PRAGMA user_version` 3, WAL journal):
  info(name, value)
      fingerprint, model      of the model that made the codes; "" for the caller's own codes
      bits                    length of a code
      calibration             of the model, as JSON
      looks                   how many looks an item has places for; absent: 0
      structure               length of a structural code in bits; absent: 0, there are none
      crc                     CRC-32 of the entries but this and the two below
      columns                 sum of the CRCs of the rows of `field_chunk`, modulo 2**32
      state                   digest of all checksums, see `chunks.Sums.digest`
    if the codes are adapted to the gallery's images:
      adaptation              `Adaptation.to_bytes`
      adaptation_fingerprint  its SHA-256
      adapted_calibration     like calibration, for the adapted codes
    if the gallery was synced:
      sources                 what the last sync was given, see `info.Sources`
  item(slot, key, path, size, mtime_ns, ctime_ns, content, metadata, properties, boxes, classes,
       crc)
      slot        0 .. n-1 without gaps: the position of the item's code
      path        the file's path as bytes for an item that sync made, else NULL; so are
                  size (bytes), mtime_ns, ctime_ns, and content (BLAKE2b, 16 bytes)
      metadata    a JSON object
      properties  what the image's file says of itself, a JSON object; NULL if not read
      boxes       of the item's looks, 4 uint16 each, little-endian: x0, y0, x1, y1 in 1/65535 of
                  the upright image; NULL if it has none
      classes     likely classes of the image and its looks, see `likely.pack`; NULL if not known
      crc         CRC-32 of all other columns, see `items.item_crc`
  chunk(n, crc, items, codes)
      codes     of the 4096 slots from n * 4096 on; fewer in the last chunk
      crc       CRC-32 of codes
      items     sum of the CRCs of these slots' items, modulo 2**32
  look_chunk(n, crc, codes), structure_chunk(n, crc, codes)
      codes     of 1024 slots: for each the codes of `looks` looks, free places holding the item's
                code; for each a structural code, zero if not known
  lookup(n, entries, crc)
      entries   where the items of some keys and paths are, see lookup.py
      crc       CRC-32 of entries, starting from n
  distinct_pair(first, second, crc)
      identities (16 bytes, `items.ImageRef`) of two images that a person called distinct; ascending
      crc       CRC-32 of both
  thumbnail(slot, image, crc)
      image     an encoded image
      crc       CRC-32 of image, starting from slot
  field(id, column), field_chunk(n, version, built, names, is_complete, changed, crc)
      columns of the metadata's fields, see columns.py
  file_id(id)
      16 random bytes, another for each backup. Written once, so that SQLite's log never holds it:
      a log beside another file is noticed, since `state` covers the id.

Formats 1 and 2 had only info, item and chunk, without looks and what follows; format 1 had no crc
in info and item. Opening such a file upgrades it, see migration.py.
"""

import sqlite3
from pathlib import Path

from bitgaze.errors import GalleryCorrupt, GalleryError

FORMAT_VERSION = 3
APPLICATION_ID = int.from_bytes(b"bgaz", "big")

INFO = "CREATE TABLE info(name TEXT PRIMARY KEY, value) WITHOUT ROWID"
# SQLite has no checksums of its pages.
ITEM = (
    "CREATE TABLE item(slot INTEGER PRIMARY KEY, key TEXT NOT NULL, path BLOB, size INTEGER,"
    " mtime_ns INTEGER, ctime_ns INTEGER, content BLOB, metadata TEXT NOT NULL, properties TEXT,"
    " boxes BLOB, classes BLOB, crc INTEGER NOT NULL)"
)
# Blobs last: SQLite reads the columns before them without their pages.
CHUNK = (
    "CREATE TABLE chunk(n INTEGER PRIMARY KEY, crc INTEGER NOT NULL, items INTEGER NOT NULL,"
    " codes BLOB NOT NULL)"
)
# Tables that format 2 did not have.
ADDED = (
    "CREATE TABLE look_chunk(n INTEGER PRIMARY KEY, crc INTEGER NOT NULL, codes BLOB NOT NULL)",
    "CREATE TABLE structure_chunk(n INTEGER PRIMARY KEY, crc INTEGER NOT NULL,"
    " codes BLOB NOT NULL)",
    "CREATE TABLE lookup(n INTEGER PRIMARY KEY, entries BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE distinct_pair(first BLOB, second BLOB, crc INTEGER NOT NULL,"
    " PRIMARY KEY(first, second)) WITHOUT ROWID",
    "CREATE TABLE thumbnail(slot INTEGER PRIMARY KEY, image BLOB NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE file_id(id BLOB NOT NULL)",
    "CREATE TABLE field(id INTEGER PRIMARY KEY, column BLOB NOT NULL)",
    "CREATE TABLE field_chunk(n INTEGER PRIMARY KEY, version INTEGER NOT NULL,"
    " built INTEGER NOT NULL, names TEXT NOT NULL, is_complete INTEGER NOT NULL,"
    " changed BLOB NOT NULL, crc INTEGER NOT NULL)",
)
SCHEMA = (INFO, ITEM, CHUNK, *ADDED)


def marks(db: sqlite3.Connection) -> tuple[int, int]:
    """Application id and format version."""
    application_id, version = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application_id, version


def check_version(db: sqlite3.Connection, path: Path) -> int:
    """Check that the file is a gallery, and return its format version, 1 to `FORMAT_VERSION`.

    Raises:
        GalleryError: the file is not a gallery, or of a newer format.
        GalleryCorrupt: the version is below 1.
    """
    application_id, version = marks(db)
    if application_id != APPLICATION_ID:
        raise GalleryError(f"{path}: is an SQLite file, but not a bitgaze gallery")
    if version < 1:
        raise GalleryCorrupt(f"{path}: has gallery format {version}, expected at least 1")
    if version > FORMAT_VERSION:
        raise GalleryError(
            f"{path}: has gallery format {version}, but this version of bitgaze reads formats up "
            f"to {FORMAT_VERSION}; update bitgaze"
        )
    return version


def check_schema(db: sqlite3.Connection, path: Path, schema: tuple[str, ...]) -> None:
    """Check that a file has these tables and nothing else.

    A trigger would run on writes, a view could replace a table.

    Raises:
        GalleryCorrupt: it has not.
    """
    found = [sql for (sql,) in db.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL")]
    if sorted(map(str, found)) != sorted(schema) or db.execute("PRAGMA auto_vacuum").fetchone()[0]:
        raise GalleryCorrupt(f"{path}: the tables are not those of a gallery")


def is_table(db: sqlite3.Connection, name: str) -> bool:
    """Whether a damaged file has this table, rather than a view of its name."""
    query = "SELECT type, rootpage FROM sqlite_schema WHERE lower(name) = ?"
    found = db.execute(query, (name,)).fetchall()
    return (
        len(found) == 1
        and found[0][0] == "table"
        and isinstance(found[0][1], int)
        and found[0][1] > 0
    )


def check_tables(db: sqlite3.Connection, path: Path) -> None:
    """Check that a damaged file has the tables that hold a gallery's items, whatever else it has.

    A view in place of a table could be endless, or hold what nobody stored.

    Raises:
        GalleryCorrupt: it has not.
    """
    if not all(is_table(db, name) for name in ("chunk", "info", "item")):
        raise GalleryCorrupt(f"{path}: the tables are not those of a gallery")
