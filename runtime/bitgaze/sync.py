"""Folder to gallery, incremental: only what is new, changed, renamed or gone is touched.

Knows files. Decoding and encoding are the encoder's work, storage the gallery's.
"""

import os
import stat
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bitgaze.cores import available_cores
from bitgaze.errors import GalleryError
from bitgaze.images import SUFFIXES, printable
from bitgaze.items import FileState, Item, content_digest

if TYPE_CHECKING:
    from bitgaze.gallery import Gallery

# Pictures per commit: a few seconds of work at most are lost when the process is killed.
_COMMIT_SIZE = 64

_KEY_TAKEN = "the gallery holds another item under this key"


@dataclass
class SyncReport:
    """What a sync did. Every list is of paths as text, in order.

    Attributes:
        added: new pictures.
        updated: pictures whose content had changed.
        moved: (old, new) where a picture was renamed, its item with it; found by content, not
            encoded again.
        removed: pictures that are no longer there, under any name.
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
    """The pictures below a folder, path to state; folders that could not be listed.

    A state is (size, mtime_ns, ctime_ns). Without ctime, two pictures of one size and time, out of
    one archive, could change places unnoticed.
    """

    states: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)

    def file_state(self, path: str, digest: bytes) -> FileState:
        return FileState(os.fsencode(path), *self.states[path], digest)


class _Known(NamedTuple):
    """An item that sync made, as the gallery held it when the folder was scanned."""

    key: str
    file: FileState


def sync(
    gallery: "Gallery",
    folder: str | os.PathLike[str],
    *,
    allow_empty: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> SyncReport:
    """Make a gallery match the pictures below a folder.

    A picture is a file whose name ends in one of `bitgaze.images.SUFFIXES`; names that begin with a
    dot are left out. Its key is its absolute path as text. Links to folders are followed, each
    folder once. Items added by hand, and those of other folders, stay as they are.

    Files whose size and times (modification and change) are as before are not opened; those whose
    content is as before are not encoded. An item follows its picture to another name, also when
    pictures change places; where a file became another picture, its item keeps the metadata.

    Work is committed every few pictures; run again after an interruption, it goes on where it
    stopped. Others may write to the gallery meanwhile.

    Args:
        gallery: to bring up to date.
        folder: to look below.
        allow_empty: the folder may hold no picture at all; then every item from it is removed.
        on_progress: called with (done, total) pictures as they are encoded.

    Raises:
        GalleryError: `folder` is not a folder, or holds no picture at all although the gallery has
            some from it (an unplugged disk looks like that; nothing is removed without
            `allow_empty`).
        FingerprintMismatch: a picture is to be encoded, and the gallery's codes are of another
            model.
    """
    root = os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111 (links stay)
    if not os.path.isdir(root):  # noqa: PTH112
        raise GalleryError(f"{printable(root)}: not a folder")
    report = SyncReport()
    scan = _scan(root, report)
    known = {os.fsdecode(file.path): _Known(key, file) for key, file in gallery.files(root).items()}
    if known and not scan.states and not allow_empty:
        raise GalleryError(
            f"{printable(root)}: no picture found, but the gallery holds {len(known)} from there; "
            "nothing was removed (is the disk mounted?); to remove them, allow an empty folder "
            "(allow_empty=True, or --allow-empty)"
        )
    todo = [
        path
        for path, state in scan.states.items()
        if path not in known or _state(known[path].file) != state
    ]
    report.unchanged = len(scan.states) - len(todo)
    gone = [
        path
        for path in known
        if path not in scan.states
        and printable(path) not in report.failed
        and not path.startswith(tuple(scan.unlisted))
    ]
    # What is gone comes first: of two equal pictures, it is the one that was renamed.
    loose = {path: known[path] for path in [*gone, *(path for path in todo if path in known)]}
    digests: dict[str, bytes] = {}
    if loose:
        sizes = {old.file.size for old in loose.values()}
        candidates = [path for path in todo if scan.states[path][0] in sizes]
        digests = _digests(candidates, report)
        unreadable = set(candidates).difference(digests)
        loose = {path: old for path, old in loose.items() if path not in unreadable}
        settled = _follow(gallery, loose, scan, digests, report) | unreadable
        todo = [path for path in todo if path not in settled]
    for start in range(0, len(todo), _COMMIT_SIZE):
        batch = todo[start : start + _COMMIT_SIZE]
        wanted = [path for path in batch if not _is_key_taken(gallery, path, report)]
        new_digests = _digests([path for path in wanted if path not in digests], report)
        found = {path: digests.get(path) or new_digests.get(path) for path in wanted}
        _encode(
            gallery,
            [scan.file_state(path, digest) for path, digest in found.items() if digest],
            report,
        )
        if on_progress is not None:
            on_progress(start + len(batch), len(todo))
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
                        scan.states[entry.path] = (
                            status.st_size,
                            status.st_mtime_ns,
                            status.st_ctime_ns,
                        )
                    else:
                        report.failed[printable(entry.path)] = (
                            "not a file but a pipe, a socket or a device"
                        )
            except OSError as error:
                report.failed[printable(entry.path)] = error.strerror or str(error)
                scan.unlisted.append(os.path.join(entry.path, ""))  # noqa: PTH118
        folders += reversed(below)
    return scan


def _digest(path: str) -> bytes | OSError:
    try:
        return content_digest(path)
    except OSError as error:
        return error


def _digests(paths: list[str], report: SyncReport) -> dict[str, bytes]:
    """Path to digest; what cannot be read goes to the report instead."""
    digests: dict[str, bytes] = {}
    with ThreadPoolExecutor(available_cores()) as pool:
        for path, digest in zip(paths, pool.map(_digest, paths), strict=True):
            if isinstance(digest, OSError):
                report.failed[printable(path)] = digest.strerror or str(digest)
            else:
                digests[path] = digest
    return digests


def _follow(
    gallery: "Gallery",
    loose: dict[str, _Known],
    scan: _Scan,
    digests: dict[str, bytes],
    report: SyncReport,
) -> set[str]:
    """Take items to where their pictures are now, and remove those whose picture is nowhere.

    Args:
        gallery: to bring up to date.
        loose: old path to item, of the files that are gone or not as before.
        scan: of the folder.
        digests: path to digest, of every file that may hold one of their pictures.
        report: to fill.

    Returns:
        The paths that need nothing more.
    """
    with gallery.transaction():
        # An item that another process has changed since is in line with its file already.
        loose = {path: old for path, old in loose.items() if _is_held(gallery, path, old)}
        # New path to old path. What was touched, but not changed, stays where it is.
        came_from = {p: p for p, d in digests.items() if p in loose and loose[p].file.content == d}
        report.unchanged += len(came_from)
        homeless: dict[bytes, list[str]] = {}
        for path, old in reversed(loose.items()):
            if path not in came_from:
                homeless.setdefault(old.file.content, []).append(path)
        moves = [(loose[p].key, loose[p].key, scan.file_state(p, digests[p])) for p in came_from]
        new_keys = {key for key, _, _ in moves}
        refused: set[str] = set()
        for path, digest in digests.items():
            is_done = path not in loose and gallery.item_of_file(path) is not None
            if path in came_from or is_done or not homeless.get(digest):
                continue
            old_path = homeless[digest][-1]
            old_key = loose[old_path].key
            # A key of one's own stays.
            key = printable(path) if old_key == printable(old_path) else old_key
            is_taken = key in gallery and gallery.get(key).path not in (path, old_path)
            if is_taken or key in new_keys:
                report.failed[printable(path)] = _KEY_TAKEN
                refused.add(path)
                continue
            came_from[path] = homeless[digest].pop()
            new_keys.add(key)
            moves.append((old_key, key, scan.file_state(path, digest)))
            report.moved.append((printable(old_path), printable(path)))
        leave = set(loose).difference(came_from.values())
        stay = {digests[path] for path in refused}  # until the new keys are free
        report.removed = [
            old.key
            for path, old in loose.items()
            if path in leave
            and (path in came_from or (path not in scan.states and old.file.content not in stay))
        ]
        gallery.remove(*report.removed)
        gallery.move(*moves)
    return refused.union(came_from)


def _state(file: FileState) -> tuple[int, int, int]:
    return file.size, file.mtime_ns, file.ctime_ns


def _is_held(gallery: "Gallery", path: str, known: _Known) -> bool:
    item = gallery.item_of_file(path)
    return item is not None and (item.key, item.file) == known


def _is_key_taken(gallery: "Gallery", path: str, report: SyncReport) -> bool:
    """Whether a new picture's key is another item's, which the report then says."""
    is_taken = gallery.item_of_file(path) is None and printable(path) in gallery
    if is_taken:
        report.failed[printable(path)] = _KEY_TAKEN
    return is_taken


def _encode(gallery: "Gallery", files: list[FileState], report: SyncReport) -> None:
    """Encode and commit some pictures, as new ones or in place of what their files were before."""
    if not files:
        return
    encoded = gallery.encoder.encode([os.fsdecode(file.path) for file in files])
    with gallery.transaction():
        encoded = gallery.adapted(encoded)  # as the gallery is now, not as it was
        for row, file in enumerate(files):
            path, name = os.fsdecode(file.path), printable(file.path)
            if row in encoded.errors:
                report.failed[name] = str(encoded.errors[row]).removeprefix(f"{name}: ")
                continue
            if _is_key_taken(gallery, path, report):
                continue
            held = gallery.item_of_file(path)
            if held is None:
                gallery.upsert([Item(name, encoded.codes[row], {}, file)])
                report.added.append(name)
                continue
            gallery.upsert([Item(held.key, encoded.codes[row], held.metadata, file)])
            if held.file is not None and held.file.content == file.content:
                report.unchanged += 1  # another process has encoded it meanwhile
            else:
                report.updated.append(held.key)
