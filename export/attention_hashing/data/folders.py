"""Image files with labels from folder names, a table (CSV), a list, or an annotations.tsv.

Opens no image and does not import torch: evaluate.py runs without it.
"""

import csv
from pathlib import Path

from attention_hashing.data import annotations, lists
from attention_hashing.data.errors import DataError
from bitgaze.encoding.formats import SUFFIXES

LABELS = "labels.csv"
_TABLE, _LIST = ".csv", ".txt"


def class_folders(root: Path) -> dict[Path, str]:
    """Images and the names of their classes: one folder per class, images at any depth inside.

    Training and evaluation both read class folders here, so they see the same images.

    Returns:
        In order of class, then of path; empty if there is no image.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return {path: folder.name for folder in folders for path in _images(folder)}


def is_table(place: Path) -> bool:
    """Whether this is a table to read: a file whose name ends in .csv."""
    return place.suffix.lower() == _TABLE and place.is_file()


def is_list(place: Path) -> bool:
    """Whether this is a list to read: a file whose name ends in .txt."""
    return place.suffix.lower() == _LIST and place.is_file()


def images_below(folder: Path) -> list[Path]:
    """All image files below a folder, at any depth, sorted by path.

    Raises:
        DataError: there are none.
    """
    if not (found := _images(folder)):
        raise DataError(f"{folder}: contains no images")
    return found


def read(folder: Path) -> dict[Path, tuple[str, ...]]:
    """Images and the names of their labels.

    Args:
        folder: contains one folder per class; or a file labels.csv with one line per image,
            `path,label,label,...`, where the path is relative to the table; or an annotations.tsv
            (annotations.py). Or such a table itself, by any name ending in .csv; or a list
            (lists.py), by any name ending in .txt.

    Raises:
        DataError: the folder does not exist, contains no images, or has its classes inside train/;
            or the table, list or annotations.tsv has an invalid line.
    """
    if is_table(folder):
        found = _read_table(folder.resolve())
        if not found:
            raise DataError(f"{folder}: lists no image")
        return found
    if is_list(folder):
        listed = lists.read(folder)
        return dict(zip(listed.paths, listed.names(), strict=True))
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder, nor a table (.csv) or list (.txt) of images")
    folder = folder.resolve()
    table = folder / LABELS
    if table.exists():
        found = _read_table(table)
    elif (folder / annotations.ANNOTATIONS).is_file():
        annotated = annotations.read(folder)
        found = dict(zip(annotated.paths, annotated.labels, strict=True))
    else:
        train = folder / "train"
        if train.is_dir() and not any(path.suffix.lower() in SUFFIXES for path in train.iterdir()):
            raise DataError(f"{folder}: the classes are inside {train.name}/; name that folder")
        found = {path: (name,) for path, name in class_folders(folder).items()}
    if not found:
        raise DataError(f"{folder}: contains no class folders with images, and no {LABELS}")
    return found


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _read_table(table: Path) -> dict[Path, tuple[str, ...]]:
    found: dict[Path, tuple[str, ...]] = {}
    try:
        rows = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: not a CSV file in UTF-8 ({error})") from error
    for line, row in enumerate(rows, start=1):
        name, *labels = (cell.strip() for cell in row) if row else ("",)
        path = (table.parent / name).resolve()
        where = f"{table}, line {line}"
        if not any(row):
            continue
        if not found and path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{where}: {name!r} is no image; if this is a heading, delete it")
        if not labels or not all(labels) or len(set(labels)) < len(labels):
            raise DataError(f"{where}: expected path,label,label,..., found {row}")
        if not path.is_file():
            raise DataError(f"{where}: {path} does not exist")
        if path in found:
            raise DataError(f"{where}: {name} is listed twice; put all its labels in one line")
        found[path] = tuple(labels)
    if found and all(len(labels) > 1 and {*labels} <= {"0", "1"} for labels in found.values()):
        raise DataError(
            f"{table}: has columns of 0 and 1, expected names of labels; a list of columns has "
            "blanks between them, and a name ending in .txt"
        )
    return found
