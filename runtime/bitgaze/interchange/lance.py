"""LanceDB: a folder with the table `items`, of the columns of parquet.py.

`code` is a fixed-size list of uint8, which LanceDB searches by Hamming distance:
    table.search(code).distance_type("hamming")
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bitgaze.errors import InterchangeError
from bitgaze.gallery.items import Item
from bitgaze.interchange import parquet
from bitgaze.interchange.content import Content
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.extras import required

TABLE = "items"
_BATCH = 4096


def _lancedb() -> Any:
    return required("lancedb", "lancedb", "lance")


def _layout(description: Description) -> Any:
    """The schema of the table: that of parquet.py, with `code` as LanceDB searches it."""
    pa, plain = parquet.pyarrow(), parquet.schema(description)
    vector = pa.list_(pa.uint8(), description.bits // 8)
    return plain.set(plain.get_field_index("code"), pa.field("code", vector, nullable=False))


def write(folder: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write the database."""
    lancedb, pa = _lancedb(), parquet.pyarrow()
    plain, layout = parquet.schema(description), _layout(description)
    position = plain.get_field_index("code")

    def vectors() -> Iterator[Any]:
        for items in batches:
            batch = parquet.batch_of(items, plain)
            codes = pa.array(parquet.codes_of(batch).reshape(-1))
            columns = batch.columns
            columns[position] = pa.FixedSizeListArray.from_arrays(
                codes, type=layout.field("code").type
            )
            yield pa.record_batch(columns, schema=layout)

    reader = pa.RecordBatchReader.from_batches(layout, vectors())
    lancedb.connect(folder).create_table(TABLE, data=reader)


def read(source: Path) -> Content:
    """The items of a database.

    Raises:
        InterchangeError: no such folder, or without such a table.
    """
    lancedb = _lancedb()
    if not source.is_dir():  # connecting would create it
        raise InterchangeError(f"{source}: no such folder of a LanceDB database")
    try:
        table = lancedb.connect(source).open_table(TABLE)
        found, total = table.schema, table.count_rows()
    except (ValueError, RuntimeError) as error:
        raise InterchangeError(f"{source}: has no table {TABLE!r}: {error}") from error
    entries = found.metadata or {}
    if parquet.ENTRY not in entries:
        raise InterchangeError(f"{source}: the table {TABLE!r} was not written by bitgaze")
    description = description_from(entries[parquet.ENTRY], str(source))
    for field in _layout(description):
        kind = found.field(field.name).type if field.name in found.names else "missing"
        if kind != field.type:
            raise InterchangeError(f"{source}: {field.name} is {kind}, expected {field.type}")
    return Content(description, total, _items(source, table, description))


def _items(source: Path, table: Any, description: Description) -> Iterator[list[Item]]:
    pa, layout = parquet.pyarrow(), parquet.schema(description)
    batches = iter(table.search().to_batches(batch_size=_BATCH))
    while True:
        try:
            batch = next(batches, None)
        except RuntimeError as error:
            raise InterchangeError(f"{source}: is damaged: {error}") from error
        if batch is None:
            return
        columns = [batch.column(name) for name in layout.names]
        position = layout.get_field_index("code")
        codes = columns[position].flatten().to_numpy()
        code = layout.field("code").type
        columns[position] = pa.FixedSizeBinaryArray.from_buffers(
            code, len(batch), [None, pa.py_buffer(codes.tobytes())]
        )
        yield parquet.items_of(pa.record_batch(columns, names=layout.names))
