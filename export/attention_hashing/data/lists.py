"""Lists of images as published with hashing methods: one line `path 0 1 0 ...` per image.

NUS-WIDE, MS-COCO and ImageNet-100 have been passed around in this format since HashNet: a path
relative to the list's folder, then one column per class. Opens no image.
"""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.errors import DataError
from bitgaze.encoding.formats import SUFFIXES

TRAIN, TEST, DATABASE = "train.txt", "test.txt", "database.txt"
CLASSES = "classes.txt"

# A path may contain spaces: it ends with the last word that has an image suffix.
_ENDINGS = "|".join(sorted(suffix[1:] for suffix in SUFFIXES))
_LINE = re.compile(rf"(\S.*\.(?:{_ENDINGS}))\s+(.*)", re.IGNORECASE)


class Listed(NamedTuple):
    """The images of a list, in its order.

    Attributes:
        paths: of n images.
        one_hot: bool (n, classes), true where an image has the label; every image has one.
        classes: names of the columns.
    """

    paths: list[Path]
    one_hot: NDArray[np.bool_]
    classes: tuple[str, ...]


def is_list(path: Path) -> bool:
    """Whether a file exists and is empty or begins with a line of a list."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in map(str.strip, file) if line), None)
    return first is None or _LINE.fullmatch(first) is not None


def read(path: Path, root: Path | None = None) -> Listed:
    """Read the labelled images of a list.

    Images without a label and repeated lines are skipped; their number goes to stderr. Class names
    come from a classes.txt next to the list, one per line; otherwise they are "0", "1", ...

    Args:
        path: of the list.
        root: folder that paths in the list are relative to; the list's own folder by default.

    Raises:
        DataError: the file does not exist, has no labelled image, or has an invalid line.
    """
    root = (path.parent if root is None else root).resolve()
    rows: dict[Path, str] = {}
    columns, unlabelled, repeated = 0, 0, 0
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(f"{where}: expected `image.jpg 0 1 ...`, found {line!r}")
        name, values = match[1], match[2].split()
        for column, value in enumerate(values, start=1):
            if value not in ("0", "1"):
                raise DataError(f"{where}: column {column} is {value!r}, expected 0 or 1")
        columns = columns or len(values)
        if len(values) != columns:
            raise DataError(
                f"{where}: {len(values)} columns, expected {columns} as in the lines before"
            )
        image = Path(os.path.normpath(root / name))
        row = "".join(values)
        if (before := rows.get(image)) is not None:
            if before != row:
                raise DataError(f"{where}: {name} is listed twice, with different labels")
            repeated += 1
            continue
        if not image.is_file():
            raise DataError(f"{where}: {image} does not exist")
        unlabelled += "1" not in row
        rows[image] = row
    paths = [image for image, row in rows.items() if "1" in row]
    if not paths:
        raise DataError(f"{path}: no image has a label")
    for count, what in ((unlabelled, "without a label"), (repeated, "that repeat another")):
        if count:
            print(f"{path}: skipped {count} lines {what}", file=sys.stderr)
    digits = np.frombuffer("".join(rows[p] for p in paths).encode(), np.uint8)
    one_hot = digits.reshape(len(paths), columns) == ord("1")
    return Listed(paths, one_hot, _classes(path.parent / CLASSES, columns))


def _classes(path: Path, columns: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(column) for column in range(columns))
    names = tuple(name for _, name in _lines(path))
    if len(names) != columns:
        raise DataError(
            f"{path}: {len(names)} classes, but the lists in this folder have {columns}"
        )
    if len(set(names)) < columns:
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {twice!r} is listed twice")
    return names


def _lines(path: Path) -> list[tuple[int, str]]:
    """Line numbers, from 1, and lines that are not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8 ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    # Not splitlines(): it also splits at characters that a file name may contain.
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def labels(one_hot: NDArray[np.bool_]) -> NDArray[np.int64] | NDArray[np.bool_]:
    """As `labels.Labels`: positions (n,) if every image has one label, otherwise `one_hot`."""
    return one_hot.argmax(1) if (one_hot.sum(1) == 1).all() else one_hot
