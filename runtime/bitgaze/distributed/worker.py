"""The worker: one encoder in an actor of the cluster, which makes whole shards."""

import os
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.distributed.output import (
    Refusal,
    finish,
    gallery,
    part,
    read_shard,
    receipt,
    replacing,
)
from bitgaze.distributed.plan import refused_by_plan
from bitgaze.distributed.samples import Columns, Sample, samples
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import ImageFile
from bitgaze.errors import ClusterError
from bitgaze.gallery.items import BOX_STEPS, FileState, Item
from bitgaze.gallery.metadata import to_text
from bitgaze.gallery.sync.folders import file_state
from bitgaze.interchange import parquet
from bitgaze.interchange.description import Description, description_from
from bitgaze.interchange.galleries import write_gallery

# Of images that are encoded together, whichever comes first.
_BATCH_IMAGES, _BATCH_BYTES = 256, 64 << 20
# Of a row group; fewer compress badly.
_GROUP_ROWS = 4096


class Worker:
    """Makes shards, with as many threads as its actor has CPUs.

    Args:
        out: folder to write to.
        description: of the codes, as `Description.to_text` writes it.
        model: path of the model; None for the one of bitgaze, wherever it is on this machine.
        columns: of tables.
        threads: number of threads.

    Raises:
        ClusterError: the model on this machine is another.
    """

    def __init__(
        self,
        out: str,
        description: str,
        model: str | None,
        columns: Columns,
        threads: int,
    ) -> None:
        self._out = Path(out)
        self._description = description_from(description, out)
        self._columns = columns
        self._encoder = Encoder(DEFAULT_MODEL if model is None else model, threads=threads)
        if self._encoder.fingerprint != self._description.fingerprint:
            raise ClusterError(
                f"{self._encoder.model.path} on {os.uname().nodename}: is another model than the "
                "one the encoding was started with; install the same version on all machines"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make the shards of a batch of rows (number, offset), unless they are finished."""
        for number, offset in zip(batch["number"].tolist(), batch["offset"].tolist(), strict=True):
            if receipt(self._out, number) is None:
                make_shard(
                    self._out, number, offset, self._encoder, self._description, self._columns
                )
        return {"number": batch["number"]}


def make_shard(
    out: Path,
    number: int,
    offset: int,
    encoder: Encoder,
    description: Description,
    columns: Columns,
) -> None:
    """Encode the images of a shard and write its Parquet file and its receipt.

    Raises:
        ClusterError: a column is missing.
        OSError: the folder cannot be written.
    """
    shard = read_shard(out, offset)
    refused: list[Refusal] = list(refused_by_plan(shard))
    count = 0

    def batches() -> Iterator[list[Item]]:
        nonlocal count
        keys: set[str] = set()
        group: list[Item] = []
        for some in _batched(samples(shard, columns), refused):
            items = _encoded(encoder, description.looks, some, keys, refused)
            count += len(items)
            group += items
            if len(group) >= _GROUP_ROWS:
                yield group
                group = []
        if group:
            yield group

    with replacing(part(out, number, "parquet")) as unfinished:
        parquet.write(unfinished, description, batches())
    finish(out, number, count, refused)


def make_gallery(out: Path, number: int, shards: range) -> None:
    """Make a gallery of finished shards, unless it is there.

    Raises:
        InterchangeError: a key is there twice.
        GalleryError: the file cannot be written.
    """
    path = gallery(out, number)
    if not path.exists():
        contents = [parquet.read(part(out, shard, "parquet")) for shard in shards]
        batches = chain.from_iterable(content.batches for content in contents)
        write_gallery(path, contents[0].description, batches, out)


def _batched(found: Iterator[Sample], refused: list[Refusal]) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    size = 0
    for sample in found:
        if sample.source is None:
            refused.append((sample.key, sample.reason))
            continue
        batch.append(sample)
        size += len(sample.source) if isinstance(sample.source, bytes) else 0
        if len(batch) == _BATCH_IMAGES or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoded(
    encoder: Encoder,
    looks: int,
    batch: list[Sample],
    keys: set[str],
    refused: list[Refusal],
) -> list[Item]:
    sources = [sample.source for sample in batch if sample.source is not None]
    encoded = encoder.encode(sources, looks=looks)
    items: list[Item] = []
    for row, sample in enumerate(batch):
        error = encoded.errors.get(row)
        if error is not None:
            refused.append((sample.key, str(error).removeprefix(f"{sample.key}: ")))
            continue
        if sample.key in keys:
            refused.append((sample.key, "another image of the shard has this key"))
            continue
        file = properties = None
        if isinstance(sample.source, ImageFile):
            source = sample.source
            state = file_state(source.size, source.mtime_ns, source.ctime_ns)
            file = FileState(os.fsencode(source.path), *state, source.content)
            properties = source.properties
        try:
            to_text(sample.metadata)
        except (TypeError, ValueError) as problem:
            refused.append((sample.key, f"metadata: {problem}"))
            continue
        keys.add(sample.key)
        item = Item.of_image(sample.key, encoded, row, sample.metadata, file, properties)
        items.append(replace(item, boxes=_in_steps(item.boxes)))
    return items


def _in_steps(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Boxes as a gallery gives them back: in steps of 1/65535."""
    return (np.rint(boxes.astype(np.float64) * BOX_STEPS) / BOX_STEPS).astype(np.float32)
