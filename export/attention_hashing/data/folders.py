"""Image files in folders, with labels from folder names, a labels.csv or an annotations.tsv.

Opens no image and does not import torch: evaluate.py runs without it.
"""

import csv
from pathlib import Path

from attention_hashing.data import annotations
from attention_hashing.data.errors import DataError
from bitgaze.encoding.formats import SUFFIXES

LABELS = "labels.csv"


def class_folders(root: Path) -> dict[Path, str]:
    """Images and the names of their classes: one folder per class, images at any depth inside.

    Training and evaluation both read class folders here, so they see the same images.

    Returns:
        In order of class, then of path; empty if there is no image.
    """
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    return {path: folder.name for folder in folders for path in _images(folder)}


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
            `path,label,label,...`, where the path is relative to the folder; or an
            annotations.tsv (annotations.py).

    Raises:
        DataError: the folder does not exist, contains no images, or has its classes inside train/;
            or labels.csv or annotations.tsv has an invalid line.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder")
    folder = folder.resolve()
    table = folder / LABELS
    if table.exists():
        found = _read_table(table)
    elif (folder / annotations.ANNOTATIONS).is_file():
        listed = annotations.read(folder)
        found = dict(zip(listed.paths, listed.labels, strict=True))
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
        if not any(row):
            continue
        if not labels or not all(labels):
            raise DataError(f"{table}, line {line}: expected path,label,label,..., found {row}")
        if not path.is_file():
            raise DataError(f"{table}, line {line}: {path} does not exist")
        if path in found:
            raise DataError(
                f"{table}, line {line}: {name} is listed twice; put all its labels in one line"
            )
        found[path] = tuple(labels)
    return found
