"""Write a flat file: items, batch by batch, into the sections of docs/flat-file.md.

Knows nothing of galleries, so that other sources of codes can be written too.
"""

import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze import hamming, views
from bitgaze.encoding.calibration import Calibration
from bitgaze.errors import GalleryError
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.file_format import create_private, system_errors
from bitgaze.gallery.flat.header import MAX_ITEMS, NONE, Header, Section, aligned, is_flat

# A whole number of each layout's blocks.
BATCH_ITEMS = 4096


@dataclass(frozen=True)
class Origin:
    """Where codes come from.

    Attributes:
        bits: length of a code.
        looks: codes of an item, besides that of the whole image.
        fingerprint: of the model, 64 hex digits; "" for codes of the caller's own.
        model: name of the model; "" for codes of the caller's own.
        adaptation: that made the codes; None for the model's own codes.
        calibration: what distances mean; None if not known.
    """

    bits: int
    looks: int
    fingerprint: str = ""
    model: str = ""
    adaptation: Adaptation | None = None
    calibration: Calibration | None = None


class Batch(NamedTuple):
    """Items, `BATCH_ITEMS` of them but in the last batch.

    Attributes:
        views: uint8, (n, 1 + looks, bits // 8); free places for looks hold the item's code.
        boxes: uint16, (n, looks, 4), of the looks, in 1/65535; 0, 0, 65535, 65535 in free places.
        keys: one each; no two items of a file have the same.
        metadata: JSON objects, one each.
    """

    views: NDArray[np.uint8]
    boxes: NDArray[np.uint16]
    keys: list[str]
    metadata: list[str]


def write_flat(out: Path, origin: Origin, count: int, batches: Iterable[Batch]) -> None:
    """Write a flat file under a temporary name, and rename it when it is whole and durable.

    Replaces a flat file; a process that has mapped it keeps it.

    Args:
        out: the file.
        origin: where the codes come from.
        count: number of items.
        batches: the items, in order.

    Raises:
        GalleryError: `out` is another kind of file, its folder does not exist, or the disk is full.
        ValueError: two items have the same key, there are more than 2**32 - 1 items, or the batches
            do not hold `count` items in the numbers required.
    """
    if count > MAX_ITEMS:
        raise ValueError(f"a flat file holds at most {MAX_ITEMS:,} items, got {count:,}")
    with _replacing(out) as unfinished, unfinished.open("r+b") as file:
        _write(file, origin, count, batches)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A temporary file, renamed to `out` on success."""
    with system_errors(out):
        if out.exists() and not is_flat(out):
            raise GalleryError(f"{out}: already exists and is not a flat file; choose another name")
        if not out.parent.is_dir():
            raise GalleryError(f"{out}: the folder {out.parent} does not exist; create it first")
        with TemporaryDirectory(prefix=".bitgaze-", dir=out.parent) as folder:
            unfinished = Path(folder, "unfinished")
            create_private(unfinished)
            yield unfinished
            unfinished.replace(out)
        if os.name == "posix":  # makes the new name durable
            descriptor = os.open(out.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


class _Part:
    """A section that grows at its end, with its checksum."""

    def __init__(self, file: BinaryIO, offset: int) -> None:
        self.file, self.offset = file, offset
        self.length = self.crc = 0

    def add(self, content: bytes | NDArray[Any]) -> None:
        data = content if isinstance(content, bytes) else content.tobytes()
        self.file.seek(self.offset + self.length)
        self.file.write(data)
        self.crc = zlib.crc32(data, self.crc)
        self.length += len(data)

    def section(self) -> Section:
        return Section(self.offset, self.length, self.crc)


def _write(file: BinaryIO, origin: Origin, count: int, batches: Iterable[Batch]) -> None:
    adaptation = b"" if origin.adaptation is None else origin.adaptation.to_bytes()
    header = Header(
        count,
        origin.bits,
        1 + origin.looks,
        bytes.fromhex(origin.fingerprint) or NONE,
        bytes.fromhex(origin.adaptation.fingerprint) if origin.adaptation is not None else NONE,
    )
    info = _info(origin)
    # All lengths but that of the records, which are last, follow from the number of items.
    lengths = header.lengths() | {"info": len(info), "records": 0}
    header.sections.update(dict.fromkeys(lengths, Section(0, 0)))  # so that it has its size
    parts, end = {}, header.size()
    for name, length in lengths.items():
        parts[name] = _Part(file, aligned(end))
        end = aligned(end) + (length or 0)

    parts["info"].add(info)
    if adaptation:
        parts["adapt"].add(adaptation)
    crcs = _write_items(parts, header, batches)
    order = np.argsort(crcs, kind="stable").astype("<u4")
    _check_unique(parts["records"], parts["offsets"], crcs[order], order)
    parts["lookup"].add(crcs[order])
    parts["lookup"].add(order)
    for name, part in parts.items():
        header.sections[name] = part.section()
    records = header.sections["records"]
    file_bytes = records.offset + records.length
    file.truncate(file_bytes)
    file.seek(0)
    file.write(header.to_bytes(file_bytes))


def _info(origin: Origin) -> bytes:
    entries = {
        "model": origin.model or None,
        "calibration": origin.calibration and asdict(origin.calibration),
        "written_by": f"bitgaze {version('bitgaze')}",
    }
    return json.dumps(entries).encode()


def _write_items(
    parts: dict[str, _Part], header: Header, batches: Iterable[Batch]
) -> NDArray[np.uint32]:
    """Write the sections that grow with the items; return the CRC-32 of each key."""
    crcs = np.empty(header.items, "<u4")
    done = end = 0
    parts["offsets"].add(np.zeros(1, "<u8"))
    for batch in batches:
        count = len(batch.keys)
        shape = (count, header.views, header.bits // 8)
        if batch.views.shape != shape or count != min(BATCH_ITEMS, header.items - done):
            raise ValueError(
                f"a batch has {count} keys and codes of shape {batch.views.shape}, expected "
                f"{min(BATCH_ITEMS, header.items - done)} items, {shape[1:]} each"
            )
        if header.views > 1:
            parts["codes"].add(views.laid_out(batch.views))
            parts["boxes"].add(batch.boxes.astype("<u2", copy=False))
        else:
            parts["codes"].add(hamming.laid_out(np.ascontiguousarray(batch.views[:, 0])))
        keys = [key.encode() for key in batch.keys]
        texts = [text.encode() for text in batch.metadata]
        records = [
            len(key).to_bytes(4, "little") + key + text
            for key, text in zip(keys, texts, strict=True)
        ]
        ends = end + np.cumsum([len(record) for record in records], dtype=np.uint64)
        parts["offsets"].add(ends.astype("<u8", copy=False))
        parts["records"].add(b"".join(records))
        crcs[done : done + count] = [zlib.crc32(key) for key in keys]
        done, end = done + count, int(ends[-1])
    if done != header.items:
        raise ValueError(f"the batches hold {done} items, expected {header.items}")
    return crcs


def _check_unique(
    records: _Part, offsets: _Part, crcs: NDArray[np.uint32], order: NDArray[np.uint32]
) -> None:
    """Compare keys with equal checksums: one of a hundred of 100 million."""
    equal = np.flatnonzero(crcs[1:] == crcs[:-1])
    seen = set()
    for slot in np.union1d(order[equal], order[equal + 1]).tolist():
        key = _key(records, offsets, slot)
        if key in seen:
            raise ValueError(f"two items have the key {key.decode()!r}")
        seen.add(key)


def _key(records: _Part, offsets: _Part, slot: int) -> bytes:
    file = records.file
    file.seek(offsets.offset + 8 * slot)
    file.seek(records.offset + int.from_bytes(file.read(8), "little"))
    return file.read(int.from_bytes(file.read(4), "little"))
