"""Lists of labelled images: one line per image, its path, then its labels in one of three forms.

    cats/1.jpg cat            names of its labels; several with commas, as in cat,old town
    cats/1.jpg 281            numbers of its classes, as in ImageNet's lists; several with commas
    cats/1.jpg 0 1 0          a column of 0 or 1 for each class

The last has been passed around with NUS-WIDE, MS-COCO and ImageNet-100 since HashNet. Paths are
relative to the list's folder. Opens no image.
"""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.errors import DataError
from attention_hashing.data.labels import in_order
from bitgaze.encoding.formats import SUFFIXES

TRAIN, TEST, DATABASE = "train.txt", "test.txt", "database.txt"
CLASSES = "classes.txt"

# A path may contain spaces: it ends with the last word that has an image suffix.
_ENDINGS = "|".join(sorted(suffix[1:] for suffix in SUFFIXES))
_HEADING = "; if this is a heading, delete it"
_LINE = re.compile(rf"(\S.*\.(?:{_ENDINGS}))\s+(.*)", re.IGNORECASE)


class Listed(NamedTuple):
    """The images of a list, in its order.

    Attributes:
        paths: of n images.
        one_hot: bool (n, classes), true where an image has the label; every image has one.
        classes: names of the columns.
        has_columns: whether the list has a column for each class, even one without images.
    """

    paths: list[Path]
    one_hot: NDArray[np.bool_]
    classes: tuple[str, ...]
    has_columns: bool

    def names(self) -> list[tuple[str, ...]]:
        """The names of each image's labels."""
        return [tuple(self.classes[at] for at in np.flatnonzero(row)) for row in self.one_hot]


def is_list(path: Path) -> bool:
    """Whether a file exists and is empty or begins with a line of a list."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in map(str.strip, file) if line), None)
    return first is None or _LINE.fullmatch(first) is not None


def read(path: Path, root: Path | None = None) -> Listed:
    """Read the labelled images of a list.

    Images without a label and repeated lines are skipped; their number goes to stderr. The classes
    come from a classes.txt next to the list, one per line; otherwise they are those that occur, or
    "0", "1", ... for columns.

    Args:
        path: of the list.
        root: folder that paths in the list are relative to; the list's own folder by default.

    Raises:
        DataError: the file does not exist, has no labelled image, has an invalid line or lines of
            different forms, or classes.txt does not name its classes.
    """
    rows, form = _rows(path, (path.parent if root is None else root).resolve())
    if form is not None and form.columns:
        labelled = {image: row for image, row in rows.items() if "1" in row.cells}
        _report_skipped(path, len(rows) - len(labelled), "without a label")
        rows = labelled
    if form is None or not rows:
        raise DataError(f"{path}: no image has a label")
    if form.columns:
        one_hot = np.array([row.cells for row in rows.values()]) == "1"
        return Listed(list(rows), one_hot, _names_of_columns(path, form.columns), True)
    classes, position = _classes(path, list(rows.values()), form)
    one_hot = np.zeros((len(rows), len(classes)), bool)
    for labels_of_image, row in zip(one_hot, rows.values(), strict=True):
        for cell in row.cells:
            if cell not in position:
                raise DataError(f"{row.where}: {path.parent / CLASSES} does not name class {cell}")
            labels_of_image[position[cell]] = True
    return Listed(list(rows), one_hot, classes, False)


class _Row(NamedTuple):
    """Labels of an image: where the list has them, for errors, and what it says."""

    where: str
    cells: list[str]


class _Form(NamedTuple):
    """How a list gives labels: the number of columns, 0 if it names them; whether by numbers."""

    columns: int
    has_numbers: bool


def _rows(path: Path, root: Path) -> tuple[dict[Path, _Row], _Form | None]:
    """The lines by image, and their form; None if there are no lines."""
    rows: dict[Path, _Row] = {}
    form, repeated = None, 0
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        match = _LINE.fullmatch(line)
        if not match:
            raise DataError(
                f"{where}: expected an image and its labels, as in `image.jpg cat` or `image.jpg 0 "
                f"1 ...`, found {line!r}" + _HEADING * (not rows)
            )
        form, cells = _cells(where, match[2], form)
        image = Path(os.path.normpath(root / match[1]))
        if (before := rows.get(image)) is not None:
            if before.cells != cells:
                raise DataError(f"{where}: {match[1]} is listed twice, with different labels")
            repeated += 1
            continue
        if not image.is_file():
            raise DataError(f"{where}: {image} does not exist")
        rows[image] = _Row(where, cells)
    _report_skipped(path, repeated, "that repeat another")
    return rows, form


def _report_skipped(path: Path, count: int, what: str) -> None:
    if count:
        print(f"{path}: skipped {count} lines {what}", file=sys.stderr)


def _cells(where: str, labels: str, form: _Form | None) -> tuple[_Form, list[str]]:
    """The form of the lines, and the cells of one; DataError if it is of another form."""
    columns = labels.split()
    if len(columns) > 1 and all(map(_is_number, columns)):
        for column, value in enumerate(columns, start=1):
            if value not in ("0", "1"):
                raise DataError(
                    f"{where}: column {column} is {value!r}, expected 0 or 1; put commas between "
                    "numbers of classes"
                )
        found, cells = _Form(len(columns), True), columns
    else:
        cells = [" ".join(cell.split()) for cell in labels.split(",")]
        if not all(cells) or len(set(cells)) < len(cells):
            raise DataError(f"{where}: expected different labels between commas, found {labels!r}")
        found = _Form(0, all(map(_is_number, cells)))
        cells = [str(int(cell)) for cell in cells] if found.has_numbers else cells
    if form is None or found == form:
        return found, cells
    if found.columns and form.columns:
        raise DataError(
            f"{where}: {found.columns} columns, expected {form.columns} as in the lines before"
        )
    raise DataError(
        f"{where}: {labels!r} gives {_described(found)}, the lines before {_described(form)}"
    )


def _described(form: _Form) -> str:
    if form.columns:
        return f"{form.columns} columns of 0 and 1"
    return "numbers of classes" if form.has_numbers else "names of labels"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _classes(path: Path, rows: list[_Row], form: _Form) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of the classes, and the position of each label."""
    if not (path.parent / CLASSES).is_file():
        names = in_order({cell for row in rows for cell in row.cells})
        return names, {name: at for at, name in enumerate(names)}
    names = _names(path.parent / CLASSES)
    keys = map(str, range(len(names))) if form.has_numbers else names
    return names, {key: at for at, key in enumerate(keys)}


def _names_of_columns(path: Path, columns: int) -> tuple[str, ...]:
    place = path.parent / CLASSES
    if not place.is_file():
        return tuple(str(column) for column in range(columns))
    names = _names(place)
    if len(names) != columns:
        raise DataError(
            f"{place}: {len(names)} classes, but the lists in this folder have {columns}"
        )
    return names


def _names(place: Path) -> tuple[str, ...]:
    """The lines of a classes.txt."""
    names = tuple(name for _, name in _lines(place))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{place}: {twice!r} is listed twice")
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
