"""sqlite-vec: an SQLite file with codes in a virtual table, `bit[n]`, and the items beside them.

    gallery(description)    one row: `Description.to_text`
    item(id, key, ...)      the columns of `rows.Row` but the code; boxes and metadata are JSON
    code(rowid, code)       vec0, bit[n]; rowid is the item's id

    SELECT key, distance FROM code JOIN item ON id = code.rowid
    WHERE code MATCH vec_bit(?) AND k = 10 ORDER BY distance, id

bitgaze opens it by apsw, since the sqlite3 module of many builds of Python loads no extension.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.interchange.content import Content, in_batches
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.extras import required
from bitgaze.interchange.rows import Row, item_of, row_of

_TYPES = {
    "key": "TEXT NOT NULL",
    "looks": "BLOB NOT NULL",
    "boxes": "TEXT NOT NULL",
    "structure": "BLOB",
    "metadata": "TEXT NOT NULL",
    "properties": "TEXT",
    "classes": "BLOB",
    "path": "BLOB",
    "size": "INTEGER",
    "mtime_ns": "INTEGER",
    "ctime_ns": "INTEGER",
    "content": "BLOB",
}
_CODE = Row._fields.index("code")


def _open(path: Path, flags: str) -> Any:
    apsw = required("apsw", "apsw", "sqlite-vec")
    extension = required("sqlite_vec", "sqlite-vec", "sqlite-vec").loadable_path()
    db = apsw.Connection(str(path), flags=getattr(apsw, flags))
    db.enable_load_extension(True)
    db.load_extension(extension)
    db.enable_load_extension(False)
    return db


def write(out: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the file."""
    apsw = required("apsw", "apsw", "sqlite-vec")
    try:
        with closing(_open(out, "SQLITE_OPEN_READWRITE")) as db, db:
            _write(db, description, batches)
    except apsw.Error as error:
        raise InterchangeError(f"{out}: cannot be written: {error}") from error


def _write(db: Any, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    columns = ", ".join(f"{name} {kind}" for name, kind in _TYPES.items())
    db.execute("CREATE TABLE gallery(description TEXT NOT NULL)")
    db.execute("INSERT INTO gallery VALUES (?)", (description.to_text(),))
    db.execute(f"CREATE TABLE item(id INTEGER PRIMARY KEY, {columns})")
    db.execute(f"CREATE VIRTUAL TABLE code USING vec0(code bit[{description.bits}])")
    marks = ", ".join("?" * (1 + len(_TYPES)))
    done = 0
    for items in batches:
        rows = [row_of(item) for item in items]
        numbered = list(enumerate(rows, start=done))
        db.executemany(
            f"INSERT INTO item VALUES ({marks})",
            ((n, *row[:_CODE], *row[_CODE + 1 :]) for n, row in numbered),
        )
        db.executemany(
            "INSERT INTO code(rowid, code) VALUES (?, vec_bit(?))",
            ((n, row.code) for n, row in numbered),
        )
        done += len(rows)
    db.execute("CREATE INDEX item_key ON item(key)")


def read(source: Path) -> Content:
    """The items of a file.

    Raises:
        InterchangeError: no such file, or of other tables; or an item without a code.
    """
    apsw = required("apsw", "apsw", "sqlite-vec")
    if not source.is_file():
        raise InterchangeError(f"{source}: no such file")
    try:
        with closing(_open(source, "SQLITE_OPEN_READONLY")) as db:
            text = db.execute("SELECT description FROM gallery").get
            items, codes = (
                db.execute(f"SELECT count(*) FROM {table}").get for table in ("item", "code")
            )
    except (apsw.Error, TypeError, ValueError) as error:
        raise InterchangeError(f"{source}: was not written by bitgaze: {error}") from error
    if items != codes:
        raise InterchangeError(f"{source}: has {items} items but {codes} codes")
    return Content(
        description_from(text, str(source)), items, in_batches(map(item_of, _rows(source)))
    )


def _rows(source: Path) -> Iterator[Row]:
    names = ", ".join("code.code" if name == "code" else f"item.{name}" for name in Row._fields)
    query = f"SELECT {names} FROM item JOIN code ON code.rowid = item.id ORDER BY item.id"
    apsw = required("apsw", "apsw", "sqlite-vec")
    try:
        with closing(_open(source, "SQLITE_OPEN_READONLY")) as db:
            for row in db.execute(query):
                yield Row(*row)
    except apsw.Error as error:
        raise InterchangeError(f"{source}: is damaged: {error}") from error
