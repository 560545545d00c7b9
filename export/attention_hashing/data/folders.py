"""Image files in folders, and the labels that folder names or a labels.csv give them.

Opens no image, and needs no torch: evaluate.py runs without it.
"""

import csv
from pathlib import Path

from bitgaze.images import SUFFIXES

LABELS = "labels.csv"


def pictures_below(folder: Path) -> list[Path]:
    """Every picture file in a folder and its folders, by name; empty if there is none."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)


def read(folder: Path) -> dict[Path, tuple[str, ...]]:
    """Pictures and the names of their labels.

    Args:
        folder: holds one folder per class, pictures inside; or a file labels.csv with one line for
            each picture, `path,label,label,...`, the path from the folder on.

    Raises:
        ValueError: no folder, no pictures, or a line of labels.csv that cannot be right.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: not a folder")
    folder = folder.resolve()
    table = folder / LABELS
    if table.exists():
        found = _read_table(table)
    else:
        paths = sorted(p for p in folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
        found = {path: (path.parent.name,) for path in paths}
    if not found:
        raise ValueError(f"{folder}: no pictures in class folders, and none named by a {LABELS}")
    return found


def _read_table(table: Path) -> dict[Path, tuple[str, ...]]:
    found: dict[Path, tuple[str, ...]] = {}
    try:
        rows = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines(), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: not a table in UTF-8 ({error})") from error
    for line, row in enumerate(rows, start=1):
        name, *labels = (cell.strip() for cell in row) if row else ("",)
        path = (table.parent / name).resolve()
        if not any(row):
            continue
        if not labels or not all(labels):
            raise ValueError(f"{table}, line {line}: expected path,label,label,... found {row}")
        if not path.is_file():
            raise ValueError(f"{table}, line {line}: there is no file {path}")
        if path in found:
            raise ValueError(f"{table}, line {line}: {name} has a line already; put labels in one")
        found[path] = tuple(labels)
    return found
