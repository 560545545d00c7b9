"""Patterns that choose images by name and path.

Knows texts. Does not look at the disk (folders.py does).
"""

import fnmatch
import re
from collections.abc import Iterable


class Choice:
    """Which images are looked at, by paths relative to the folder.

    Hidden ones are not: a name on the way begins with a dot. A pattern matches an image if it
    matches the image or a folder on the way to it: by its name or, if there is a "/" in the
    pattern, by its relative path, with or without a "/" before it. `*` stands for any characters,
    also "/"; `?` for one; `[abc]` for one of these. Case is ignored, and so is a "/" at the end.

    Args:
        include: images that match none of these are left out; no pattern: none is.
        exclude: images that match one of these are left out.

    Raises:
        TypeError: a single text instead of several patterns, or a pattern that is no text.
        ValueError: an empty pattern.
    """

    def __init__(self, include: Iterable[str], exclude: Iterable[str]) -> None:
        self._include = _compiled(include, "include")
        self._exclude = _compiled(exclude, "exclude")
        # Included, excluded: of folders, by relative path.
        self._folders: dict[str, tuple[bool, bool]] = {"": (self._include is None, False)}

    def takes(self, relative: str) -> bool:
        """Whether the image at this relative path, with "/", is looked at."""
        included, excluded = self._verdict(relative)
        return included and not excluded

    def enters(self, relative: str) -> bool:
        """Whether any image below the folder at this relative path can be looked at."""
        return not self._verdict(relative)[1]

    def _verdict(self, relative: str) -> tuple[bool, bool]:
        folder, _, name = relative.rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = self._verdict(folder)
        included, excluded = self._folders[folder]
        if not included:
            included = _matches(self._include, relative, name)
        if not excluded:
            excluded = name.startswith(".") or _matches(self._exclude, relative, name)
        return included, excluded


# For names, for paths.
_Compiled = tuple[re.Pattern[str], re.Pattern[str]]


def _compiled(patterns: Iterable[str], argument: str) -> _Compiled | None:
    if isinstance(patterns, str):
        raise TypeError(f"{argument} takes several patterns; put a single one into a list")
    trimmed: list[str] = []
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"{argument}: a pattern is a str, not {type(pattern).__name__}")
        if not pattern.strip("/"):
            raise ValueError(f"{argument}: {pattern!r} is no pattern; everything is '*'")
        trimmed.append(pattern.rstrip("/"))
    if not trimmed:
        return None
    for_names = [pattern for pattern in trimmed if "/" not in pattern]
    for_paths = [pattern for pattern in trimmed if "/" in pattern]
    return _joined(for_names), _joined(for_paths)


def _joined(patterns: list[str]) -> re.Pattern[str]:
    nothing = "(?!)"
    return re.compile("|".join(map(fnmatch.translate, patterns)) or nothing, re.IGNORECASE)


def _matches(patterns: _Compiled | None, relative: str, name: str) -> bool:
    if patterns is None:
        return False
    names, paths = patterns
    found = names.match(name) or paths.match(relative) or paths.match(f"/{relative}")
    return found is not None
