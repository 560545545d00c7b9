"""Folder to gallery, incremental: only what is new, changed, renamed or gone is touched.

Knows files. Decoding and encoding are the encoder's work, storage the gallery's.
"""

import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bitgaze.cores import available_cores
from bitgaze.errors import GalleryError
from bitgaze.gallery_file import FileState, Item
from bitgaze.images import SUFFIXES, printable

if TYPE_CHECKING:
    from bitgaze.gallery import Gallery

# Pictures per commit: a few seconds of work at most are lost when the process is killed.
_COMMIT_SIZE = 64


@dataclass
class SyncReport:
    """What a sync did. Every list is of paths as text, in order.

    Attributes:
        added: new pictures.
        updated: pictures whose content had changed.
        moved: (old, new) where a picture was renamed; found by content, not encoded again.
        removed: pictures that are no longer there.
        unchanged: how many were left alone.
        failed: path to reason, of what could not be read. A picture that the gallery held before
            keeps its old code; the next sync tries again.
        skipped: path to reason, of what was left out on purpose.
    """

    added: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


@dataclass
class _Scan:
    """The pictures below a folder, path to (size, mtime_ns); folders that could not be listed."""

    states: dict[str, tuple[int, int]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def sync(
    gallery: "Gallery",
    folder: str | os.PathLike[str],
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncReport:
    """Make a gallery match the pictures below a folder.

    A picture is a file whose name ends in one of `bitgaze.images.SUFFIXES`; names that begin with a
    dot are left out. Its key is its absolute path as text. Files whose size and modification time
    are as before are not opened. Links to folders are followed, each folder once. Items added by
    hand, and those of other folders, stay as they are. Work is committed every few pictures; run
    again after an interruption, it goes on where it stopped.

    Args:
        gallery: to bring up to date.
        folder: to look below.
        on_progress: called with (done, total) pictures as they are encoded.

    Raises:
        GalleryError: `folder` is not a folder, or holds no picture at all although the gallery has
            some from it (an unplugged disk looks like that; nothing is removed).
        FingerprintMismatch: the gallery's codes are of another model.
    """
    root = os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111 (links stay)
    if not os.path.isdir(root):  # noqa: PTH112
        raise GalleryError(f"{printable(root)}: not a folder")
    report = SyncReport()
    scan = _scan(root, report)
    known = {state.path: (key, state) for key, state in gallery.files(root).items()}
    if known and not scan.states:
        raise GalleryError(
            f"{printable(root)}: no picture found, but the gallery holds {len(known)} from there; "
            "nothing was removed (is the disk mounted?)"
        )
    gone = {
        path: entry
        for path, entry in known.items()
        if os.fsdecode(path) not in scan.states
        and printable(path) not in report.failed
        and not os.fsdecode(path).startswith(tuple(scan.unlisted))
    }
    by_content = {state.content: key for key, state in gone.values()}
    todo = []
    for path, state in scan.states.items():
        entry = known.get(os.fsencode(path))
        if entry is not None and (entry[1].size, entry[1].mtime_ns) == state:
            report.unchanged += 1
        else:
            todo.append(path)
    for start in range(0, len(todo), _COMMIT_SIZE):
        batch = todo[start : start + _COMMIT_SIZE]
        _store(gallery, batch, scan, known, by_content, report)
        if on_progress is not None:
            on_progress(start + len(batch), len(todo))
    moved_from = {old for old, _ in report.moved}
    report.removed = [key for key, _ in gone.values() if key not in moved_from]
    gallery.remove(*report.removed)
    return report


def _scan(root: str, report: SyncReport) -> _Scan:
    """List the pictures; folders behind links come last, so that most keys are real paths."""
    scan = _Scan()
    visited: set[tuple[int, int]] = set()
    folders, links = [root], deque[str]()
    while folders or links:
        folder = folders.pop() if folders else links.popleft()
        try:
            status = os.stat(folder)  # noqa: PTH116 (surrogates and speed)
            if (status.st_dev, status.st_ino) in visited:
                report.skipped[printable(folder)] = "a link to a folder that is looked at already"
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            report.failed[printable(folder)] = error.strerror or str(error)
            scan.unlisted.append(os.path.join(folder, ""))  # noqa: PTH118
            continue
        below: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else below).append(entry.path)
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110
                    # An unplugged disk looks like this: what was behind it must not be removed.
                    report.failed[printable(entry.path)] = "a link to something that is not there"
                    scan.unlisted.append(os.path.join(entry.path, ""))  # noqa: PTH118
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        scan.states[entry.path] = (status.st_size, status.st_mtime_ns)
            except OSError as error:
                report.failed[printable(entry.path)] = error.strerror or str(error)
                scan.unlisted.append(os.path.join(entry.path, ""))  # noqa: PTH118
        folders += reversed(below)
    return scan


def _digest(path: str) -> bytes | OSError:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError as error:
        return error


def _store(
    gallery: "Gallery",
    batch: list[str],
    scan: _Scan,
    known: dict[bytes, tuple[str, FileState]],
    by_content: dict[bytes, str],
    report: SyncReport,
) -> None:
    """Read, encode and commit some pictures; those whose content is known are not encoded."""
    fresh: list[FileState] = []
    taken: set[str] = set()  # by this batch: two names that are not UTF-8 may print alike
    moves: list[tuple[str, str, FileState | None]] = []
    with ThreadPoolExecutor(available_cores()) as pool:
        digests = list(pool.map(_digest, batch))
    for path, digest in zip(batch, digests, strict=True):
        key, raw = printable(path), os.fsencode(path)
        if isinstance(digest, OSError):
            report.failed[key] = digest.strerror or str(digest)
            continue
        state = FileState(raw, *scan.states[path], digest)
        if raw in known:
            if known[raw][1].content == digest:  # touched, not changed
                moves.append((known[raw][0], known[raw][0], state))
                report.unchanged += 1
            else:
                fresh.append(state)
        elif key in gallery or key in taken:
            report.failed[key] = "the gallery holds another item under this key"
        elif digest in by_content:
            old_key = by_content.pop(digest)
            moves.append((old_key, key, state))
            report.moved.append((old_key, key))
            taken.add(key)
        else:
            fresh.append(state)
            taken.add(key)
    gallery.move(*moves)
    encoded = gallery.encoder.encode([os.fsdecode(state.path) for state in fresh])
    items = []
    for row, state in enumerate(fresh):
        name = printable(state.path)
        if row in encoded.errors:
            report.failed[name] = str(encoded.errors[row]).removeprefix(f"{name}: ")
            continue
        is_update = state.path in known
        key = known[state.path][0] if is_update else name
        metadata = gallery.get(key).metadata if is_update else {}
        items.append(Item(key, encoded.codes[row], metadata, state))
        (report.updated if is_update else report.added).append(key)
    gallery.upsert(items)
