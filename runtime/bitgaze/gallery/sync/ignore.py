"""Ignore: files named .bitgazeignore, which hide images in the syntax of gitignore."""

import os
from typing import Any

from bitgaze.encoding.images import printable
from bitgaze.errors import GalleryError

NAME = ".bitgazeignore"


class IgnoreFiles:
    """The .bitgazeignore files of the folders that have been read.

    As with gitignore, the last pattern that matches decides, those of an inner folder after those
    of an outer one; and what is in a hidden folder stays hidden.
    """

    def __init__(self) -> None:
        self._specs: dict[str, Any] = {}
        self._hidden: dict[str, bool] = {}

    def read(self, folder: str) -> None:
        """Read the file of a folder.

        Raises:
            GalleryError: it cannot be read, or pathspec is not installed.
        """
        path = os.path.join(folder, NAME)  # noqa: PTH118
        try:
            from pathspec import GitIgnoreSpec
        except ImportError as error:
            raise GalleryError(
                f"{printable(path)}: requires pathspec; run: pip install 'bitgaze[ignore]'"
            ) from error
        try:
            # Windows' Notepad writes a byte order mark, which would hide the first pattern.
            with open(path, encoding="utf-8-sig") as file:  # noqa: PTH123
                self._specs[folder] = GitIgnoreSpec.from_lines(file)
        except OSError as error:
            raise GalleryError(f"{printable(path)}: {error.strerror}") from error
        except ValueError as error:
            raise GalleryError(f"{printable(path)}: {error}") from error

    def hides(self, path: str, root: str, *, is_folder: bool = False) -> bool:
        """Whether a file or folder is hidden, or one that contains it.

        Args:
            path: below the root.
            root: the folder that is synced.
            is_folder: what the path is.
        """
        if not self._specs or path == root:
            return False
        if is_folder and path in self._hidden:
            return self._hidden[path]
        folder = os.path.dirname(path)  # noqa: PTH120
        hidden = self.hides(folder, root, is_folder=True) or self._matches(
            path, folder, root, is_folder
        )
        if is_folder:
            self._hidden[path] = hidden
        return hidden

    def _matches(self, path: str, folder: str, root: str, is_folder: bool) -> bool:
        while True:
            if folder in self._specs:
                relative = os.path.relpath(path, folder).replace(os.sep, "/")
                include = self._specs[folder].check_file(relative + "/" * is_folder).include
                if include is not None:
                    return bool(include)
            if folder == root or len(folder) < len(root):
                return False
            folder = os.path.dirname(folder)  # noqa: PTH120
