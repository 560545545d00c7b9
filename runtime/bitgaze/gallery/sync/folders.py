"""The images below folders, found without opening one.

Knows names, links and file states. Does not know galleries, nor what is in a file.
"""

import os
import stat
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bitgaze.encoding.images import SUFFIXES, printable
from bitgaze.gallery.sync.patterns import Choice

# Size, mtime_ns and ctime_ns. Without ctime, two images of one size and time, out of one archive,
# could change places unnoticed.
State = tuple[int, int, int]

_SUFFIXES = tuple(SUFFIXES)


@dataclass
class Scan:
    """What was found.

    Attributes:
        states: path to state of each image.
        failed: path as text to reason, of what could not be looked at.
        skipped: path as text to reason, of links to what is looked at already.
        unlisted: beginnings of paths; what lies there is not known.
    """

    states: dict[str, State] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)


def find_roots(folders: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The folders as absolute paths: a folder before the one that it lies in, links last.

    So the order in which they are given changes no key and no relative path.

    Raises:
        NotADirectoryError: one is not a folder; its `filename` is the path as text.
        ValueError: there is none.
    """
    if not folders:
        raise ValueError("no folder given")
    # abspath, not resolve: keys keep the names that links have.
    roots = [os.path.abspath(os.path.expanduser(folder)) for folder in folders]  # noqa: PTH100, PTH111
    for root in roots:
        if not os.path.isdir(root):  # noqa: PTH112
            is_file = os.path.exists(root)  # noqa: PTH110
            what = (
                " but a file; name the folder that it is in"
                if is_file
                else ": there is nothing of that name"
            )
            raise NotADirectoryError(20, f"not a folder{what}", printable(root))
    depth = {root: len(Path(root).parts) for root in roots}
    return sorted(depth, key=lambda root: (os.path.islink(root), -depth[root]))  # noqa: PTH114


def scan(roots: Iterable[str], choice: Choice) -> Scan:
    """List the images below folders, as `find_roots` gives them.

    A folder, and an image behind a link, is looked at once; what is behind links comes last, so
    that most paths are real ones.
    """
    walk = _Walk(choice)
    folders = [(root, "") for root in roots][::-1]
    while folders or walk.linked_folders:
        folder, prefix = folders.pop() if folders else walk.linked_folders.popleft()
        folders += reversed(walk.list_folder(folder, prefix))
    for path in walk.linked_files:
        walk.look_at_linked(path)
    return walk.found


class _Walk:
    """A scan on its way; `prefix` is a folder's relative path with a "/", or nothing for a root."""

    def __init__(self, choice: Choice) -> None:
        self.found = Scan()
        self.linked_folders = deque[tuple[str, str]]()
        self.linked_files: list[str] = []
        self._choice = choice
        self._folders: dict[tuple[int, int], str] = {}
        self._files: set[tuple[int, int]] = set()

    def list_folder(self, folder: str, prefix: str) -> list[tuple[str, str]]:
        """Look at what is in a folder, and give the folders and prefixes of those in it."""
        try:
            status = os.stat(folder)  # noqa: PTH116 (surrogates and speed)
            identity = (status.st_dev, status.st_ino)
            if identity in self._folders:
                if self._folders[identity] != folder:  # else given, and in another that is given
                    self._skip(folder, "a folder")
                return []
            self._folders[identity] = folder
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            self._fail(folder, error.strerror or str(error))
            return []
        below: list[tuple[str, str]] = []
        for entry in entries:
            try:
                self._look_at(entry, prefix + entry.name, below)
            except OSError as error:
                self._fail(entry.path, error.strerror or str(error))
        return below

    def look_at_linked(self, path: str) -> None:
        """Take the image behind a link, unless it was taken already."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError as error:
            self._fail(path, error.strerror or str(error))
            return
        if (status.st_dev, status.st_ino) in self._files:
            self._skip(path, "an image")
        else:
            self._take(path, status)

    def _look_at(
        self, entry: "os.DirEntry[str]", relative: str, below: list[tuple[str, str]]
    ) -> None:
        is_link = entry.is_symlink()
        if entry.is_dir():
            if self._choice.enters(relative):
                listed = self.linked_folders if is_link else below
                listed.append((entry.path, f"{relative}/"))
        elif is_link and not os.path.exists(entry.path):  # noqa: PTH110
            if self._choice.enters(relative):
                # An unplugged disk looks like this: what was behind it must not be removed.
                self._fail(entry.path, "a link to something that is not there")
        elif entry.name.lower().endswith(_SUFFIXES) and self._choice.takes(relative):
            if is_link:
                self.linked_files.append(entry.path)
            else:
                self._take(entry.path, entry.stat())

    def _take(self, path: str, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self._fail(path, "not a file but a pipe, a socket or a device")
            return
        self.found.states[path] = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self._files.add((status.st_dev, status.st_ino))

    def _skip(self, path: str, kind: str) -> None:
        self.found.skipped[printable(path)] = f"a link to {kind} that is looked at already"

    def _fail(self, path: str, reason: str) -> None:
        self.found.failed[printable(path)] = reason
        # It may be a folder: what a gallery has from there must not be taken for gone.
        self.found.unlisted.append(os.path.join(path, ""))  # noqa: PTH118
