"""Milvus, by its format only: files for its bulk import, checked against no server.

    items.parquet      id (int64, the position in the gallery), key (string), code (list<uint8>, a
                       BINARY_VECTOR: the first bit is the most significant bit of byte 0), metadata
                       and rest (JSON as strings)
    collection.json    the collection to create, as its REST interface (v2) takes it
    gallery.json       `Description.to_text`

`rest` has the columns of `rows.Row` but key, code and metadata; bytes are in hex digits.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.gallery.metadata import from_text
from bitgaze.interchange import parquet
from bitgaze.interchange.content import Content, in_batches
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.rows import Row, item_of, row_of

ITEMS, COLLECTION, GALLERY = "items.parquet", "collection.json", "gallery.json"
# Of Milvus, for VARCHAR and for JSON, in bytes.
_MAX_TEXT, _MAX_JSON = 65_535, 65_536
_OWN = ("key", "code", "metadata")
_BYTES = ("looks", "structure", "classes", "path", "content")


def _layout() -> Any:
    pa = parquet.pyarrow()
    return pa.schema(
        [
            ("id", pa.int64()),
            ("key", pa.string()),
            ("code", pa.list_(pa.uint8())),
            ("metadata", pa.string()),
            ("rest", pa.string()),
        ]
    )


def _collection(bits: int) -> dict[str, Any]:
    fields = [
        {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
        {
            "fieldName": "key",
            "dataType": "VarChar",
            "elementTypeParams": {"max_length": str(_MAX_TEXT)},
        },
        {"fieldName": "code", "dataType": "BinaryVector", "elementTypeParams": {"dim": str(bits)}},
        {"fieldName": "metadata", "dataType": "JSON"},
        {"fieldName": "rest", "dataType": "JSON"},
    ]
    return {
        "collectionName": "bitgaze",
        "schema": {"autoId": False, "enableDynamicField": False, "fields": fields},
        "indexParams": [
            {
                "fieldName": "code",
                "indexName": "code",
                "indexType": "BIN_FLAT",
                "metricType": "HAMMING",
            }
        ],
    }


def write(folder: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the files.

    Raises:
        InterchangeError: a key or metadata are longer than Milvus takes.
    """
    pa, layout = parquet.pyarrow(), _layout()
    (folder / GALLERY).write_text(description.to_text(), encoding="utf-8")
    collection = json.dumps(_collection(description.bits), indent=2)
    (folder / COLLECTION).write_text(collection + "\n", encoding="utf-8")
    done, width = 0, description.bits // 8
    with parquet.pyarrow("pyarrow.parquet").ParquetWriter(
        folder / ITEMS, layout, write_page_checksum=True
    ) as writer:
        for items in batches:
            rows = [row_of(item) for item in items]
            codes = np.frombuffer(b"".join(row.code for row in rows), np.uint8)
            lims = np.arange(0, len(codes) + 1, width, dtype=np.int32)
            columns = [
                pa.array(np.arange(done, done + len(rows), dtype=np.int64)),
                pa.array([_checked(row.key, row.key, "key", _MAX_TEXT) for row in rows]),
                pa.ListArray.from_arrays(lims, pa.array(codes)),
                pa.array([_checked(row.metadata, row.key, "metadata", _MAX_JSON) for row in rows]),
                pa.array([_checked(_rest(row), row.key, "rest", _MAX_JSON) for row in rows]),
            ]
            writer.write_batch(pa.record_batch(columns, schema=layout), row_group_size=len(rows))
            done += len(rows)


def _rest(row: Row) -> str:
    return json.dumps(
        {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in row._asdict().items()
            if name not in _OWN
        }
    )


def _checked(text: str, key: str, what: str, limit: int) -> str:
    size = len(text.encode())
    if size > limit:
        raise InterchangeError(
            f"{what} of {key[:80]!r} has {size:,} bytes, but Milvus takes at most {limit:,}; "
            "export to another engine"
        )
    return text


def read(source: Path) -> Content:
    """The items of a folder that `write` has written.

    Raises:
        InterchangeError: no such folder, or without these files.
    """
    path = source / GALLERY
    if not path.is_file():
        raise InterchangeError(f"{path}: no such file")
    description = description_from(path.read_bytes(), str(path))
    with parquet.opened(source / ITEMS) as file:
        total, found = file.metadata.num_rows, file.schema_arrow
    if found.names != _layout().names:
        raise InterchangeError(
            f"{source / ITEMS}: has the columns {', '.join(found.names)}, expected "
            f"{', '.join(_layout().names)}"
        )
    return Content(description, total, in_batches(map(item_of, _rows(source / ITEMS))))


def _rows(path: Path) -> Iterator[Row]:
    with parquet.opened(path) as file:
        for batch in parquet.batches_in(file, _layout().names):
            for row in batch.to_pylist():
                values: dict[str, Any] = {
                    name: bytes.fromhex(value) if name in _BYTES and value is not None else value
                    for name, value in from_text(row["rest"]).items()
                }
                yield Row(
                    key=row["key"], code=bytes(row["code"]), metadata=row["metadata"], **values
                )
