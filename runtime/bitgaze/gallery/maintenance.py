"""A gallery's file looked over, and what can be saved of a damaged one.

Knows the file's parts and how they fail. Mends nothing in place.
"""

import os
import sqlite3
import zlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.encoder import Encoder
from bitgaze.errors import FingerprintMismatch, GalleryCorrupt, GalleryError
from bitgaze.gallery import file_format as gallery_file
from bitgaze.gallery import items
from bitgaze.gallery.file_format import CHUNK_CODES, ModelFacts
from bitgaze.gallery.items import FileState, Item
from bitgaze.gallery.store import Store

_TIMEOUT_S = 5.0
_MAX_PROBLEMS = 20
_BATCH = 512


@dataclass(frozen=True)
class GalleryVerification:
    """What looking at every byte of a gallery found.

    Attributes:
        items: how many the gallery holds; 0 where it does not open.
        problems: what is wrong, a sentence each; the first 20.
    """

    items: int
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass
class RepairReport:
    """What `repair` did.

    Attributes:
        kept: how many items are as they were.
        encoded: keys of items whose code was damaged, made again from the image's file.
        lost: key to reason, of items that could not be saved.
        unreadable: how many items are so damaged that not even their key is known.
    """

    kept: int = 0
    encoded: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0


def verify_gallery(path: str | os.PathLike[str]) -> GalleryVerification:
    """Look at all of a gallery: pages, codes, items, and the indexes of keys and paths.

    Takes some 20 s for a million items. Others may use the gallery meanwhile. Changes nothing, but
    that a file of an earlier format is brought up to date, as whenever one is opened.

    Raises:
        GalleryError: there is no such gallery, or another process keeps it locked.
    """
    path = Path(path).expanduser()
    try:
        with closing(Store(path, None, _TIMEOUT_S)) as store, store.reading():
            problems = store.problems(_MAX_PROBLEMS)
            return GalleryVerification(len(store.index), tuple(problems))
    except GalleryCorrupt as error:
        return GalleryVerification(0, (str(error),))


def repair(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
) -> RepairReport:
    """Make a new gallery of what can be saved of a damaged one, which stays as it is.

    An item is kept where its row and its code have the checksums that they were written with. Where
    only the code is damaged, it is made again if the image's file is still as it was. A later
    `sync` brings back what is still in its folder.

    Args:
        path: the damaged gallery; nobody should be writing to it.
        out: the new file; must not exist.
        encoder: the gallery's model, to make codes again; by default the one that comes with
            bitgaze. If that did not make the codes, items that need one are lost.

    Raises:
        GalleryError: there is no such gallery, it is of another format, `out` exists, or cannot be
            written.
        GalleryCorrupt: nothing can be saved: it is no SQLite file, or what tells whose codes it
            holds is damaged.
        FingerprintMismatch: the encoder is of another model.
    """
    path, out = Path(path).expanduser(), Path(out).expanduser()
    if not path.is_file():
        raise GalleryError(f"{path}: no such gallery")
    with gallery_file.new_file(out, "repair") as unfinished:
        return _repair(path, unfinished, encoder)


def _repair(path: Path, out: Path, encoder: Encoder | None) -> RepairReport:
    report = RepairReport()
    with gallery_file.translated_errors(path, _TIMEOUT_S):
        # Where nobody can write, SQLite must be told so; see `find_frozen`.
        how = "mode=ro" if gallery_file.find_frozen(path) is None else "immutable=1"
        uri = f"{path.absolute().as_uri()}?{how}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)) as db:
            db.execute("BEGIN")
            if gallery_file.check_version(db, path) < gallery_file.FORMAT_VERSION:
                raise GalleryError(
                    f"{path}: gallery format 1; `bitgaze info -g {path}` brings it up to date, "
                    "then repair it"
                )
            info = gallery_file.read_info(db, path)
            if encoder is not None and encoder.fingerprint != info["fingerprint"]:
                raise FingerprintMismatch(
                    f"{path}: its codes are of model {info['model']!r}, not of "
                    f"{encoder.contract.name!r}"
                )
            found, without_code = _salvage(db, path, info["bits"], report)
    if encoder is None and info["fingerprint"] == read_model(DEFAULT_MODEL).fingerprint:
        encoder = Encoder()
    found += _encoded(without_code, info, encoder, report)
    _write(out, info, found)
    return report


def _salvage(
    db: sqlite3.Connection, path: Path, bits: int, report: RepairReport
) -> tuple[list[Item], list[Item]]:
    """Items that are whole, and those whose code is not; the report gets the rest."""
    whole: list[Item] = []
    without_code: list[Item] = []
    chunk: NDArray[np.uint8] | None = None
    taken: set[str | bytes] = set()
    for slot in range(_slots(db, bits // 8)):
        if slot % CHUNK_CODES == 0:
            chunk = _chunk(db, slot // CHUNK_CODES, bits // 8)
        row = slot % CHUNK_CODES
        has_code = chunk is not None and row < len(chunk)
        code = chunk[row] if chunk is not None and has_code else np.zeros(bits // 8, np.uint8)
        try:
            item = items.read_item(db, path, slot, code)
        except (GalleryCorrupt, sqlite3.DatabaseError, UnicodeDecodeError, MemoryError):
            report.unreadable += 1
            continue
        names: set[str | bytes] = {item.key}
        if item.file is not None:
            names.add(item.file.path)
        if names & taken:  # an earlier state of a page came back
            report.lost[item.key] = f"another item has its key or its file (slot {slot})"
            continue
        taken |= names
        (whole if has_code else without_code).append(item)
    report.kept = len(whole)
    return whole, without_code


def _slots(db: sqlite3.Connection, code_bytes: int) -> int:
    """How many slots there are, by what is readable of items and codes."""
    found = [0]
    for query in (
        "SELECT max(slot) + 1 FROM item",
        "SELECT count(*) FROM item",
        f"SELECT n * {CHUNK_CODES} + length(codes) / {code_bytes} FROM chunk ORDER BY n DESC",
    ):
        try:
            found += filter(None, db.execute(query).fetchone() or ())
        except sqlite3.DatabaseError:
            continue
    # A damaged number must not keep us busy for years: no item takes less than 32 bytes.
    pages, page_bytes = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return int(min(max(found), pages * page_bytes // 32))


def _chunk(db: sqlite3.Connection, n: int, code_bytes: int) -> NDArray[np.uint8] | None:
    """The codes of a chunk, uint8, (m, code_bytes); None where it is damaged."""
    try:
        row = db.execute("SELECT codes, crc FROM chunk WHERE n = ?", (n,)).fetchone()
    except sqlite3.DatabaseError:
        return None
    codes, crc = row or (None, None)
    if not isinstance(codes, bytes) or len(codes) % code_bytes or zlib.crc32(codes) != crc:
        return None
    return np.frombuffer(codes, np.uint8).reshape(-1, code_bytes)


def _encoded(
    without_code: Sequence[Item],
    info: dict[str, Any],
    encoder: Encoder | None,
    report: RepairReport,
) -> list[Item]:
    """Those whose image is still as it was, with a new code."""
    if encoder is None:
        for item in without_code:
            report.lost[item.key] = "its code is damaged, and its model was not given"
        return []
    todo: list[tuple[Item, FileState]] = []
    for item in without_code:
        reason = "it was added by hand" if item.file is None else items.changed(item.file)
        if item.file is None or reason is not None:
            report.lost[item.key] = f"its code is damaged, and of its image: {reason}"
        else:
            todo.append((item, item.file))
    found: list[Item] = []
    for start in range(0, len(todo), _BATCH):
        batch = todo[start : start + _BATCH]
        encoded = encoder.encode([os.fsdecode(file.path) for _, file in batch])
        adaptation = info["adaptation"]
        codes = encoded.codes if adaptation is None else adaptation.codes(encoded.hashes)
        for row, (item, file) in enumerate(batch):
            if row in encoded.errors:
                report.lost[item.key] = f"its code is damaged, and {encoded.errors[row]}"
                continue
            found.append(Item(item.key, codes[row], item.metadata, file))
            report.encoded.append(item.key)
    return found


def _write(path: Path, info: dict[str, Any], found: Sequence[Item]) -> None:
    facts = ModelFacts(info["fingerprint"], info["model"], info["bits"], info["calibration"])
    with closing(Store(path, lambda: facts, _TIMEOUT_S)) as store:
        with store.writing():
            for item in found:
                store.put(item)
            if info["adaptation"] is not None:
                store.recode(store.index[:], info["adaptation"], info["adapted_calibration"])
        store.write_back()  # closing would do it, too, and say nothing of a full disk
