"""Maintenance: verify a gallery file; recover a damaged one into a new file."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.contract import read_model
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import ImageFile
from bitgaze.errors import GalleryCorrupt, GalleryError
from bitgaze.gallery import distinct, file_format, items, thumbnails
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.chunks import CHUNK_CODES, SLOTS, unsigned, verified_chunk
from bitgaze.gallery.connection import Connection, deadline, seconds_allowed
from bitgaze.gallery.info import ModelInfo, check_model, read_info
from bitgaze.gallery.items import FileState, Item, reason_unusable
from bitgaze.gallery.remembered import find_model, read_sources
from bitgaze.gallery.schema import check_tables, check_version, is_table
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
        reduced: keys of items of which looks or the structural code were damaged, and left out.
        encoded: keys of items whose code was damaged and has been re-encoded from the file; some
            may be in `reduced` too.
        lost: key to reason, for items that could not be recovered.
        unreadable: number of items that are too damaged to know their key.
    """

    kept: int = 0
    reduced: list[str] = field(default_factory=list)
    encoded: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0


def verify_gallery(
    path: str | os.PathLike[str], *, images: bool = False, encoder: Encoder | None = None
) -> GalleryVerification:
    """Verify all of a gallery: pages, codes, items, and the index of keys and paths.

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
    encoder = Encoder(find_model(info, store.file)) if encoder is None else encoder
    check_model(info, encoder.model, store.path)
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
        sources = [ImageFile(file.path, is_tolerant=True) for _, file in batch]
        with store.reading():
            looks = store.info["looks"]
        encoded = encoder.encode(sources, looks=looks)
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

    Keeps the items whose row and code have valid checksums, and of what belongs to them all that
    has: looks, structural codes, thumbnails, and pairs of images that were called distinct. If only
    the code is damaged, it is re-encoded, provided that the image's file has not changed. A later
    `sync` adds lost items whose images are still in their folder.

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
    file_format.check_is_file(path)
    with file_format.system_errors(path):
        exists = path.exists()
    if not exists:
        raise GalleryError(f"{path}: no such gallery")
    with file_format.new_file(out, "repair") as unfinished:
        return _repair(path, unfinished, encoder)


def _repair(path: Path, out: Path, encoder: Encoder | None) -> RepairReport:
    report = RepairReport()
    mode = "mode=ro" if file_format.immutable_state(path) is None else "immutable=1"
    allowed_s = seconds_allowed(file_format.file_size(path))
    with closing(Connection.open(path, mode, _TIMEOUT_S)) as db, deadline(db, allowed_s):
        db.execute("BEGIN")
        version = check_version(db, path)
        if version == 1:
            raise GalleryError(
                f"{path}: has gallery format 1; upgrade it with `bitgaze info -g {path}`, then "
                "repair it"
            )
        check_tables(db, path)
        info = read_info(db, path)
        if encoder is not None:
            check_model(info, encoder.model, path)
        give_up = time.monotonic() + allowed_s
        intact, without_code = _read_intact(db, path, version, info, report, give_up)
        pairs = _read_pairs(db)
    if encoder is None:
        model = find_model(info, path)
        if info["fingerprint"] == read_model(model).fingerprint:
            encoder = Encoder(model)
    found = intact | _reencode(without_code, info, encoder, report)
    report.reduced = [key for key in report.reduced if key not in report.lost]
    with closing(Connection.open(path, mode, _TIMEOUT_S)) as db, deadline(db, allowed_s):
        db.execute("BEGIN")
        _write(out, info, found, pairs, lambda slot: _read_thumbnail(db, path, slot))
    return report


def _read_pairs(db: sqlite3.Connection) -> list[tuple[bytes, bytes]]:
    with suppress(GalleryError):  # the table is missing, or its pages are damaged
        if is_table(db, "distinct_pair"):
            return list(distinct.intact_pairs(db))
    return []


def _read_thumbnail(db: sqlite3.Connection, path: Path, slot: int) -> bytes | None:
    with suppress(GalleryError):
        if is_table(db, "thumbnail"):
            return thumbnails.read_thumbnail(db, path, slot)
    return None


def _read_intact(
    db: sqlite3.Connection,
    path: Path,
    version: int,
    info: dict[str, Any],
    report: RepairReport,
    give_up: float,
) -> tuple[dict[int, Item], dict[int, Item]]:
    """Intact items, and items of which the code is damaged, by slot; reports what is lost of them.

    Raises:
        GalleryCorrupt: it takes until the time `give_up`.
    """
    intact: dict[int, Item] = {}
    without_code: dict[int, Item] = {}
    seen: set[str | bytes] = set()
    count = _slot_count(db, info["bits"] // 8)
    for first in range(0, count, CHUNK_CODES):
        slots = range(first, min(first + CHUNK_CODES, count))
        found, is_complete = _read_chunk(db, path, version, info, slots, give_up)
        report.unreadable += len(slots) - len(found)
        for slot, item, has_code, is_reduced in found:
            names: set[str | bytes] = {item.key}
            if item.file is not None:
                names.add(item.file.path)
            if names & seen:  # from an older version of a page
                report.lost[item.key] = f"another item has the same key or file (slot {slot})"
                continue
            seen |= names
            is_incomplete = is_reduced
            kept = item
            if not is_complete:  # these may be of another state too
                is_incomplete |= bool(len(item.boxes)) or item.structure is not None
                kept = replace(_without_looks(item), structure=None)
            if is_incomplete:
                report.reduced.append(item.key)
            (intact if has_code and is_complete else without_code)[slot] = kept
    report.kept = len({item.key for item in intact.values()}.difference(report.reduced))
    return intact, without_code


def _without_looks(item: Item) -> Item:
    return replace(item, looks=np.empty((0, 0), np.uint8), boxes=np.empty((0, 4), np.float32))


def _read_chunk(
    db: sqlite3.Connection,
    path: Path,
    version: int,
    info: dict[str, Any],
    slots: range,
    give_up: float,
) -> tuple[list[tuple[int, Item, bool, bool]], bool]:
    """(slot, item, whether it has its code, whether others are lost) of a chunk's readable items.

    Also returns whether items and codes are of the same state of the file: if all items are intact,
    but their sum is not that of the codes, one of both is older.
    """
    columns = items.COLUMNS if version > 2 else f"{items.COLUMNS_2}, NULL, NULL, NULL"
    codes = _codes(db, "chunk", slots, info["bits"] // 8)
    looks = _codes(db, "look_chunk", slots, info["looks"] * info["bits"] // 8)
    structure = _codes(db, "structure_chunk", slots, info["structure"] // 8)
    found: list[tuple[int, Item, bool, bool]] = []
    total = 0
    for row, slot in enumerate(slots):
        if time.monotonic() > give_up:  # statements were interrupted, and what they read is missing
            raise GalleryCorrupt(f"{path}: reading it takes too long for a file of its size")
        (code, has_code), (look, has_looks), (structural, has_structure) = (
            part[row] for part in (codes, looks, structure)
        )
        places = look.reshape(info["looks"], info["bits"] // 8)
        try:
            item = items.read_item(db, path, slot, code, places, structural, columns)
            total += db.execute("SELECT crc FROM item WHERE slot = ?", (slot,)).fetchone()[0]
        except GalleryError:
            continue
        has_lost_looks = not has_looks and len(item.boxes) > 0
        if has_lost_looks:
            item = _without_looks(item)
        found.append((slot, item, has_code, has_lost_looks or not has_structure))
    is_same_state = version < 3 or len(found) < len(slots) or _has_sum(db, slots, total)
    return found, is_same_state


def _has_sum(db: sqlite3.Connection, slots: range, total: int) -> bool:
    try:
        query = "SELECT items FROM chunk WHERE n = ?"
        row = db.execute(query, (slots.start // CHUNK_CODES,)).fetchone()
    except GalleryError:
        return False
    return row is not None and row[0] == unsigned(total)


def _codes(
    db: sqlite3.Connection, table: str, slots: range, width: int
) -> list[tuple[NDArray[np.uint8], bool]]:
    """A row of a table of chunks for each slot, uint8, (width,); and whether it is intact."""
    found = [(np.zeros(width, np.uint8), width == 0)] * len(slots)
    if not width:
        return found
    for start in range(slots.start, slots.stop, SLOTS[table]):
        try:
            n = start // SLOTS[table]
            row = db.execute(f"SELECT codes, crc FROM {table} WHERE n = ?", (n,)).fetchone()
        except GalleryError:
            continue
        chunk = None if row is None else verified_chunk(row[0], row[1], width)
        for position, code in enumerate(() if chunk is None else chunk):
            if start + position < slots.stop:
                found[start - slots.start + position] = (code, True)
    return found


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


def _reencode(
    without_code: Mapping[int, Item],
    info: dict[str, Any],
    encoder: Encoder | None,
    report: RepairReport,
) -> dict[int, Item]:
    """Items with a damaged code whose image has not changed, with a new code, by slot."""
    if encoder is None:
        for item in without_code.values():
            report.lost[item.key] = _LOST_CODE + "its model was not given"
        return {}
    todo: list[tuple[int, Item, FileState]] = []
    for slot, item in without_code.items():
        if item.file is None:
            report.lost[item.key] = _LOST_CODE + "its image cannot be encoded again: added by hand"
        else:
            todo.append((slot, item, item.file))
    found: dict[int, Item] = {}
    reduced = set(report.reduced)
    for start in range(0, len(todo), _BATCH):
        batch = todo[start : start + _BATCH]
        sources = [ImageFile(file.path, is_tolerant=True) for _, _, file in batch]
        encoded = encoder.encode(sources, looks=info["looks"])
        encoded = adapted(encoded, info["adaptation"], encoder)
        for row, (slot, item, file) in enumerate(batch):
            reason = reason_unusable(file, sources[row], encoded.errors.get(row))
            if reason is not None:
                report.lost[item.key] = _LOST_CODE + f"its image cannot be encoded again: {reason}"
                continue
            new = Item.of_image(item.key, encoded, row, item.metadata, file, item.properties)
            is_reduced = item.key in reduced
            classes = item.classes or new.classes
            found[slot] = replace(new if is_reduced else item, code=new.code, classes=classes)
            report.encoded.append(item.key)
    report.reduced = [key for key in report.reduced if key not in report.encoded]
    return found


def _write(
    path: Path,
    info: dict[str, Any],
    found: Mapping[int, Item],
    pairs: Iterable[tuple[bytes, bytes]],
    thumbnail: Callable[[int], bytes | None],
) -> None:
    """Write a new gallery.

    Args:
        path: the new file.
        info: of the damaged gallery.
        found: its items, by their slot there.
        pairs: of distinct images.
        thumbnail: returns the thumbnail of an item, by its slot there.
    """
    names = ("fingerprint", "model", "bits", "calibration", "looks", "structure")
    model_info = ModelInfo(*(info[name] for name in names))
    with closing(Store(path, lambda: model_info, _TIMEOUT_S)) as store:
        with store.writing():
            for slot, item in found.items():
                store.put(item)
                image = thumbnail(slot)
                if image is not None:
                    store.set_thumbnail(store.slot(item.key), image)
            for pair in pairs:
                store.set_distinct(*pair)
            if info["adaptation"] is not None:
                views = store.index[:][:, None] if store.views is None else store.views[:]
                store.replace_codes(views, info["adaptation"], info["adapted_calibration"])
            store.remember(read_sources(info, path))
        store.checkpoint()  # closing checkpoints too, but does not report a full disk
