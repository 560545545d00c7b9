"""Read a flat file: map it, and take items out of it, whatever its bytes are.

Knows nothing of searches; docs/flat-file.md specifies the file.
"""

import json
import mmap
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import calibration_from
from bitgaze.errors import GalleryCorrupt
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.file_format import check_is_file, system_errors
from bitgaze.gallery.flat.header import MAX_HEADER_BYTES, NONE, Section, read_header
from bitgaze.gallery.metadata import from_text

# What `problems` reads at a time.
_PIECE_BYTES = 16 << 20
_PIECE_ITEMS = 65_536


class FlatFile:
    """A mapped flat file. Opening it reads only the header.

    Args:
        path: the file.

    Attributes:
        path: of the file.
        header: what it holds.
        boxes: uint16, (items, views - 1, 4), of the looks, in 1/65535.

    Raises:
        GalleryError: the file is missing, is not a flat file, or of a newer version.
        GalleryCorrupt: it is damaged, or was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_is_file(path)
        with system_errors(path), path.open("rb") as file:
            head = file.read(MAX_HEADER_BYTES)
            self.header = read_header(head, file.seek(0, 2), path)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._memory = np.frombuffer(mapped, np.uint8)
        items = self.header.items
        self._offsets = self.section("offsets").view("<u8")
        lookup = self.section("lookup").view("<u4")
        self._crcs, self._slots = lookup[:items], lookup[items:]
        self._records = self.section("records")
        self.boxes: NDArray[np.uint16] = np.empty((items, 0, 4), np.uint16)
        if self.header.views > 1:
            self.boxes = self.section("boxes").view("<u2").reshape(items, self.header.views - 1, 4)

    def section(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a section, where they are mapped."""
        section = self.header.sections[name]
        return self._memory[section.offset : section.offset + section.length]

    def record(self, slot: int) -> tuple[str, dict[str, Any]]:
        """Key and metadata of the item in a slot, 0 to items - 1.

        Raises:
            GalleryCorrupt: the record is damaged.
        """
        key, text = self._record(slot)
        try:
            return key.decode(), from_text(text.decode())
        except ValueError as error:
            raise self._damaged(f"the record of item {slot}: {error}") from error

    def key(self, slot: int) -> str:
        """Key of the item in a slot, 0 to items - 1.

        Raises:
            GalleryCorrupt: the record is damaged.
        """
        key, _ = self._record(slot)
        try:
            return key.decode()
        except ValueError as error:
            raise self._damaged(f"the record of item {slot}: {error}") from error

    def find(self, key: str) -> int | None:
        """The slot of the item with this key, or None.

        Raises:
            GalleryCorrupt: what is read for that is damaged.
        """
        try:
            wanted = key.encode()
        except UnicodeEncodeError:  # a lone surrogate: possible in a path, but not in a stored key
            return None
        crc = np.uint32(zlib.crc32(wanted))
        for at in range(int(np.searchsorted(self._crcs, crc)), self.header.items):
            if self._crcs[at] != crc:
                break
            slot = int(self._slots[at])
            if slot >= self.header.items:
                raise self._damaged(f"the lookup names item {slot}")
            if self._record(slot)[0] == wanted:
                return slot
        return None

    def info(self) -> tuple[str | None, Calibration | None]:
        """Name of the model and calibration; None for what is not known.

        Raises:
            GalleryCorrupt: the section is damaged.
        """
        try:
            entries = json.loads(self._checked("info"))
            model, calibration = entries["model"], calibration_from(entries["calibration"])
            if not isinstance(model, str | None):
                raise TypeError(f"model is {model!r}")
            if calibration is not None and calibration.bits != self.header.bits:
                raise ValueError(f"calibration is for {calibration.bits} bits")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._damaged(f"section info: {error!r}") from error
        return model, calibration

    def adaptation(self) -> Adaptation | None:
        """What makes codes from the model's hash values; None for the model's own codes.

        Raises:
            GalleryCorrupt: the section is damaged.
        """
        if self.header.adaptation == NONE:
            return None
        try:
            found = Adaptation.from_bytes(self._checked("adapt"), self.header.bits)
        except ValueError as error:
            raise self._damaged(f"section adapt: {error}") from error
        if found.fingerprint != self.header.adaptation.hex():
            raise self._damaged("section adapt is not the one that the header names")
        return found

    def problems(self) -> Iterator[str]:
        """Everything that is damaged, a sentence each; reads all of the file."""
        is_whole = True
        for name, section in self.header.sections.items():
            if self._crc(name) != section.crc:
                is_whole = False
                yield f"section {name}: its bytes do not match their checksum"
        sections = self.header.sections.values()
        for before, after in pairwise([Section(0, self.header.size()), *sections]):
            if self._memory[before.offset + before.length : after.offset].any():
                yield "the gaps between sections: are not zeros"
        if not is_whole:
            return
        # A file with right checksums can still be made wrong.
        for read in (self.info, self.adaptation):
            try:
                read()
            except GalleryCorrupt as error:
                yield str(error)
        items, records = self.header.items, len(self._records)
        if int(self._offsets[0]) != 0 or int(self._offsets[items]) != records:
            yield "section offsets: does not begin with 0 and end with the length of records"
        for slot in range(items):
            try:
                self.record(slot)
            except GalleryCorrupt as error:
                is_whole = False
                yield str(error)
        if is_whole:
            yield from self._lookup_problems()

    def _lookup_problems(self) -> Iterator[str]:
        items = self.header.items
        if (self._slots >= items).any() or len(np.unique(self._slots)) < items:
            yield "section lookup: does not name each item once"
            return
        if (self._crcs[1:] < self._crcs[:-1]).any():
            yield "section lookup: is not sorted"
        for first in range(0, items, _PIECE_ITEMS):
            part = slice(first, first + _PIECE_ITEMS)
            crcs = [zlib.crc32(self._record(slot)[0]) for slot in self._slots[part].tolist()]
            if not np.array_equal(crcs, self._crcs[part]):
                yield "section lookup: a checksum is not that of its key"
                return

    def _record(self, slot: int) -> tuple[bytes, bytes]:
        start, end = self._offsets[slot : slot + 2].tolist()
        if not start + 4 <= end <= len(self._records):
            raise self._damaged(
                f"the record of item {slot}: from byte {start} to {end} of {len(self._records)}"
            )
        content = self._records[start:end].tobytes()
        middle = 4 + int.from_bytes(content[:4], "little")
        if middle > len(content):
            raise self._damaged(
                f"the record of item {slot}: a key of {middle - 4} bytes in {len(content)}"
            )
        return content[4:middle], content[middle:]

    def _crc(self, name: str) -> int:
        content, crc = self.section(name), 0
        for start in range(0, len(content), _PIECE_BYTES):
            crc = zlib.crc32(content[start : start + _PIECE_BYTES].data, crc)
        return crc

    def _checked(self, name: str) -> bytes:
        """The bytes of a small section, compared with their checksum."""
        if self._crc(name) != self.header.sections[name].crc:
            raise ValueError("its bytes do not match their checksum")
        return self.section(name).tobytes()

    def _damaged(self, what: str) -> GalleryCorrupt:
        return GalleryCorrupt(f"{self.path}: is damaged: {what}; export it again")
