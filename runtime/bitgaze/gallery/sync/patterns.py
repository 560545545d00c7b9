"""Patterns: select images by name and relative path, without looking at the disk."""

import fnmatch
import re
from collections.abc import Iterable


class PathFilter:
    """Include and exclude patterns, applied to paths relative to the folder that is synced.

    Hidden files and folders, whose names start with a dot, are never accepted. `Gallery.sync`
    describes patterns.

    Args:
        include: patterns; only images that match one are accepted. Empty: all are.
        exclude: patterns; images that match one are not accepted.

    Raises:
        TypeError: a single string instead of several, or a pattern that is not a string.
        ValueError: an empty pattern.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include = _compiled(include, "include")
        self._exclude = _compiled(exclude, "exclude")
        # (included, excluded) of folders, by relative path.
        self._folders: dict[str, tuple[bool, bool]] = {"": (self._include is None, False)}

    def accepts(self, relative: str) -> bool:
        """Whether to include the image at this relative path (separated by "/")."""
        included, excluded = self._match(relative)
        return included and not excluded

    def descends_into(self, relative: str) -> bool:
        """Whether the folder at this relative path can hold images that are accepted."""
        return not self._match(relative)[1]

    def _match(self, relative: str) -> tuple[bool, bool]:
        """Whether include and exclude patterns match a path or a folder that contains it."""
        folder, _, name = relative.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._match(folder)
        included, excluded = self._folders[folder]
        if not included:
            included = _matches(self._include, relative, name)
        if not excluded:
            excluded = name.startswith(".") or _matches(self._exclude, relative, name)
        return included, excluded


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
