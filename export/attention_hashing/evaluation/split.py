"""Labelled image files to evaluate a model on, split into queries and database.

Opens no image and does not import torch: evaluation needs a model file and the runtime alone.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data import lists
from attention_hashing.data.errors import DataError
from attention_hashing.data.folders import read
from attention_hashing.data.labels import Labels, of_names


@dataclass(frozen=True)
class Split:
    """Labelled images, divided into queries and database.

    Attributes:
        paths: of n images.
        labels: int64 (n,) if every image has one label, otherwise bool (n, classes).
        classes: names of the labels; sorted, or in the order of the lists' columns.
        queries: positions among the n.
        database: the other positions.
    """

    paths: list[Path]
    labels: Labels
    classes: tuple[str, ...]
    queries: NDArray[np.intp]
    database: NDArray[np.intp]

    def shared(self) -> int:
        """Number of queries whose file is also in the database, byte by byte; reads all files."""
        digests = [_digest(path) for path in self.paths]
        stored = {digests[position] for position in self.database}
        return sum(digests[position] in stored for position in self.queries)


def drawn(folder: Path, count: int, seed: int) -> Split:
    """Draw queries from the images of a folder; the others are the database.

    Args:
        folder: as for `folders.read`, which also reads a list or table.
        count: maximum number of queries; they are never more than half of the images.
        seed: of the draw.

    Raises:
        DataError: as for `folders.read`.
    """
    images = read(folder)
    order = np.random.default_rng(seed).permutation(len(images))
    queries, database = np.split(order, [min(count, len(images) // 2)])
    return Split(list(images), *of_names(list(images.values())), queries, database)


def given(folder: Path, queries: Path) -> Split:
    """Use all images of one folder as the database and all of another as queries.

    Raises:
        DataError: as for `folders.read`; or an image is in both.
    """
    stored, sought = read(folder), read(queries)
    if both := stored.keys() & sought.keys():
        raise DataError(f"{min(both)} is a query and in the database: the folders must not overlap")
    labels, classes = of_names([*stored.values(), *sought.values()])
    positions = np.arange(len(stored) + len(sought))
    database, found = np.split(positions, [len(stored)])
    return Split([*stored, *sought], labels, classes, found, database)


def listed(folder: Path) -> Split | None:
    """The split that lists in a folder define; None if there are none.

    test.txt lists the queries, database.txt the database.

    Raises:
        DataError: as for `lists.read`; or one of the lists is missing, or an image is in both.
    """
    test, stored = folder / lists.TEST, folder / lists.DATABASE
    found = [path for path in (test, stored) if lists.is_list(path)]
    if not found:
        return None
    if len(found) == 1:
        raise DataError(f"{found[0]}: both {lists.TEST} and {lists.DATABASE} are required")
    queries, database = lists.read(test), lists.read(stored)
    if both := set(queries.paths) & set(database.paths):
        raise DataError(f"{min(both)} is a query and in the database: the lists must not overlap")
    paths = queries.paths + database.paths
    positions = np.split(np.arange(len(paths)), [len(queries.paths)])
    if not (queries.has_columns or database.has_columns):
        return Split(paths, *of_names(queries.names() + database.names()), *positions)
    if len(queries.classes) != len(database.classes):
        raise DataError(
            f"{test} has {len(queries.classes)} columns, {stored} {len(database.classes)}"
        )
    one_hot = np.concatenate([queries.one_hot, database.one_hot])
    return Split(paths, lists.labels(one_hot), queries.classes, *positions)


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
