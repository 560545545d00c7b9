"""The header of a flat file: what the file holds, and where. docs/flat-file.md specifies it.

reader.py maps the file, writer.py writes it.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bitgaze import hamming, views
from bitgaze.arguments import MAX_BITS, MAX_VIEWS
from bitgaze.errors import GalleryCorrupt, GalleryError

MAGIC = b"\x89BGF\r\n\x1a\n"
VERSION = 1
ALIGNMENT = 64
MAX_ITEMS = 2**32 - 1
NONE = bytes(32)  # for no model, no adaptation
WHOLE = (0, 0, 65535, 65535)  # the box of a free place

_FIELDS = struct.Struct("<8s4I2Q2I32s32s16x")
_ENTRY = struct.Struct("<8s2QI4x")
_CRC_AT = 12
_MAX_SECTIONS = 64
# As much of a file as holds any header.
MAX_HEADER_BYTES = _FIELDS.size + _MAX_SECTIONS * _ENTRY.size


class Section(NamedTuple):
    """Where a section is: offset and length in bytes, and the CRC-32 of its bytes."""

    offset: int
    length: int
    crc: int = 0


@dataclass(frozen=True)
class Header:
    """What a flat file holds.

    Attributes:
        items: number of items.
        bits: length of a code.
        views: codes of an item.
        model: fingerprint of the model, 32 bytes; `NONE` for codes of the caller's own.
        adaptation: fingerprint of the adaptation, 32 bytes; `NONE` without one.
        sections: by name, in the order of their offsets.
    """

    items: int
    bits: int
    views: int
    model: bytes = NONE
    adaptation: bytes = NONE
    sections: dict[str, Section] = field(default_factory=dict)

    def lengths(self) -> dict[str, int | None]:
        """Names of the sections that the file must have; their lengths, None for any."""
        found: dict[str, int | None] = {"info": None}
        if self.adaptation != NONE:
            found["adapt"] = 4 * self.bits * (self.bits + 1)
        if self.views > 1:
            found["codes"] = views.layout_bytes(self.bits, self.views, self.items)
            found["boxes"] = 8 * self.items * (self.views - 1)
        else:
            found["codes"] = hamming.layout_bytes(self.bits, self.items)
        return found | {"offsets": 8 * (self.items + 1), "lookup": 8 * self.items, "records": None}

    def size(self) -> int:
        """Length of the header with its table, in bytes."""
        return _FIELDS.size + len(self.sections) * _ENTRY.size

    def to_bytes(self, file_bytes: int) -> bytes:
        """The header of a file of this length."""
        fields = _FIELDS.pack(
            *(MAGIC, VERSION, 0, self.size(), len(self.sections), file_bytes),
            *(self.items, self.bits, self.views, self.model, self.adaptation),
        )
        table = (
            _ENTRY.pack(name.encode("ascii"), *section) for name, section in self.sections.items()
        )
        content = fields + b"".join(table)
        crc = zlib.crc32(content).to_bytes(4, "little")
        return content[:_CRC_AT] + crc + content[_CRC_AT + 4 :]


def is_flat(path: Path) -> bool:
    """Whether this is a flat file, of any version, by its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def aligned(offset: int) -> int:
    """The first offset from `offset` on where a section can start."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def read_header(head: bytes, file_bytes: int, path: Path) -> Header:
    """Read and check the header of a flat file, in time that does not depend on its items.

    Args:
        head: the first `MAX_HEADER_BYTES` bytes of the file, or all if there are fewer.
        file_bytes: length of the file.
        path: of the file, for messages.

    Raises:
        GalleryError: the file is not a flat file, or of a newer version.
        GalleryCorrupt: it is damaged, or was cut off.
    """
    if head[: len(MAGIC)] != MAGIC:
        raise GalleryError(
            f"{path}: is not a flat file; `bitgaze export-flat OUT -g GALLERY` writes one"
        )
    if len(head) < _FIELDS.size:
        raise GalleryCorrupt(f"{path}: is cut off: it has {file_bytes} bytes")
    _, version, crc, size, count, length, items, bits, view_count, model, adaptation = (
        _FIELDS.unpack_from(head)
    )
    if version > VERSION:
        raise GalleryError(
            f"{path}: has version {version} of the flat file, but this version of bitgaze reads "
            f"up to {VERSION}; update bitgaze, or export it again"
        )
    if file_bytes != length:
        raise GalleryCorrupt(
            f"{path}: has {file_bytes:,} bytes, expected {length:,}: it was not copied completely, "
            "or is damaged"
        )
    if count > _MAX_SECTIONS or size != _FIELDS.size + count * _ENTRY.size or size > len(head):
        raise GalleryCorrupt(f"{path}: the header is damaged: {size} bytes, {count} sections")
    if zlib.crc32(head[:_CRC_AT] + bytes(4) + head[_CRC_AT + 4 : size]) != crc:
        raise GalleryCorrupt(f"{path}: the header is damaged: its checksum does not match")
    sections = {
        name: Section(*rest) for name, *rest in _ENTRY.iter_unpack(head[_FIELDS.size : size])
    }
    names = {name.rstrip(b"\0").decode("ascii", "replace"): at for name, at in sections.items()}
    header = Header(items, bits, view_count, model, adaptation, names)
    for problem in _problems(header, version, count, length):
        raise GalleryCorrupt(f"{path}: the header is damaged: {problem}")
    return header


def _problems(header: Header, version: int, count: int, file_bytes: int) -> Iterator[str]:
    """What contradicts the format, although the checksum matches."""
    if version < 1:
        yield f"version {version}, expected at least 1"
    if not 8 <= header.bits <= MAX_BITS or header.bits % 8:
        yield f"codes of {header.bits} bits, expected a multiple of 8 from 8 to {MAX_BITS}"
    if not 1 <= header.views <= MAX_VIEWS:
        yield f"{header.views} views, expected 1 to {MAX_VIEWS}"
    if header.items > MAX_ITEMS:
        yield f"{header.items} items, expected at most {MAX_ITEMS}"
    if len(header.sections) != count:
        yield "two sections have the same name"
    for name, length in header.lengths().items():
        if name not in header.sections:
            yield f"there is no section {name}"
        elif length not in (None, header.sections[name].length):
            yield f"section {name} has {header.sections[name].length} bytes, expected {length}"
    places = [Section(0, header.size()), *header.sections.values(), Section(file_bytes, 0)]
    ends = [place.offset + place.length for place in places]
    if any(end > after.offset for end, after in zip(ends, places[1:], strict=False)):
        yield "sections overlap, or lie beyond the end of the file"
    if ends[-2] != file_bytes:
        yield "the file does not end with its last section"
    if any(section.offset % ALIGNMENT for section in header.sections.values()):
        yield f"a section does not start at a multiple of {ALIGNMENT} bytes"
