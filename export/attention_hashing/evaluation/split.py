"""Labelled image files to measure a model on, and which of them are the queries.

Knows files and names of labels. Does not open images, and needs no torch: what is measured is a
model file, with the runtime alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data import lists
from attention_hashing.data.errors import DataError
from attention_hashing.data.folders import read
from attention_hashing.data.labels import Labels


@dataclass(frozen=True)
class Split:
    """Images with labels, some of them queries, the others the database.

    Attributes:
        paths: of n images.
        labels: int64 (n,) where every image has one label, else bool (n, classes).
        classes: names of the labels; sorted, or by column of the lists.
        queries: positions among the n.
        database: the other positions.
    """

    paths: list[Path]
    labels: Labels
    classes: tuple[str, ...]
    queries: NDArray[np.intp]
    database: NDArray[np.intp]

    def shared(self) -> int:
        """How many queries have, byte by byte, a file of the database; reads every file."""
        digests = [_digest(path) for path in self.paths]
        stored = {digests[position] for position in self.database}
        return sum(digests[position] in stored for position in self.queries)


def drawn(folder: Path, count: int, seed: int) -> Split:
    """Some images of a folder, drawn by a seed, are queries; all others are the database.

    Args:
        folder: as `folders.read` takes it.
        count: of queries, at most; and at most half.
        seed: of the draw.

    Raises:
        DataError: as `folders.read`.
    """
    images = read(folder)
    order = np.random.default_rng(seed).permutation(len(images))
    queries, database = np.split(order, [min(count, len(images) // 2)])
    return Split(list(images), *_labels(list(images.values())), queries, database)


def given(folder: Path, queries: Path) -> Split:
    """Every image of one folder is a query; those of the other are the database.

    Raises:
        DataError: as `folders.read`; or an image is in both.
    """
    stored, asked = read(folder), read(queries)
    if both := stored.keys() & asked.keys():
        raise DataError(f"{min(both)} is a query and in the database: keep the folders apart")
    labels, classes = _labels([*stored.values(), *asked.values()])
    positions = np.arange(len(stored) + len(asked))
    database, found = np.split(positions, [len(stored)])
    return Split([*stored, *asked], labels, classes, found, database)


def listed(folder: Path) -> Split | None:
    """The split that two lists in a folder make (lists.py), or None where there are none.

    Those of test.txt are the queries, those of database.txt the database.

    Raises:
        DataError: as `lists.read`; one list without the other; or an image is in both.
    """
    asked, stored = folder / lists.TEST, folder / lists.DATABASE
    found = [path for path in (asked, stored) if lists.is_list(path)]
    if not found:
        return None
    if len(found) == 1:
        raise DataError(f"{found[0]}: it takes both {lists.TEST} and {lists.DATABASE}")
    queries, database = lists.read(asked), lists.read(stored)
    if both := set(queries.paths) & set(database.paths):
        raise DataError(f"{min(both)} is a query and in the database: keep the lists apart")
    if len(queries.classes) != len(database.classes):
        raise DataError(
            f"{asked} has {len(queries.classes)} columns, {stored} {len(database.classes)}"
        )
    return Split(
        queries.paths + database.paths,
        lists.labels(np.concatenate([queries.one_hot, database.one_hot])),
        queries.classes,
        *np.split(np.arange(len(queries.paths) + len(database.paths)), [len(queries.paths)]),
    )


def _labels(names: list[tuple[str, ...]]) -> tuple[Labels, tuple[str, ...]]:
    classes = tuple(sorted({name for several in names for name in several}))
    position = {name: place for place, name in enumerate(classes)}
    if all(len(several) == 1 for several in names):
        return np.array([position[name] for (name,) in names], np.int64), classes
    one_hot = np.zeros((len(names), len(classes)), bool)
    for row, several in enumerate(names):
        one_hot[row, [position[name] for name in several]] = True
    return one_hot, classes


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
