"""Folders: find the image files below them, without opening any."""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bitgaze.encoding.formats import OTHER_SUFFIXES, SUFFIXES
from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError
from bitgaze.gallery.sync.ignore import NAME, IgnoreFiles
from bitgaze.gallery.sync.patterns import PathFilter

# Size, mtime_ns and ctime_ns. Without ctime, two images of equal size and time, from one archive,
# could be swapped unnoticed.
State = tuple[int, int, int]

_SUFFIXES, _OTHER_SUFFIXES = tuple(SUFFIXES), tuple(OTHER_SUFFIXES)
_MIN_NS, _MAX_NS = -(2**63), 2**63 - 1
# How often folders are listed that change while they are.
_MOST_LISTINGS = 3


def file_state(size: int, mtime_ns: int, ctime_ns: int) -> State:
    """The state to store: times outside the years 1677 to 2262 become the nearest inside.

    Network shares and archives hold such times. A gallery has 64 bits for each.
    """
    return size, min(max(mtime_ns, _MIN_NS), _MAX_NS), min(max(ctime_ns, _MIN_NS), _MAX_NS)


# Device and inode number.
Identity = tuple[int, int]


@dataclass
class Known:
    """What a gallery knows of the folders to scan, so that each image keeps one name.

    Attributes:
        paths: of images of items, outside of the folders to scan.
        names: real path to path, for the folders of these images.
        folders: paths of folders that hold images of other items.
        own: real paths of the gallery's own files.
        items: paths of images of all items.
    """

    paths: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    own: set[str] = field(default_factory=set)
    items: Container[str] = ()


@dataclass
class Scan:
    """Result of `scan`.

    Attributes:
        states: path to state of each image.
        failed: path as text to reason, for what could not be read.
        skipped: path as text to reason, for further names of folders and images.
        others: path as text to extension, of images in formats that bitgaze does not read.
        unlisted: prefixes of paths below which the images are unknown.
        folders: path to each folder that was listed, and its modification time from before that.
        system_folders: number of system folders that were left out.
        ignore: the .bitgazeignore files of the folders.
    """

    states: dict[str, State] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    unlisted: list[str] = field(default_factory=list)
    folders: dict[str, tuple["_Folder", int | None]] = field(default_factory=dict)
    system_folders: int = 0
    ignore: IgnoreFiles = field(default_factory=IgnoreFiles)

    def arrivals(self, path_filter: PathFilter) -> dict[str, set[int] | None]:
        """What has entered the folders since they were listed, as images that are renamed do.

        Args:
            path_filter: of the scan.

        Returns:
            Path of a folder to the sizes of images that have entered it; to None if what has is not
            known: a folder, a broken link, or a folder that cannot be listed.
        """
        arrived: dict[str, set[int] | None] = {}
        for _ in range(_MOST_LISTINGS):
            listed = [(*one, _mtime_ns(path)) for path, one in self.folders.items()]
            changed = [(folder, now) for folder, before, now in listed if now != before]
            for folder, now in changed:
                self.folders[folder.path] = folder, now
                sizes = self._arrived(folder, path_filter)
                before = arrived.get(folder.path, set())
                if sizes is None or before is None:
                    arrived[folder.path] = None
                elif sizes:
                    arrived[folder.path] = before | sizes
            if not changed:
                break
        return arrived

    def _arrived(self, folder: "_Folder", path_filter: PathFilter) -> set[int] | None:
        sizes: set[int] = set()
        try:
            with os.scandir(folder.path) as entries:
                for entry in entries:
                    relative, path = folder.prefix + entry.name, entry.path
                    if printable(path) in self.skipped or printable(path) in self.failed:
                        continue
                    if entry.is_dir() or (entry.is_symlink() and not os.path.exists(path)):  # noqa: PTH110
                        is_new = path not in self.folders and path_filter.descends_into(relative)
                        if is_new and not self.ignore.hides(path, folder.root, is_folder=True):
                            return None
                    elif _is_image(entry.name) and path_filter.accepts(relative):
                        with suppress(FileNotFoundError):  # gone again
                            status = os.stat(path)  # noqa: PTH116
                            state = file_state(
                                status.st_size, status.st_mtime_ns, status.st_ctime_ns
                            )
                            if self.states.get(path) != state:
                                sizes.add(status.st_size)
        except (FileNotFoundError, NotADirectoryError):  # it is gone, with what was in it
            return sizes
        except OSError:
            return None
        return sizes


def reason(error: Exception) -> str:
    """Why a file or folder cannot be read, as text."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def absolute(folder: str | os.PathLike[str]) -> str:
    """A folder's absolute path, with ~ expanded. Links stay: keys keep their names."""
    return os.path.abspath(os.path.expanduser(folder))  # noqa: PTH100, PTH111


def is_gone(folder: str) -> bool:
    """Whether there is nothing of this name, or a link or mount that leads nowhere."""
    return not os.path.exists(folder)  # noqa: PTH110


def find_roots(
    folders: Sequence[str | os.PathLike[str]], known: Callable[[str], bool] = lambda root: False
) -> list[str]:
    """The folders as absolute paths, in the order to scan them: inner folders first, links last.

    With this order, keys and relative paths do not depend on the order of the arguments.

    Args:
        folders: to scan.
        known: whether a folder that is gone may have been one before. It is then among the result,
            if another folder exists.

    Raises:
        NotADirectoryError: one is not a folder; its `filename` is the path as text.
        ValueError: no folder is given.
    """
    if not folders:
        raise ValueError("no folder given; pass at least one")
    roots = [absolute(folder) for folder in folders]
    gone = [root for root in roots if is_gone(root)]
    unknown = gone if len(gone) == len(roots) else [root for root in gone if not known(root)]
    for root in unknown:
        problem = "not a folder: no such file or folder"
        raise NotADirectoryError(errno.ENOTDIR, problem, printable(root))
    for root in roots:
        if root not in gone and not os.path.isdir(root):  # noqa: PTH112
            problem = "not a folder but a file; pass the folder that contains it"
            raise NotADirectoryError(errno.ENOTDIR, problem, printable(root))
    depth = {root: len(Path(root).parts) for root in roots}
    return sorted(depth, key=lambda root: (os.path.islink(root), -depth[root]))  # noqa: PTH114


def scan(roots: Iterable[str], path_filter: PathFilter, known: Known) -> Scan:
    """List the images below the folders from `find_roots`.

    Follows links, but visits each folder and each image once, whatever its names: links, bind
    mounts and hard links. Links are followed last, so that most paths contain no link.
    """
    walk = _Walk(path_filter, known)
    folders = [_Folder(root, "", os.path.realpath(root), root) for root in roots][::-1]
    while folders or walk.linked_folders:
        folder = folders.pop() if folders else walk.linked_folders.popleft()
        folders += reversed(walk.list_folder(folder))
    for path in walk.linked_files:
        walk.visit_linked_file(path)
    return walk.found


class _Folder(NamedTuple):
    """A folder to visit; `prefix` is its relative path with a "/", or "" for a root."""

    path: str
    prefix: str
    real: str
    root: str


class _Walk:
    """A scan in progress."""

    def __init__(self, path_filter: PathFilter, known: Known) -> None:
        self.found = Scan()
        self.linked_folders = deque[_Folder]()
        self.linked_files: list[str] = []
        self._filter = path_filter
        self._known = known
        self._own: set[Identity] = set()
        for path in known.own:
            with suppress(OSError):  # another process may remove a log at any time
                self._own.add(_identity(os.stat(path)))  # noqa: PTH116
        # Path of each visited folder, by its real path; and its real path by its identity.
        self._folders: dict[str, str] = {}
        self._reals: dict[Identity, str] = {}
        # Images with several hard links, and those behind links.
        self._hard_links: dict[Identity, str] = {}
        self._linked: set[str] = set()

    def list_folder(self, folder: _Folder) -> list[_Folder]:
        """Visit the entries of a folder; return its subfolders."""
        path, real = folder.path, folder.real
        try:
            status = os.stat(path)  # noqa: PTH116 (surrogates and speed)
            identity = _identity(status)
            if self._folders.get(real) == path:  # an argument inside another one
                return []
            other = self._reals.setdefault(identity, real)
            if real in self._folders or (other != real and _is_same(identity, real, other)):
                self._skip(path, "a link to a folder that was found elsewhere")
                return []
            self._folders[real] = path
            name = self._known.names.get(real, path)
            if name != path and path not in self._known.folders:
                self._skip(path, f"the gallery holds this folder as {printable(name)}")
                return []
            self.found.folders[path] = folder, status.st_mtime_ns
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
            if any(entry.name == NAME for entry in entries):
                self.found.ignore.read(path)
        except GalleryError:
            raise
        except Exception as error:
            self._fail(path, reason(error))
            return []
        subfolders: list[_Folder] = []
        for entry in entries:
            try:
                self._visit(entry, folder, status, subfolders)
            except Exception as error:  # whatever one file does, the others are indexed
                self._fail(entry.path, reason(error))
        return subfolders

    def visit_linked_file(self, path: str) -> None:
        """Add the image behind a link, unless it is found or known under another name."""
        try:
            status = os.stat(path)  # noqa: PTH116
            folder, name = os.path.split(real := os.path.realpath(path))
            found = os.path.join(self._folders.get(folder, folder), name)  # noqa: PTH118
            known = self._known.names.get(folder)
            if real in self._linked or found in self.found.states:
                self._skip(path, "a link to an image that was found elsewhere")
            elif known and os.path.join(known, name) in self._known.paths:  # noqa: PTH118
                self._skip(path, f"the gallery holds this image in {printable(known)}")
            else:
                self._linked.add(real)
                self._add(path, status, os.stat(folder))  # noqa: PTH116
        except Exception as error:
            self._fail(path, reason(error))

    def _visit(
        self,
        entry: "os.DirEntry[str]",
        folder: _Folder,
        folder_status: os.stat_result,
        subfolders: list[_Folder],
    ) -> None:
        relative = folder.prefix + entry.name
        is_link = entry.is_symlink()
        if entry.is_dir():
            self.found.system_folders += self._filter.is_system(relative)
            if not self._filter.descends_into(relative) or self.found.ignore.hides(
                entry.path, folder.root, is_folder=True
            ):
                return
            if is_link:
                real = os.path.realpath(entry.path)
                self.linked_folders.append(_Folder(entry.path, f"{relative}/", real, folder.root))
            else:
                real = os.path.join(folder.real, entry.name)  # noqa: PTH118
                subfolders.append(_Folder(entry.path, f"{relative}/", real, folder.root))
        elif is_link and not os.path.exists(entry.path):  # noqa: PTH110
            if self._filter.descends_into(relative):
                # It may lead to an unmounted disk, whose images must not be removed.
                self._fail(entry.path, "broken link: its target does not exist")
        elif (
            entry.name.lower().endswith(_SUFFIXES + _OTHER_SUFFIXES)
            and self._filter.accepts(relative)
            and not self.found.ignore.hides(entry.path, folder.root)
        ):
            if not _is_image(entry.name):
                self.found.others[printable(entry.path)] = Path(entry.name).suffix.lower()
            elif is_link:
                self.linked_files.append(entry.path)
            else:
                self._add(entry.path, entry.stat(), folder_status)

    def _add(self, path: str, status: os.stat_result, folder: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            self._fail(path, "not a regular file but a pipe, a socket or a device")
            return
        identity = _identity(status)
        # Some network file systems have no inode numbers, or one for all.
        is_trusted = status.st_ino not in (0, folder.st_ino)
        if identity in self._own and (is_trusted or os.path.realpath(path) in self._known.own):
            self._skip(path, "the gallery's own file")
            return
        state = file_state(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if status.st_nlink > 1 and is_trusted:
            other = self._hard_links.setdefault(identity, path)
            if other != path and self.found.states[other] == state:
                if other in self._known.items or path not in self._known.items:
                    self._skip(path, f"a hard link to {printable(other)}")
                    return
                self._hard_links[identity] = path  # the name of the item stays
                del self.found.states[other]
                self._skip(other, f"a hard link to {printable(path)}")
        self.found.states[path] = state

    def _skip(self, path: str, reason: str) -> None:
        self.found.skipped[printable(path)] = reason

    def _fail(self, path: str, reason: str) -> None:
        self.found.failed[printable(path)] = reason
        # It may be a folder: the gallery's items from there must not count as missing.
        self.found.unlisted.append(os.path.join(path, ""))  # noqa: PTH118


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _mtime_ns(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns  # noqa: PTH116
    except OSError:
        return None


def _identity(status: os.stat_result) -> Identity:
    return status.st_dev, status.st_ino


def _is_same(identity: Identity, real: str, other: str) -> bool:
    """Whether two folders of one identity are one, as with bind mounts.

    Some network file systems have no inode numbers, or one for all.
    """
    return (
        identity[1] != 0
        and identity != _identity(os.stat(os.path.dirname(real)))  # noqa: PTH116, PTH120
        and sorted(os.listdir(real)) == sorted(os.listdir(other))  # noqa: PTH208
    )
