"""Folders: find the image files below them, without opening any."""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitgaze.encoding.images import SUFFIXES, printable
from bitgaze.gallery.sync.patterns import PathFilter

# Size, mtime_ns and ctime_ns. Without ctime, two images of equal size and time, from one archive,
# could be swapped unnoticed.
State = tuple[int, int, int]

_SUFFIXES = tuple(SUFFIXES)
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1


def file_state(size: int, mtime_ns: int, ctime_ns: int) -> State:
    """The state to store: times outside the years 1677 to 2262 become the nearest inside.

    Network shares and archives hold such times. A gallery has 64 bits for each.
    """
    return size, min(max(mtime_ns, _MIN_NS), _MAX_NS), min(max(ctime_ns, _MIN_NS), _MAX_NS)


@dataclass
class Scan:
    """Result of `scan`.

    Attributes:
        states: path to state of each image.
        failed: path as text to reason, for what could not be read.
        skipped: path as text to reason, for links to folders and images found elsewhere.
        unlisted: prefixes of paths below which the images are unknown.
    """

    states: dict[str, State] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def reason(error: Exception) -> str:
    """Why a file or folder cannot be read, as text."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def find_roots(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The folders as absolute paths, in the order to scan them: inner folders first, links last.

    With this order, keys and relative paths do not depend on the order of the arguments.

    Raises:
        NotADirectoryError: one is not a folder; its `filename` is the path as text.
        ValueError: no folder is given.
    """
    if not folders:
        raise ValueError("no folder given; pass at least one")
    # abspath, not resolve: keys keep the names of links.
    roots = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]  # noqa: PTH100, PTH111
    for root in roots:
        if not os.path.isdir(root):  # noqa: PTH112
            problem = (
                "not a folder but a file; pass the folder that contains it"
                if os.path.exists(root)  # noqa: PTH110
                else "not a folder: no such file or folder"
            )
            raise NotADirectoryError(errno.ENOTDIR, problem, printable(root))
    depth = {root: len(Path(root).parts) for root in roots}
    return sorted(depth, key=lambda root: (os.path.islink(root), -depth[root]))  # noqa: PTH114


def scan(roots: Iterable[str], path_filter: PathFilter) -> Scan:
    """Lists the images below the folders from `find_roots`.

    Follows links, but visits each folder and each image once. Links are followed last, so that most
    paths contain no link.
    """
    walk = _Walk(path_filter)
    folders = [(root, "") for root in roots][::-1]
    while folders or walk.linked_folders:
        folder, prefix = folders.pop() if folders else walk.linked_folders.popleft()
        folders += reversed(walk.list_folder(folder, prefix))
    for path in walk.linked_files:
        walk.visit_linked_file(path)
    return walk.found


class _Walk:
    """A scan in progress. `prefix` is a folder's relative path with a "/", or "" for a root."""

    def __init__(self, path_filter: PathFilter) -> None:
        self.found = Scan()
        self.linked_folders = deque[tuple[str, str]]()
        self.linked_files: list[str] = []
        self._filter = path_filter
        self._folders: dict[tuple[int, int], str] = {}
        self._files: set[tuple[int, int]] = set()

    def list_folder(self, folder: str, prefix: str) -> list[tuple[str, str]]:
        """Visits the entries of a folder; returns its subfolders with their prefixes."""
        try:
            status = os.stat(folder)  # noqa: PTH116 (surrogates and speed)
            identity = (status.st_dev, status.st_ino)
            if identity in self._folders:
                if self._folders[identity] != folder:  # or an argument inside another one
                    self._skip(folder, "a folder")
                return []
            self._folders[identity] = folder
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except Exception as error:
            self._fail(folder, reason(error))
            return []
        subfolders: list[tuple[str, str]] = []
        for entry in entries:
            try:
                self._visit(entry, prefix + entry.name, subfolders)
            except Exception as error:  # whatever one file does, the others are indexed
                self._fail(entry.path, reason(error))
        return subfolders

    def visit_linked_file(self, path: str) -> None:
        """Adds the image behind a link, unless the scan has found it elsewhere."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except Exception as error:
            self._fail(path, reason(error))
            return
        if (status.st_dev, status.st_ino) in self._files:
            self._skip(path, "an image")
        else:
            self._add(path, status)

    def _visit(
        self, entry: "os.DirEntry[str]", relative: str, subfolders: list[tuple[str, str]]
    ) -> None:
        is_link = entry.is_symlink()
        if entry.is_dir():
            if self._filter.descends_into(relative):
                folders = self.linked_folders if is_link else subfolders
                folders.append((entry.path, f"{relative}/"))
        elif is_link and not os.path.exists(entry.path):  # noqa: PTH110
            if self._filter.descends_into(relative):
                # It may lead to an unmounted disk, whose images must not be removed.
                self._fail(entry.path, "broken link: its target does not exist")
        elif entry.name.lower().endswith(_SUFFIXES) and self._filter.accepts(relative):
            if is_link:
                self.linked_files.append(entry.path)
            else:
                self._add(entry.path, entry.stat())

    def _add(self, path: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self._fail(path, "not a regular file but a pipe, a socket or a device")
            return
        self.found.states[path] = file_state(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self._files.add((status.st_dev, status.st_ino))

    def _skip(self, path: str, target: str) -> None:
        self.found.skipped[printable(path)] = f"a link to {target} that was found elsewhere"

    def _fail(self, path: str, reason: str) -> None:
        self.found.failed[printable(path)] = reason
        # It may be a folder: the gallery's items from there must not count as missing.
        self.found.unlisted.append(os.path.join(path, ""))  # noqa: PTH118
