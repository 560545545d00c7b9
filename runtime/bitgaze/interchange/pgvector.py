r"""PostgreSQL with pgvector: a folder of files for `COPY`, and the SQL around them; no driver.

load.sql        creates the tables and fills them: psql DATABASE -f load.sql
unload.sql      writes the same files from the tables, to be imported again
items.copy      table bitgaze_item, in the text format of `COPY`; code is a bit(n)
gallery.copy    table bitgaze_gallery: one row, `Description.to_text`

SELECT key, code <~> B'0110...' AS distance FROM bitgaze_item ORDER BY distance, id LIMIT 10
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.interchange.content import Content, in_batches
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.rows import Row, item_of, row_of

ITEMS, GALLERY, LOAD, UNLOAD = "items.copy", "gallery.copy", "load.sql", "unload.sql"
_TYPES = {
    "id": "bigint PRIMARY KEY",
    "key": "text NOT NULL",
    "code": "bit({bits}) NOT NULL",
    "looks": "bytea NOT NULL",
    "boxes": "json NOT NULL",
    "structure": "bytea",
    "metadata": "json NOT NULL",
    "properties": "json",
    "classes": "bytea",
    "path": "bytea",
    "size": "bigint",
    "mtime_ns": "bigint",
    "ctime_ns": "bigint",
    "content": "bytea",
}
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}
_UNESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_NULL = "\\N"

# A hash index: PostgreSQL's b-trees take keys of up to 2,700 bytes, and a path can be longer.
_LOAD = r"""-- A gallery of bitgaze, for PostgreSQL with pgvector 0.7 or newer. In this folder:
--     psql DATABASE -f load.sql
\set ON_ERROR_STOP on
\encoding UTF8
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE bitgaze_gallery (description text NOT NULL);
-- The first bit of a code is the most significant bit of its first byte.
CREATE TABLE bitgaze_item (
{columns}
);
\copy bitgaze_gallery FROM 'gallery.copy'
\copy bitgaze_item FROM 'items.copy'
CREATE INDEX ON bitgaze_item USING hash (key);
COMMIT;
-- The exact search:
--     SELECT key, code <~> B'...' AS distance FROM bitgaze_item ORDER BY distance, id LIMIT 10;
-- An index for an approximate one (up to 64,000 bits):
--     CREATE INDEX ON bitgaze_item USING hnsw (code bit_hamming_ops);
"""
_UNLOAD = r"""-- Writes the files that `bitgaze import --from pgvector` reads. In their folder:
--     psql DATABASE -f unload.sql
\set ON_ERROR_STOP on
\encoding UTF8
\copy bitgaze_gallery TO 'gallery.copy'
\copy (SELECT {columns} FROM bitgaze_item ORDER BY id) TO 'items.copy'
"""


def write(folder: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the files.

    Raises:
        InterchangeError: a key has a NUL character.
    """
    columns = ",\n".join(
        f"    {name} {kind.format(bits=description.bits)}" for name, kind in _TYPES.items()
    )
    (folder / LOAD).write_text(_LOAD.format(columns=columns), encoding="utf-8")
    (folder / UNLOAD).write_text(_UNLOAD.format(columns=", ".join(_TYPES)), encoding="utf-8")
    (folder / GALLERY).write_text(_line([description.to_text()]), encoding="utf-8")
    number = 0
    with (folder / ITEMS).open("w", encoding="utf-8", newline="\n") as file:
        for items in batches:
            for item in items:
                file.write(_line([number, *_values(row_of(item))]))
                number += 1


def _values(row: Row) -> Iterator[object]:
    if "\0" in row.key:
        raise InterchangeError(
            f"key {row.key!r} holds a NUL character, which text in PostgreSQL cannot; rename the "
            "item, or export to another engine"
        )
    for name, value in zip(Row._fields, row, strict=True):
        if name == "code":
            bits = np.unpackbits(np.frombuffer(row.code, np.uint8))
            yield (bits + ord("0")).tobytes().decode()
        else:
            yield f"\\x{value.hex()}" if isinstance(value, bytes) else value


def _line(values: Iterable[object]) -> str:
    texts = (_NULL if v is None else re.sub(r"[\\\t\n\r]", _escape, str(v)) for v in values)
    return "\t".join(texts) + "\n"


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES[match[0]]


def read(source: Path) -> Content:
    """The items of a folder that `load.sql` reads or `unload.sql` has written.

    Raises:
        InterchangeError: no such folder, or without these files.
    """
    paths = source / GALLERY, source / ITEMS
    for path in paths:
        if not path.is_file():
            raise InterchangeError(f"{path}: no such file")
    lines = list(_lines(paths[0]))
    if len(lines) != 1 or len(lines[0]) != 1 or lines[0][0] is None:
        raise InterchangeError(f"{paths[0]}: expected a line with one column")
    description = description_from(lines[0][0], str(paths[0]))
    with paths[1].open("rb") as file:
        total = sum(1 for _ in file)
    return Content(description, total, in_batches(map(item_of, _rows(paths[1], description.bits))))


def _lines(path: Path) -> Iterator[list[str | None]]:
    """The columns of each line of a file in the text format of `COPY`."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            columns = line.removesuffix("\n").split("\t")
            yield [
                None
                if text == _NULL
                else re.sub(r"\\(.)", lambda match: _UNESCAPED.get(match[1], match[1]), text)
                for text in columns
            ]


def _rows(path: Path, bits: int) -> Iterator[Row]:
    for number, columns in enumerate(_lines(path), start=1):
        if len(columns) != len(_TYPES):
            raise ValueError(f"line {number} has {len(columns)} columns, expected {len(_TYPES)}")
        values = dict(zip(_TYPES, columns, strict=True))
        del values["id"]
        if re.fullmatch(f"[01]{{{bits}}}", values["code"] or "") is None:
            raise ValueError(f"line {number}: code is not {bits} digits 0 or 1")
        yield Row(**{name: _value(name, text) for name, text in values.items()})


def _value(name: str, text: str | None) -> Any:
    kind = _TYPES[name]
    if text is None:
        return None
    if name == "code":
        digits = np.frombuffer(text.encode(), np.uint8) - ord("0")
        return np.packbits(digits).tobytes()
    if kind.startswith("bytea"):
        return bytes.fromhex(text.removeprefix("\\x"))
    return int(text) if kind == "bigint" else text
