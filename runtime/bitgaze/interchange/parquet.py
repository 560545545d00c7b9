"""Parquet: the exchange format that keeps all of a gallery. This module alone knows its schema.

A row for each item, in the gallery's order:
    key         string
    code        fixed_size_binary(bits / 8); the first bit is the most significant bit of byte 0
    looks       list<fixed_size_binary(bits / 8)>: codes of the looks
    boxes       list<struct<x0, y0, x1, y1: float>>: where each look is, 0 to 1 of the upright image
    structure   binary: structural code; null if not known
    metadata    string: a JSON object
    properties  string: what the image's file says of itself, a JSON object; null if not read
    classes     binary: likely classes, as `bitgaze.encoding.likely` packs them; null if not known
    path, size, mtime_ns, ctime_ns, content
                the file that sync made the item from (`FileState`); null for an item added by hand
The file's metadata has the entry "bitgaze": `Description.to_text`.

A file without this entry holds the caller's own codes: it needs `key` and `code`, and may have
`metadata`. Other columns are not read. A folder is read as the files *.parquet in it, by name;
their descriptions are equal.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import MAX_BITS
from bitgaze.errors import FingerprintMismatch, InterchangeError
from bitgaze.gallery.items import FileState, Item
from bitgaze.gallery.metadata import from_text, to_text
from bitgaze.interchange.content import Content
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.extras import required

ENTRY = b"bitgaze"
_FILE = ("path", "size", "mtime_ns", "ctime_ns", "content")
CORNERS = ("x0", "y0", "x1", "y1")
_REQUIRED = ("key", "code")
_MAX_CODE_BYTES = MAX_BITS // 8
_NO_LOOKS, _NO_BOXES = np.empty((0, 0), np.uint8), np.empty((0, 4), np.float32)
# Rows read at a time.
_BATCH = 16_384
# pyarrow or a part of it, which has no types.
Arrow = Any


def pyarrow(name: str = "pyarrow") -> Arrow:
    """pyarrow, or a module of it.

    Raises:
        InterchangeError: it is not installed.
    """
    return required(name, "pyarrow", "parquet")


def box_type() -> Arrow:
    """The Arrow type of a box: a struct of its corners, float32, in [0, 1]."""
    pa = pyarrow()
    return pa.struct([pa.field(name, pa.float32(), nullable=False) for name in CORNERS])


def schema(description: Description) -> Arrow:
    """The Arrow schema, with the description as its metadata."""
    pa = pyarrow()
    code = pa.binary(description.bits // 8)
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("code", code, nullable=False),
        pa.field("looks", pa.list_(pa.field("element", code, nullable=False)), nullable=False),
        pa.field(
            "boxes", pa.list_(pa.field("element", box_type(), nullable=False)), nullable=False
        ),
        pa.field("structure", pa.binary()),
        pa.field("metadata", pa.string(), nullable=False),
        pa.field("properties", pa.string()),
        pa.field("classes", pa.binary()),
        pa.field("path", pa.binary()),
        pa.field("size", pa.int64()),
        pa.field("mtime_ns", pa.int64()),
        pa.field("ctime_ns", pa.int64()),
        pa.field("content", pa.binary()),
    ]
    return pa.schema(fields, {ENTRY: description.to_text().encode()})


def batch_of(items: Sequence[Item], layout: Arrow) -> Arrow:
    """Items as a record batch.

    Args:
        items: with codes as long as the schema's.
        layout: what `schema` returned.
    """
    pa = pyarrow()
    code, looks, boxes = (layout.field(name).type for name in ("code", "looks", "boxes"))
    lims = np.cumsum([0, *(len(item.looks) for item in items)], dtype=np.int32)
    look_codes = b"".join(item.looks.tobytes() for item in items)
    corners = np.concatenate([item.boxes for item in items]).T.astype(np.float32)
    structs = pa.StructArray.from_arrays(
        [pa.array(np.ascontiguousarray(side)) for side in corners],
        fields=list(box_type()),
    )
    columns = [
        pa.array([item.key for item in items]),
        _binary(pa, b"".join(item.code.tobytes() for item in items), code),
        pa.ListArray.from_arrays(lims, _binary(pa, look_codes, code), type=looks),
        pa.ListArray.from_arrays(lims, structs, type=boxes),
        pa.array(
            [None if item.structure is None else item.structure.tobytes() for item in items],
            pa.binary(),
        ),
        pa.array([to_text(item.metadata) for item in items]),
        pa.array(
            [None if item.properties is None else to_text(item.properties) for item in items],
            pa.string(),
        ),
        pa.array([item.classes for item in items], pa.binary()),
        *(
            pa.array(
                [None if item.file is None else getattr(item.file, name) for item in items],
                layout.field(name).type,
            )
            for name in _FILE
        ),
    ]
    return pa.record_batch(columns, schema=layout)


def _binary(pa: Arrow, content: bytes, kind: Arrow) -> Arrow:
    count = len(content) // kind.byte_width
    return pa.FixedSizeBinaryArray.from_buffers(kind, count, [None, pa.py_buffer(content)])


def codes_of(batch: Arrow) -> NDArray[np.uint8]:
    """The codes of a record batch: uint8, (n, bits // 8)."""
    return _rows(batch.column("code"))


def _rows(column: Arrow) -> NDArray[np.uint8]:
    """A column of fixed_size_binary: uint8, (n, width)."""
    width = column.type.byte_width
    start = column.offset * width
    content = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return content[start : start + len(column) * width].reshape(-1, width)


def items_of(batch: Arrow) -> list[Item]:
    """The items of a record batch; columns that it lacks are unknown.

    Raises:
        ValueError: a key or a code is null, metadata or properties are not a JSON object, or there
            are looks without boxes.
        TypeError: a file of which only a part is known.
    """
    for name in _REQUIRED:
        if batch.column(name).null_count:
            raise ValueError(f"{name} is null in a row")
    codes = codes_of(batch)
    names = set(batch.schema.names)

    def column(name: str) -> list[Any]:
        return batch.column(name).to_pylist() if name in names else [None] * len(codes)

    if {"looks", "boxes"} <= names:
        looks, boxes = _lists(batch, codes.shape[1])
    else:
        looks, boxes = [_NO_LOOKS] * len(codes), [_NO_BOXES] * len(codes)
    files = zip(*(column(name) for name in _FILE), strict=True)
    rows = zip(
        column("key"),
        column("metadata"),
        column("properties"),
        column("structure"),
        column("classes"),
        files,
        strict=True,
    )
    return [
        Item(
            key,
            codes[row],
            {} if metadata is None else from_text(metadata),
            FileState(*file) if any(value is not None for value in file) else None,
            looks[row],
            boxes[row],
            None if structure is None else np.frombuffer(structure, np.uint8),
            None if properties is None else from_text(properties),
            classes,
        )
        for row, (key, metadata, properties, structure, classes, file) in enumerate(rows)
    ]


def _lists(batch: Arrow, width: int) -> tuple[list[NDArray[np.uint8]], list[NDArray[np.float32]]]:
    """Codes and boxes of each item's looks."""
    looks, boxes = batch.column("looks"), batch.column("boxes")
    ends = np.cumsum(looks.value_lengths().fill_null(0))[:-1]
    if not looks.value_lengths().equals(boxes.value_lengths()):
        raise ValueError("an item has another number of looks than of boxes")
    flat, sides = looks.flatten(), boxes.flatten()
    if flat.null_count or sides.null_count:
        raise ValueError("a look or a box is null")
    codes = _rows(flat) if len(flat) else np.empty((0, width), np.uint8)
    corners = np.stack([sides.field(name).to_numpy() for name in CORNERS], axis=1)
    return np.split(codes, ends), np.split(corners.astype(np.float32), ends)


def write(out: Path, description: Description, batches: Iterable[Sequence[Item]]) -> None:
    """Write a file; each batch of items is a row group."""
    layout = schema(description)
    with pyarrow("pyarrow.parquet").ParquetWriter(
        out, layout, compression="zstd", write_page_checksum=True
    ) as writer:
        for items in batches:
            writer.write_batch(batch_of(items, layout), row_group_size=len(items))


def read(source: Path) -> Content:
    """The content of a file, or of the files of a folder.

    Raises:
        InterchangeError: no such file, or one that is not of this schema.
        FingerprintMismatch: files of different models, lengths of codes or adaptations.
    """
    paths = sorted(source.glob("*.parquet")) if source.is_dir() else [source]
    if not paths:
        raise InterchangeError(f"{source}: the folder holds no file *.parquet")
    return read_files(paths)


def read_files(paths: Sequence[Path]) -> Content:
    """The content of files, at least one, in this order.

    Raises:
        InterchangeError: no such file, or one that is not of this schema.
        FingerprintMismatch: files of different models, lengths of codes or adaptations.
    """
    description, total, ignored = _describe(paths[0])
    text = description.to_text()
    for path in paths[1:]:
        other = _describe(path)
        if other.description.to_text() != text:
            raise FingerprintMismatch(
                f"{path}: its codes are described differently from those of {paths[0]}: another "
                "model, length or adaptation; keep such files in folders of their own"
            )
        total += other.total
        ignored |= other.ignored
    return Content(description, total, _items(paths, description), tuple(sorted(ignored)))


def _items(paths: Sequence[Path], description: Description) -> Iterator[list[Item]]:
    for path in paths:
        with opened(path) as file:
            names = [name for name in schema(description).names if name in file.schema_arrow.names]
            for batch in batches_in(file, names):
                yield items_of(batch)


def batches_in(file: Arrow, columns: Sequence[str]) -> Iterator[Arrow]:
    """The record batches of an open file; of one row group each, which writers keep small."""
    for group in range(file.num_row_groups):
        yield from file.iter_batches(_BATCH, row_groups=[group], columns=columns)


def row_group_runs(file: Arrow, most_rows: int) -> Iterator[tuple[int, int, int]]:
    """Divide an open file into runs of up to `most_rows` rows; row groups stay whole.

    Yields:
        Number of a run's first row group, of the one after its last, and of its first row.
    """
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    first = row = count = 0
    for end, size in enumerate(sizes, 1):
        count += size
        if count and (end == len(sizes) or count + sizes[end] > most_rows):
            yield first, end, row
            first, row, count = end, row + count, 0


class _File(NamedTuple):
    description: Description
    total: int
    ignored: set[str]


def _describe(path: Path) -> _File:
    """The description of a file, its number of items, and the columns that are not read."""
    with opened(path) as file:
        found, total = file.schema_arrow, file.metadata.num_rows
    entries = found.metadata or {}
    if ENTRY in entries:
        description = description_from(entries[ENTRY], str(path))
        required_names = schema(description).names
    else:
        required_names = list(_REQUIRED)
        description = Description(8 * _code_bytes(path, found))
    kinds = {field.name: field.type for field in schema(description)}
    for name in required_names:
        if name not in found.names:
            raise InterchangeError(f"{path}: has no column {name}, expected it of {kinds[name]}")
    for name in kinds.keys() & found.names:
        if found.field(name).type != kinds[name]:
            raise InterchangeError(
                f"{path}: {name} is a column of {found.field(name).type}, expected {kinds[name]}"
            )
    return _File(description, total, set(found.names) - kinds.keys())


def _code_bytes(path: Path, found: Arrow) -> int:
    """The width of the column `code` in a file without a description, 1 to 128 bytes."""
    kind: Arrow = found.field("code").type if "code" in found.names else "missing"
    is_fixed = kind != "missing" and pyarrow("pyarrow.types").is_fixed_size_binary(kind)
    if not is_fixed or not 1 <= kind.byte_width <= _MAX_CODE_BYTES:
        raise InterchangeError(
            f"{path}: code is {kind}, expected fixed_size_binary of 1 to {_MAX_CODE_BYTES} bytes"
        )
    return int(kind.byte_width)


def opened(path: Path) -> Arrow:
    """An open `pyarrow.parquet.ParquetFile`.

    Raises:
        InterchangeError: no such file, or no Parquet file.
    """
    pa = pyarrow()
    try:
        return pyarrow("pyarrow.parquet").ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        raise InterchangeError(f"{path}: no such file") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise InterchangeError(f"{path}: is not a Parquet file: {error}") from error
