"""The retrieval protocols of the literature, by name: queries, training images, database.

Images are ordered as published: training images, then test images. The positions of each class in
turn are shuffled; the first 100 become queries and the next 500 training images. Then, by name:

    cifar10           database: all others (1,000 / 5,000 / 54,000)
    cifar10-1         database: all but the queries (1,000 / 5,000 / 59,000)
    cifar10-unseen    trained on 500 images of each of 7 classes; the other 3 classes are queries
                      (100 of each) and database (300 / 3,500 / 17,700)

fashion-mnist has the same three, with a larger database: it has 70,000 images.

Images with several labels, of an annotations.tsv, are shuffled as a whole. The first 300 become
queries, the next 800 training images:

    voc2012           database: all but the queries, so training images too (300 / 800 / 1,131)
    voc2012-others    database: images that were not trained on (300 / 800 / 331)

The Grocery Store Dataset is split as published, whatever the seed:

    grocery           81 pictures of products are queries, for photographs of shelves of the same
                      product; trained on photographs of other visits (81 / 1,000 / 800)
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data import annotations, cifar, idx
from attention_hashing.data.errors import DataError
from attention_hashing.data.labelled import Labelled, from_annotations, from_class_folders, numbered

_SETS = {"cifar10": 6000, "fashion-mnist": 7000}  # images per class, of 10 classes
_VARIANTS = ("", "-1", "-unseen")
_OF_SEVERAL_LABELS = {"voc2012": 1431}  # images
_OTHERS = "-others"
_GROCERY = {"iconic": 81, "train": 1000, "test": 800}  # parts, in the order of Protocol
OF_ONE_LABEL = tuple(name + variant for name in _SETS for variant in _VARIANTS)
OF_SEVERAL_LABELS = tuple(
    name + variant for name in _OF_SEVERAL_LABELS for variant in ("", _OTHERS)
)
PROTOCOLS = (*OF_ONE_LABEL, *OF_SEVERAL_LABELS, "grocery")

_QUERIES, _TRAINING = 100, 500  # of each class
_SEEN = 7
_HELD_OUT_CLASSES = 2  # of those seen
_HELD_OUT = 4  # one image in so many
_QUERIES_OF_ALL, _TRAINING_OF_ALL = 300, 800  # where images have several labels
_FORMAT = 1


class Parts(NamedTuple):
    """Positions, ascending within each part."""

    queries: NDArray[np.int64]
    training: NDArray[np.int64]
    database: NDArray[np.int64]


@dataclass(frozen=True)
class Protocol:
    """A split of labelled images, as drawn.

    Attributes:
        name: one of PROTOCOLS.
        seed: of the draw.
        data: all images.
        queries: positions in `data`, ascending; in no other part.
        training: positions in `data`, ascending.
        database: positions in `data`, ascending.
    """

    name: str
    seed: int
    data: Labelled
    queries: NDArray[np.int64]
    training: NDArray[np.int64]
    database: NDArray[np.int64]

    def digest(self) -> str:
        """SHA-256 of the positions, as 64 hex digits."""
        return _digest(Parts(self.queries, self.training, self.database))

    def save(self, path: Path) -> None:
        """Write the split to a JSON file that `load` reads."""
        parts = Parts(self.queries, self.training, self.database)
        state = {
            "format": _FORMAT,
            "name": self.name,
            "seed": self.seed,
            "sha256_of_pictures": self.data.digest(),
            "sha256_of_positions": self.digest(),
            **{part: positions.tolist() for part, positions in parts._asdict().items()},
        }
        path.write_text(json.dumps(state) + "\n", encoding="utf-8")


def images(name: str, folder: Path) -> Labelled:
    """All images of a protocol's data set, in the order that the draw is defined on.

    Args:
        name: one of PROTOCOLS.
        folder: contains CIFAR-10 as published (cifar.py), or train/ and test/ with one folder per
            class (also in a folder cifar10/ below); or the four IDX files of Fashion-MNIST; or an
            annotations.tsv with the images of VOC 2012, or with the parts of grocery.

    Raises:
        DataError: the folder does not contain the complete set.
        ValueError: no such protocol.
    """
    base = _base(name)
    if base in _OF_SEVERAL_LABELS:
        data = from_annotations(annotations.read(folder))
        if len(data) != _OF_SEVERAL_LABELS[base]:
            raise DataError(
                f"{folder}: found {len(data)} images, but {base} has {_OF_SEVERAL_LABELS[base]}; "
                "figures on a part of it are not comparable"
            )
        return data
    if base == "grocery":
        return _grocery(folder)
    data = _cifar10(folder) if base == "cifar10" else _fashion_mnist(folder)
    if (found := data.counts().tolist()) != [_SETS[base]] * 10:
        raise DataError(
            f"{folder}: found {found} images per class, but {base} has {_SETS[base]} in each of "
            "its 10; figures on a part of it are not comparable"
        )
    return data


def training_images(name: str, folder: Path) -> Labelled:
    """The training images of a protocol, as drawn with seed 0.

    Args:
        name: one of PROTOCOLS.
        folder: as for `images`.

    Raises:
        DataError: as `images` and `draw`.
        ValueError: no such protocol.
    """
    data = images(name, folder)
    return data.subset(draw(name, data, seed=0).training).with_present_classes()


def draw(name: str, data: Labelled, seed: int) -> Protocol:
    """Draw a protocol's split.

    Args:
        name: one of PROTOCOLS.
        data: as returned by `images`.
        seed: of the draw.

    Raises:
        DataError: there are too few images, or a class has too few; or images have several classes
            where the draw is by class.
        ValueError: no such protocol.
    """
    base = _base(name)
    if base in _OF_SEVERAL_LABELS:
        return Protocol(name, seed, data, *_drawn_of_all(len(data), seed, name.endswith(_OTHERS)))
    if base == "grocery":
        ends = np.cumsum(list(_GROCERY.values()))
        if len(data) != ends[-1]:
            raise DataError(f"{len(data)} images, but {name} has {ends[-1]}")
        return Protocol(name, seed, data, *Parts(*np.split(np.arange(len(data)), ends[:-1])))
    if data.labels.ndim != 1:
        raise DataError(f"{name} is drawn class by class: each image must have exactly one class")
    counts = data.counts()
    if counts.min() <= _QUERIES + _TRAINING:
        raise DataError(
            f"class {data.classes[int(counts.argmin())]!r} has {counts.min()} images, {name} "
            f"requires more than {_QUERIES + _TRAINING}"
        )
    parts = _drawn(data.labels, len(data.classes), seed, name.removeprefix(base))
    return Protocol(name, seed, data, *parts)


def within_training(protocol: Protocol) -> Protocol:
    """A like protocol of the training images alone, to choose between methods on.

    Of cifar10-unseen and its like, the images of 2 of the 7 classes are held out, of others a
    quarter of the images. Every second of them is a query, the others are the database.

    Args:
        protocol: as drawn.
    """
    rng = np.random.default_rng(protocol.seed)
    training, labels = protocol.training, protocol.data.labels[protocol.training]
    if protocol.name.endswith("-unseen"):
        is_held = np.isin(labels, rng.permutation(np.unique(labels))[:_HELD_OUT_CLASSES])
    else:
        is_held = rng.permutation(len(training)) % _HELD_OUT == 0
    held = rng.permutation(training[is_held])
    queries, database = np.sort(held[::2]), np.sort(held[1::2])
    name = f"{protocol.name}, within training"
    return Protocol(name, protocol.seed, protocol.data, queries, training[~is_held], database)


def load(path: Path, data: Labelled) -> Protocol:
    """Read a split that `Protocol.save` wrote.

    Args:
        path: of the file.
        data: the images it was drawn from, in the same order.

    Raises:
        DataError: `data` differs, or the file is damaged or not a split.
    """
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            raise DataError(f"{path}: has format {state['format']}, this version reads {_FORMAT}")
        parts = Parts(*(np.array(state[part], np.int64) for part in Parts._fields))
        name, seed = str(state["name"]), int(state["seed"])
        digests = (state["sha256_of_positions"], state["sha256_of_pictures"])
    except DataError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise DataError(f"{path}: not a split, or a damaged one ({error!r})") from error
    if _digest(parts) != digests[0]:
        raise DataError(f"{path}: damaged: its positions differ from those that were written")
    if data.digest() != digests[1]:
        raise DataError(f"{path}: a split of other images; use those, or draw a new split")
    return Protocol(name, seed, data, *parts)


def _base(name: str) -> str:
    if name not in PROTOCOLS:
        raise ValueError(f"protocol is {name!r}, expected one of {', '.join(PROTOCOLS)}")
    bases = (*_SETS, *_OF_SEVERAL_LABELS, "grocery")
    return next(base for base in bases if name.startswith(base))


def _drawn(labels: NDArray[np.int64], classes: int, seed: int, variant: str) -> Parts:
    rng = np.random.default_rng(seed)
    seen = set(range(classes))
    if variant == "-unseen":
        seen = set(rng.permutation(classes)[:_SEEN].tolist())
    parts: tuple[list[NDArray[np.int64]], ...] = ([], [], [])
    queries, training, database = parts
    for label in range(classes):
        order = rng.permutation(np.flatnonzero(labels == label))
        if variant == "-unseen" and label in seen:
            training.append(order[:_TRAINING])
        elif variant == "-unseen":
            queries.append(order[:_QUERIES])
            database.append(order[_QUERIES:])
        else:
            queries.append(order[:_QUERIES])
            training.append(order[_QUERIES : _QUERIES + _TRAINING])
            database.append(order[_QUERIES if variant == "-1" else _QUERIES + _TRAINING :])
    return Parts(*(np.sort(np.concatenate(part)) for part in parts))


def _drawn_of_all(count: int, seed: int, of_others: bool) -> Parts:
    least = _QUERIES_OF_ALL + _TRAINING_OF_ALL
    if count <= least:
        raise DataError(f"{count} images, expected more than {least}")
    order = np.random.default_rng(seed).permutation(count)
    queries, training, others = np.split(order, [_QUERIES_OF_ALL, least])
    database = others if of_others else np.concatenate([training, others])
    return Parts(np.sort(queries), np.sort(training), np.sort(database))


def _digest(parts: Parts) -> str:
    digest = hashlib.sha256()
    for positions in parts:
        digest.update(len(positions).to_bytes(8, "little"))
        digest.update(positions.astype("<i8").tobytes())
    return digest.hexdigest()


def _cifar10(folder: Path) -> Labelled:
    if place := cifar.find(folder):
        values, labels, classes = cifar.read(place)
        more_values, more_labels, _ = cifar.read(place, "test")
        return Labelled(
            np.concatenate([values, more_values]), np.concatenate([labels, more_labels]), classes
        )
    for root in (folder, folder / "cifar10"):
        if (root / "train").is_dir() and (root / "test").is_dir():
            train, test = from_class_folders(root / "train"), from_class_folders(root / "test")
            if train.classes != test.classes:
                raise DataError(f"{root}: train and test have different class folders")
            labels = np.concatenate([train.labels, test.labels])
            return Labelled([*train.images, *test.images], labels, train.classes)
    raise DataError(
        f"{folder}: contains neither CIFAR-10 as published nor train/ and test/ with class folders"
    )


def _fashion_mnist(folder: Path) -> Labelled:
    first, second = idx.read(folder, "train"), idx.read(folder, "t10k")
    return numbered(np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]]))


def _grocery(folder: Path) -> Labelled:
    """By part; the first label, the finer one, is the class."""
    found = annotations.read(folder)
    if (counts := Counter(found.parts)) != _GROCERY:
        raise DataError(
            f"{folder}: the parts have {dict(counts)} images, but those of grocery {_GROCERY}; "
            "figures on a part of it are not comparable"
        )
    order = sorted(range(len(found.paths)), key=lambda at: list(_GROCERY).index(found.parts[at]))
    names = [found.labels[at][0] for at in order]
    classes = tuple(sorted(set(names)))
    labels = np.array([classes.index(name) for name in names], np.int64)
    return Labelled([found.paths[at] for at in order], labels, classes)
