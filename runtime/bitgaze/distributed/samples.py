"""Samples: the images of a shard, one after the other, read as they are needed."""

import json
import os
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from lzma import LZMAError
from typing import Any

from bitgaze.distributed.plan import Shard
from bitgaze.encoding.formats import SUFFIXES
from bitgaze.encoding.images import ImageFile, printable
from bitgaze.errors import ClusterError
from bitgaze.interchange.parquet import pyarrow

# Of an image in an archive or a table, which is held in memory.
_MOST_BYTES = 256 << 20
_ROWS = 32
# Of a tar, besides images: fields of their metadata.
_TEXTS = (".txt", ".cls")


@dataclass(frozen=True)
class Sample:
    """An image of a shard, or why there is none.

    Attributes:
        key: of the item.
        source: the image; None if it cannot be had.
        metadata: of the item, a JSON object.
        reason: why there is no source.
    """

    key: str
    source: ImageFile | bytes | None
    metadata: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what.

    Attributes:
        image: bytes of an image file, or structs with a field `bytes`.
        key: keys of items; None for the file's path and the number of the row.
        metadata: fields of the items' metadata.
    """

    image: str = "image"
    key: str | None = None
    metadata: tuple[str, ...] = ()


def samples(shard: Shard, columns: Columns) -> Iterator[Sample]:
    """The images of a shard, in order."""
    if shard["kind"] == "images":
        return (Sample(printable(path), ImageFile(path)) for path in shard["paths"])
    if shard["kind"] == "parquet":
        return _rows(shard, columns)
    return _members(shard["path"])


def check_columns(shard: Shard, columns: Columns) -> None:
    """Refuse columns that a Parquet file does not have.

    Raises:
        ClusterError: one is missing.
    """
    if shard["kind"] != "parquet":
        return
    with pyarrow("pyarrow.parquet").ParquetFile(shard["path"]) as file:
        names = file.schema_arrow.names
    wanted = [columns.image, *([] if columns.key is None else [columns.key]), *columns.metadata]
    for name in wanted:
        if name not in names:
            raise ClusterError(
                f"{printable(shard['path'])}: has no column {name!r}, its columns are "
                f"{', '.join(names)}; name them with image, key and metadata"
            )


def _rows(shard: Shard, columns: Columns) -> Iterator[Sample]:
    path, row = shard["path"], shard["row"]
    name = printable(path)
    names = dict.fromkeys([columns.image, columns.key, *columns.metadata])
    wanted = [column for column in names if column is not None]
    try:
        check_columns(shard, columns)
        with pyarrow("pyarrow.parquet").ParquetFile(path) as file:
            for group in range(*shard["groups"]):
                for batch in file.iter_batches(_ROWS, row_groups=[group], columns=wanted):
                    for values in batch.to_pylist():
                        yield _of_row(values, columns, f"{name}/{row}")
                        row += 1
    except (OSError, pyarrow().ArrowInvalid) as error:
        yield Sample(name, None, {}, f"damaged from row {row} on: {error}")


def _of_row(values: dict[str, Any], columns: Columns, name: str) -> Sample:
    key = name
    if columns.key is not None:
        if values[columns.key] is None:
            return Sample(name, None, {}, f"{columns.key} is null")
        key = str(values[columns.key])
    image = values[columns.image]
    if isinstance(image, dict):  # as Hugging Face datasets have it
        image = image.get("bytes")
    metadata = {field: values[field] for field in columns.metadata}
    if not isinstance(image, bytes):
        what = "null" if image is None else type(image).__name__
        return Sample(key, None, metadata, f"{columns.image} is {what}, expected bytes")
    if len(image) > _MOST_BYTES:
        return Sample(key, None, metadata, _too_large(len(image)))
    return Sample(key, image, metadata)


def _members(path: str) -> Iterator[Sample]:
    name = printable(path)
    try:
        with tarfile.open(path, "r|*") as archive:
            files = (member for member in archive if member.isfile())
            for _, group in groupby(files, lambda member: _stem(member.name)):
                yield from _sample(archive, group, name)
            # The end of the file where a member could begin is no error to tarfile.
            if archive.fileobj.tell() < archive.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("ends without the blocks that end an archive")
    except (tarfile.TarError, zlib.error, LZMAError, EOFError, OSError) as error:
        yield Sample(name, None, {}, f"damaged, or no tar archive: {error}")


def _stem(name: str) -> str:
    """What the files of one sample have in common: all up to the first dot of the name."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".")[0]


def _sample(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], name: str
) -> Iterator[Sample]:
    """The images of consecutive members of one stem, with the metadata beside them."""
    found: list[Sample] = []
    metadata: dict[str, Any] = {}
    problem = ""
    for member in members:
        suffix = os.path.splitext(member.name)[1].lower()  # noqa: PTH122 (a name, no path)
        key = printable(f"{name}/{member.name}")
        if suffix not in SUFFIXES and suffix not in (".json", *_TEXTS):
            continue
        if member.size > _MOST_BYTES:
            found.append(Sample(key, None, {}, _too_large(member.size)))
            continue
        file = archive.extractfile(member)
        content = b"" if file is None else file.read()
        if len(content) < member.size:
            raise tarfile.ReadError(f"ends within {printable(member.name)}")
        if suffix in SUFFIXES:
            found.append(Sample(key, content))
            continue
        try:
            if suffix == ".json":
                metadata |= json.loads(content)
            else:
                metadata[suffix[1:]] = content.decode().strip()
        except (ValueError, TypeError, RecursionError) as error:
            problem = f"{printable(member.name)} is not a JSON object or text: {error}"
    for one in found:
        if problem or one.source is None:
            yield Sample(one.key, None, {}, one.reason or problem)
        else:
            yield Sample(one.key, one.source, metadata)


def _too_large(size: int) -> str:
    return f"{size} bytes, the maximum in a table or an archive is {_MOST_BYTES}"
