"""Patterns: select images by name and relative path, without looking at the disk."""

import fnmatch
import re
from collections.abc import Iterable
from typing import NamedTuple

# Folders in which systems and programs keep thumbnails, deleted files and their own data: Synology,
# QNAP, Windows, macOS, Linux, Syncthing, Lightroom.
SYSTEM_FOLDERS = (
    "@eaDir",
    "#recycle",
    "#snapshot",
    "@Recycle",
    "@Recently-Snapshot",
    ".@__thumb",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "__MACOSX",
    ".Trash*",
    "lost+found",
    ".stfolder*",
    ".stversions",
    ".thumbnails",
    "*.lrdata",
)
# Folders of photo libraries: of what is in them, only the originals are taken.
LIBRARIES = ("*.photoslibrary", "*.migratedphotolibrary", "*.aplibrary")
ORIGINALS = ("originals", "masters")


class _Folder(NamedTuple):
    """How patterns match a folder or one that contains it."""

    included: bool
    excluded: bool
    is_system: bool
    is_library: bool


class PathFilter:
    """Include and exclude patterns, applied to paths relative to the folder that is synced.

    Hidden files and folders, whose names start with a dot, are never accepted. `Gallery.sync`
    describes patterns.

    Args:
        include: patterns; only images that match one are accepted. Empty: all are.
        exclude: patterns; images that match one are not accepted.
        all_folders: accept `SYSTEM_FOLDERS`, hidden or not, and all of `LIBRARIES`.

    Raises:
        TypeError: a single string instead of several, or a pattern that is not a string.
        ValueError: an empty pattern.
    """

    def __init__(
        self, include: Iterable[str], exclude: Iterable[str], *, all_folders: bool = False
    ) -> None:
        self._include = _compiled(include, "include")
        self._exclude = _compiled(exclude, "exclude")
        self._all_folders = all_folders
        # By relative path.
        self._folders = {"": _Folder(self._include is None, False, False, False)}

    def accepts(self, relative: str) -> bool:
        """Whether to include the image at this relative path (separated by "/")."""
        path, _, name = relative.rpartition("/")
        folder = self._folder(path)
        if folder.excluded or folder.is_library or name.startswith("."):
            return False
        included = folder.included or _matches(self._include, relative, name)
        return included and not _matches(self._exclude, relative, name)

    def descends_into(self, relative: str) -> bool:
        """Whether the folder at this relative path can hold images that are accepted."""
        return not self._folder(relative).excluded

    def is_system(self, relative: str) -> bool:
        """Whether the folder at this relative path is left out because a system made it."""
        return self._folder(relative).is_system

    def _folder(self, relative: str) -> _Folder:
        found = self._folders.get(relative)
        if found is None:
            found = self._folders[relative] = self._match(relative)
        return found

    def _match(self, relative: str) -> _Folder:
        path, _, name = relative.rpartition("/")
        parent = self._folder(path)
        is_known = _SYSTEM.match(name) is not None
        is_system = not self._all_folders and (
            is_known or (parent.is_library and name.lower() not in ORIGINALS)
        )
        is_hidden = name.startswith(".") and not (is_known and self._all_folders)
        return _Folder(
            included=parent.included or _matches(self._include, relative, name),
            excluded=parent.excluded
            or is_hidden
            or is_system
            or _matches(self._exclude, relative, name),
            is_system=parent.is_system or is_system,
            is_library=not self._all_folders and _LIBRARY.match(name) is not None,
        )


class PathPattern:
    """One pattern for whole paths, as `Gallery.forget` describes it.

    Args:
        pattern: for names, or with a "/" for paths or their ends.

    Raises:
        TypeError: the pattern is not a string.
        ValueError: the pattern is empty.
    """

    def __init__(self, pattern: str) -> None:
        patterns = [pattern]
        if "/" in pattern.rstrip("/"):
            patterns.append(f"*/{pattern.lstrip('/')}")
        self._compiled = _compiled(patterns, "pattern")
        self._folders: dict[str, bool] = {"": False}

    def matches(self, path: str) -> bool:
        """Whether the pattern matches an absolute path, separated by "/", or a folder of it."""
        if path not in self._folders:
            folder, _, name = path.rpartition("/")
            self._folders[path] = self.matches(folder) or _matches(self._compiled, path, name)
        return self._folders[path]


# Patterns for names, and patterns for relative paths.
_Compiled = tuple[re.Pattern[str], re.Pattern[str]]


def _compiled(patterns: Iterable[str], argument: str) -> _Compiled | None:
    if isinstance(patterns, str):
        raise TypeError(f"{argument} must be a list of patterns, got a str: [{patterns!r}]")
    trimmed: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{argument}: patterns must be str, got {type(pattern).__name__}")
        if not pattern.strip("/"):
            raise ValueError(
                f"{argument}: {pattern!r} matches nothing; use '*' to match all images"
            )
        trimmed.append(pattern.rstrip("/"))
    if not trimmed:
        return None
    for_names = [pattern for pattern in trimmed if "/" not in pattern]
    for_paths = [pattern for pattern in trimmed if "/" in pattern]
    return _joined(for_names), _joined(for_paths)


def _joined(patterns: list[str]) -> re.Pattern[str]:
    match_nothing = "(?!)"
    return re.compile("|".join(map(fnmatch.translate, patterns)) or match_nothing, re.IGNORECASE)


def _matches(patterns: _Compiled | None, relative: str, name: str) -> bool:
    if patterns is None:
        return False
    names, paths = patterns
    found = names.match(name) or paths.match(relative) or paths.match(f"/{relative}")
    return found is not None


_SYSTEM, _LIBRARY = _joined(list(SYSTEM_FOLDERS)), _joined(list(LIBRARIES))
