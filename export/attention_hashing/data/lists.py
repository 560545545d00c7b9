"""List files of images, as published with hashing methods: `path 0 1 0 ...`, a line an image.

Knows the format in which NUS-WIDE, MS-COCO and ImageNet-100 are passed around since HashNet: paths
relative to the folder of the list, then a column for each class. Opens no image.
"""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.errors import DataError
from bitgaze.images import SUFFIXES

TRAIN, TEST, DATABASE = "train.txt", "test.txt", "database.txt"
CLASSES = "classes.txt"

# A path may have spaces: it ends with the last word that ends as an image's name does.
_ENDINGS = "|".join(sorted(suffix[1:] for suffix in SUFFIXES))
_LINE = re.compile(rf"(\S.*\.(?:{_ENDINGS}))\s+(.*)", re.IGNORECASE)


class Listed(NamedTuple):
    """The images of a list, in its order.

    Attributes:
        paths: of n images.
        one_hot: bool (n, classes), true where an image has the label; at least one each.
        classes: names, by column.
    """

    paths: list[Path]
    one_hot: NDArray[np.bool_]
    classes: tuple[str, ...]


def is_list(path: Path) -> bool:
    """Whether there is a file whose first line is one of a list, or that has no line at all."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in map(str.strip, file) if line), None)
    return first is None or _LINE.fullmatch(first) is not None


def read(path: Path, root: Path | None = None) -> Listed:
    """The images of a list that have a label.

    Images without one, and lines that repeat another, are left out; stderr tells how many. The
    classes have the names in classes.txt beside the list, one a line, or else "0", "1", ...

    Args:
        path: of the list.
        root: what the paths in the list are relative to; the folder of the list if left out.

    Raises:
        DataError: no such file, no image with a label, or a line that cannot be right.
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
            raise DataError(f"{where}: {len(values)} columns, the lines before have {columns}")
        image = Path(os.path.normpath(root / name))
        row = "".join(values)
        if (before := rows.get(image)) is not None:
            if before != row:
                raise DataError(f"{where}: {name} has a line already, with other labels")
            repeated += 1
            continue
        if not image.is_file():
            raise DataError(f"{where}: there is no file {image}")
        unlabelled += "1" not in row
        rows[image] = row
    paths = [image for image, row in rows.items() if "1" in row]
    if not paths:
        raise DataError(f"{path}: no image with a label in it")
    for count, what in ((unlabelled, "have no label"), (repeated, "repeat another")):
        if count:
            print(f"{path}: {count} lines {what}, and are left out", file=sys.stderr)
    digits = np.frombuffer("".join(rows[p] for p in paths).encode(), np.uint8)
    one_hot = digits.reshape(len(paths), columns) == ord("1")
    return Listed(paths, one_hot, _classes(path.parent / CLASSES, columns))


def _classes(path: Path, columns: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(column) for column in range(columns))
    names = tuple(name for _, name in _lines(path))
    if len(names) != columns:
        raise DataError(f"{path}: {len(names)} classes, but the lists beside it have {columns}")
    if len(set(names)) < columns:
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}: {twice!r} is there twice")
    return names


def _lines(path: Path) -> list[tuple[int, str]]:
    """Those that are not empty, and their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text in UTF-8 ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    # Not splitlines(), which also parts at characters that a file name may have.
    lines = ((number, line.strip()) for number, line in enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if line]


def labels(one_hot: NDArray[np.bool_]) -> NDArray[np.int64] | NDArray[np.bool_]:
    """As levels.Labels has them: positions (n,) where every image has one label, else `one_hot`."""
    return one_hot.argmax(1) if (one_hot.sum(1) == 1).all() else one_hot
