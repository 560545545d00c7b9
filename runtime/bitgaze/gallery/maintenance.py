"""Maintenance: verify a gallery file; recover a damaged one into a new file."""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import ImageFile
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import file_format, items
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.connection import Connection, deadline, seconds_allowed
from bitgaze.gallery.file_format import CHUNK_CODES, ModelInfo
from bitgaze.gallery.items import FileState, Item
from bitgaze.gallery.reencode import reason_unusable
from bitgaze.gallery.store import Store

_TIMEOUT_S = 5.0
_MAX_PROBLEMS = 20
_BATCH = 512
_LOST_CODE = "its code is damaged, and "


@dataclass(frozen=True)
class GalleryVerification:
    """Result of `verify_gallery`.

    Attributes:
        items: number of items; 0 if the gallery cannot be opened.
        problems: the first 20 problems, a sentence each.
        images: number of items whose code was compared with their file.
        not_compared: number of items that were to be compared, but whose file is missing,
            unreadable, or changed since, or that were added by hand.
    """

    items: int
    problems: tuple[str, ...]
    images: int = 0
    not_compared: int = 0

    @property
    def is_sound(self) -> bool:
        """Whether there are no problems."""
        return not self.problems


@dataclass
class RepairReport:
    """Result of `repair`.

    Attributes:
        kept: number of items copied unchanged.
        encoded: keys of items whose code was damaged and has been re-encoded from the file.
        lost: key to reason, for items that could not be recovered.
        unreadable: number of items that are too damaged to know their key.
    """

    kept: int = 0
    encoded: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0


def verify_gallery(
    path: str | os.PathLike[str], *, images: bool = False, encoder: Encoder | None = None
) -> GalleryVerification:
    """Verify all of a gallery: pages, codes, items, and the indexes of keys and paths.

    Takes about 20 s for a million items; other processes can use the gallery in the meantime.
    Changes nothing, except that a file of an older format is upgraded, as whenever it is opened.

    Args:
        path: the gallery's file.
        images: also encode the images' files again, and report items whose code is not that of
            their file. Bits that may differ between machines are not compared, nor are files that
            have changed since the last sync.
        encoder: the gallery's model, for `images`; defaults to the one that comes with bitgaze.

    Raises:
        GalleryError: the gallery does not exist, or another process keeps it locked; or `images`,
            and its codes are your own.
        FingerprintMismatch: `images`, and the encoder is not the gallery's model.
    """
    path = file_format.gallery_path(path)
    try:
        with closing(Store(path, None, _TIMEOUT_S)) as store:
            if images:
                encoder = _encoder_of(store, encoder)
            with store.reading():
                problems = store.problems(_MAX_PROBLEMS)
                count = len(store.index)
            if encoder is None or not images or problems:
                return GalleryVerification(count, tuple(problems))
            compared, not_compared, problems = _compare_images(store, encoder)
            return GalleryVerification(
                count, tuple(problems[:_MAX_PROBLEMS]), compared, not_compared
            )
    except GalleryCorrupt as error:
        return GalleryVerification(0, (str(error),))


def _encoder_of(store: Store, encoder: Encoder | None) -> Encoder:
    with store.reading():
        info = store.info
    if not info["fingerprint"]:
        raise GalleryError(f"{store.path}: holds your own codes, which no model computes again")
    encoder = Encoder() if encoder is None else encoder
    file_format.check_model(info, encoder.model, store.path)
    return encoder


def _compare_images(store: Store, encoder: Encoder) -> tuple[int, int, list[str]]:
    """Encode the items' files again; return the numbers of items compared and not, and problems.

    Encodes outside of a snapshot, so that the log of other processes' changes does not grow.
    """
    with store.reading():
        files = [(ref.key, ref.file) for ref in store.image_refs()]
    compared = 0
    problems: list[str] = []
    todo = [(key, file) for key, file in files if file is not None]
    for start in range(0, len(todo), _BATCH):
        batch = todo[start : start + _BATCH]
        sources = [ImageFile(file.path) for _, file in batch]
        encoded = encoder.encode(sources)
        with store.reading():
            found = adapted(encoded, store.info["adaptation"], encoder)
            for row, (key, file) in enumerate(batch):
                slot = store.find(key)
                if reason_unusable(file, sources[row], encoded.errors.get(row)) or slot is None:
                    continue
                item = store.item(slot)
                if item.file is None or item.file.content != file.content:
                    continue  # another process has changed it in the meantime
                compared += 1
                differs = np.unpackbits(item.code ^ found.codes[row]).astype(bool)
                count = int((differs & found.stable[row]).sum())
                if count:
                    problems.append(
                        f"{store.path}: the code of {key!r} is not that of its file: {count} bits "
                        "differ; remove the item and sync again"
                    )
    return compared, len(files) - compared, problems


def repair(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    encoder: Encoder | None = None,
) -> RepairReport:
    """Recover a damaged gallery into a new file; the damaged one is not changed.

    Keeps the items whose row and code have valid checksums. If only the code is damaged, it is
    re-encoded, provided that the image's file has not changed. A later `sync` adds lost items whose
    images are still in their folder.

    Args:
        path: the damaged gallery; no process should be writing to it.
        out: the new file; must not exist.
        encoder: the gallery's model, to re-encode images; defaults to the one that comes with
            bitgaze. If that model did not make the codes, items with a damaged code are lost.

    Raises:
        GalleryError: the gallery does not exist or is of another format; or `out` exists or cannot
            be written.
        GalleryCorrupt: nothing can be recovered: the file is not an SQLite file, its tables are not
            those of a gallery, the description of its codes is damaged, or reading it takes more
            than a minute and 10 s per MB.
        FingerprintMismatch: the encoder is not the gallery's model.
    """
    path, out = file_format.gallery_path(path), file_format.gallery_path(out)
    with file_format.system_errors(path):
        is_file = path.is_file()
    if not is_file:
        raise GalleryError(f"{path}: no such gallery")
    with file_format.new_file(out, "repair") as unfinished:
        return _repair(path, unfinished, encoder)


def _repair(path: Path, out: Path, encoder: Encoder | None) -> RepairReport:
    report = RepairReport()
    mode = "mode=ro" if file_format.immutable_state(path) is None else "immutable=1"
    allowed_s = seconds_allowed(file_format.file_size(path))
    with closing(Connection.open(path, mode, _TIMEOUT_S)) as db, deadline(db, allowed_s):
        db.execute("BEGIN")
        if file_format.check_version(db, path) < file_format.FORMAT_VERSION:
            raise GalleryError(
                f"{path}: has gallery format 1; upgrade it with `bitgaze info -g {path}`, then "
                "repair it"
            )
        file_format.check_tables(db, path)
        info = file_format.read_info(db, path)
        if encoder is not None:
            file_format.check_model(info, encoder.model, path)
        give_up = time.monotonic() + allowed_s
        intact, without_code = _read_intact(db, path, info["bits"], report, give_up)
    if encoder is None and info["fingerprint"] == read_model(DEFAULT_MODEL).fingerprint:
        encoder = Encoder()
    reencoded = _reencode(without_code, info, encoder, report)
    _write(out, info, [*intact, *reencoded])
    return report


def _read_intact(
    db: sqlite3.Connection, path: Path, bits: int, report: RepairReport, give_up: float
) -> tuple[list[Item], list[Item]]:
    """Intact items, and items of which only the code is damaged; counts the others in `report`.

    Raises:
        GalleryCorrupt: it takes until the time `give_up`.
    """
    intact: list[Item] = []
    without_code: list[Item] = []
    chunk: NDArray[np.uint8] | None = None
    seen: set[str | bytes] = set()
    for slot in range(_slot_count(db, bits // 8)):
        if time.monotonic() > give_up:  # statements were interrupted, and what they read is missing
            raise GalleryCorrupt(f"{path}: reading it takes too long for a file of its size")
        if slot % CHUNK_CODES == 0:
            chunk = _chunk(db, slot // CHUNK_CODES, bits // 8)
        row = slot % CHUNK_CODES
        has_code = chunk is not None and row < len(chunk)
        code = chunk[row] if chunk is not None and has_code else np.zeros(bits // 8, np.uint8)
        try:
            item = items.read_item(db, path, slot, code)
        except GalleryError:
            report.unreadable += 1
            continue
        names: set[str | bytes] = {item.key}
        if item.file is not None:
            names.add(item.file.path)
        if names & seen:  # from an older version of a page
            report.lost[item.key] = f"another item has the same key or file (slot {slot})"
            continue
        seen |= names
        (intact if has_code else without_code).append(item)
    report.kept = len(intact)
    return intact, without_code


def _slot_count(db: sqlite3.Connection, code_bytes: int) -> int:
    """The number of slots, according to what can be read of items and codes."""
    counts = [0]
    for query in (
        "SELECT max(slot) + 1 FROM item",
        "SELECT count(*) FROM item",
        f"SELECT n * {CHUNK_CODES} + length(codes) / {code_bytes} FROM chunk ORDER BY n DESC",
    ):
        try:
            counts += filter(None, db.execute(query).fetchone() or ())
        except GalleryError:
            continue
    # A damaged number must not make the loop endless: an item takes at least 32 bytes.
    pages, page_bytes = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size")
    )
    return int(min(max(counts), pages * page_bytes // 32))


def _chunk(db: sqlite3.Connection, n: int, code_bytes: int) -> NDArray[np.uint8] | None:
    """The codes of a chunk, uint8, (m, code_bytes); None if it is damaged or missing."""
    try:
        row = db.execute("SELECT codes, crc FROM chunk WHERE n = ?", (n,)).fetchone()
    except GalleryError:
        return None
    return None if row is None else file_format.verified_chunk(row[0], row[1], code_bytes)


def _reencode(
    without_code: Sequence[Item],
    info: dict[str, Any],
    encoder: Encoder | None,
    report: RepairReport,
) -> list[Item]:
    """Items with a damaged code whose image has not changed, with a new code."""
    if encoder is None:
        for item in without_code:
            report.lost[item.key] = _LOST_CODE + "its model was not given"
        return []
    todo: list[tuple[Item, FileState]] = []
    for item in without_code:
        if item.file is None:
            report.lost[item.key] = _LOST_CODE + "its image cannot be encoded again: added by hand"
        else:
            todo.append((item, item.file))
    found: list[Item] = []
    for start in range(0, len(todo), _BATCH):
        batch = todo[start : start + _BATCH]
        sources = [ImageFile(file.path) for _, file in batch]
        encoded = encoder.encode(sources)
        codes = adapted(encoded, info["adaptation"], encoder).codes
        for row, (item, file) in enumerate(batch):
            reason = reason_unusable(file, sources[row], encoded.errors.get(row))
            if reason is not None:
                report.lost[item.key] = _LOST_CODE + f"its image cannot be encoded again: {reason}"
                continue
            found.append(Item(item.key, codes[row], item.metadata, file))
            report.encoded.append(item.key)
    return found


def _write(path: Path, info: dict[str, Any], found: Sequence[Item]) -> None:
    model_info = ModelInfo(info["fingerprint"], info["model"], info["bits"], info["calibration"])
    with closing(Store(path, lambda: model_info, _TIMEOUT_S)) as store:
        with store.writing():
            for item in found:
                store.put(item)
            if info["adaptation"] is not None:
                store.replace_codes(store.index[:], info["adaptation"], info["adapted_calibration"])
        store.checkpoint()  # closing checkpoints too, but does not report a full disk
