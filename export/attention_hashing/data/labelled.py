"""Labelled images to train on: class folders, lists, annotations, IDX files, or CIFAR-10.

Also defines the random views of images that training sees. Preprocessing itself is that of
bitgaze.encoding.images, the code that ships.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from attention_hashing.data import annotations, cifar, folders, idx, lists
from attention_hashing.data.errors import DataError
from attention_hashing.data.labels import Labels, of_names
from bitgaze import ImageError
from bitgaze.encoding.images import Preprocess, Source, load, upright

_TRAIN = "train"  # the part of an annotations.tsv to train on


@dataclass(frozen=True)
class Labelled:
    """Images with at least one class each.

    Attributes:
        images: paths; or uint8 (n, height, width) or (n, height, width, 3).
        labels: int64 (n,), positions in `classes`, if each image has one class; otherwise bool
            (n, classes).
        classes: names.
    """

    images: list[Path] | NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def has_several(self) -> bool:
        """Whether an image may have several classes."""
        return self.labels.ndim == 2

    def one_hot(self) -> NDArray[np.float32]:
        """Labels as float32 (n, classes): 1 where an image has the class, otherwise 0."""
        if self.labels.ndim == 2:
            return self.labels.astype(np.float32)
        return (self.labels[:, None] == np.arange(len(self.classes))).astype(np.float32)

    def counts(self) -> NDArray[np.int64]:
        """Number of images in each class: int64 (classes,)."""
        if self.labels.ndim == 2:
            return self.labels.sum(0, dtype=np.int64)
        return np.bincount(self.labels, minlength=len(self.classes))

    def subset(self, positions: NDArray[np.intp]) -> "Labelled":
        """The images at these positions."""
        if isinstance(self.images, list):
            images: list[Path] | NDArray[np.uint8] = [self.images[i] for i in positions]
        else:
            images = self.images[positions]
        return Labelled(images, self.labels[positions], self.classes)

    def views(self, preprocess: Preprocess, epoch_seed: int | None) -> "Views":
        """The images as network input; see `Views`."""
        return Views(self, preprocess, epoch_seed)

    def with_present_classes(self) -> "Labelled":
        """The same images without unused classes."""
        if self.labels.ndim == 2:
            used = self.labels.any(0)
            names = tuple(name for name, is_used in zip(self.classes, used, strict=True) if is_used)
            return Labelled(self.images, self.labels[:, used], names)
        present, labels = np.unique(self.labels, return_inverse=True)
        classes = tuple(self.classes[label] for label in present)
        return Labelled(self.images, labels.astype(np.int64), classes)

    def digest(self) -> str:
        """SHA-256 of these images in this order, as 64 hex digits.

        Of files it covers the path below their common folder, the size and the label: reading
        every file would take as long as an epoch. Of arrays it covers the content.
        """
        digest = hashlib.sha256(self.labels.tobytes())
        if isinstance(self.images, list):
            root = os.path.commonpath(self.images)
            files = [(p.relative_to(root).as_posix(), p.stat().st_size) for p in self.images]
            digest.update(json.dumps(files).encode())
        else:
            digest.update(np.ascontiguousarray(self.images))
        return digest.hexdigest()

    def split(self, fraction: float, seed: int) -> tuple["Labelled", "Labelled"]:
        """Hold out a random share: (rest, held out); see `held_out`."""
        mask = self.held_out(fraction, seed)
        return self.subset(np.flatnonzero(~mask)), self.subset(np.flatnonzero(mask))

    def held_out(self, fraction: float, seed: int) -> NDArray[np.bool_]:
        """Draw the images to hold out: bool, (n,).

        If each image has one class, the share applies to each class, and at least one image of
        each is held out. Otherwise it applies to all images, skipping any that is the last of a
        class.

        Args:
            fraction: to hold out, in (0, 1).
            seed: of the draw.

        Raises:
            ValueError: a class would have no image left to train on.
        """
        if not 0 < fraction < 1:
            raise ValueError(f"the held-out share is {fraction}, expected a number between 0 and 1")
        draw = self._draw_of_each_class if self.labels.ndim == 1 else self._draw_of_all
        mask = np.zeros(len(self), bool)
        mask[draw(fraction, np.random.default_rng(seed))] = True
        return mask

    def _draw_of_each_class(
        self, fraction: float, generator: np.random.Generator
    ) -> NDArray[np.intp]:
        held: list[NDArray[np.intp]] = []
        for label in range(len(self.classes)):
            positions = generator.permutation(np.flatnonzero(self.labels == label))
            count = max(1, round(fraction * len(positions)))
            if count >= len(positions):
                raise ValueError(
                    f"a held-out share of {fraction} leaves class {self.classes[label]!r} empty"
                )
            held.append(positions[:count])
        return np.concatenate(held)

    def _draw_of_all(self, fraction: float, generator: np.random.Generator) -> list[int]:
        count = max(1, round(fraction * len(self)))
        left = self.counts()
        held: list[int] = []
        for position in generator.permutation(len(self)):
            row = self.labels[position]
            if len(held) < count and (left[row] > 1).all():
                left -= row
                held.append(position)
        if len(held) < count:
            raise ValueError(
                f"a held-out share of {fraction} ({count} images) leaves a class without images; "
                f"at most {len(held)} can be held out"
            )
        return held


def read(folder: Path) -> Labelled:
    """Read the training images of a folder.

    The folder contains the IDX files of MNIST or Fashion-MNIST (`train-images-idx3-ubyte`, plain
    or .gz), CIFAR-10 as published (`folder` may also be its folder or archive), a list `train.txt`
    (lists.py), a table `labels.csv` (folders.py), an annotations.tsv (annotations.py; of several
    parts, the one named train), or one folder per class. If it has a folder `train`, the classes
    are read from there. `folder` may also be a list or table itself, by any name ending in .txt or
    .csv.

    Raises:
        DataError: there are no images, only one class, or a class with a single image; or files
            are damaged.
    """
    data = _read_any(folder)
    counts = data.counts()
    if len(data.classes) < 2:
        raise DataError(
            f"{folder}: found {len(data.classes)} class, expected at least 2 "
            "(one folder per class, images inside; or a list of images and labels)"
        )
    if counts.min() < 2:
        name = data.classes[int(counts.argmin())]
        raise DataError(f"{folder}: class {name!r} has {counts.min()} image, expected at least 2")
    return data


def _read_any(folder: Path) -> Labelled:
    place = cifar.find(folder)
    if place:
        return Labelled(*cifar.read(place))
    if not folder.is_dir() or (folder / folders.LABELS).is_file():
        return _from_file(folder)
    if idx.is_here(folder):
        return numbered(*idx.read(folder, "train"))
    if lists.is_list(folder / lists.TRAIN):
        return _from_file(folder / lists.TRAIN)
    if (folder / annotations.ANNOTATIONS).is_file():
        found = annotations.read(folder)
        chosen = [at for at, part in enumerate(found.parts) if part == _TRAIN]
        everything = from_annotations(found)
        return everything.subset(np.array(chosen)) if chosen else everything
    return from_class_folders(folder / "train" if (folder / "train").is_dir() else folder)


def _from_file(path: Path) -> Labelled:
    """The images of a list or table, or of the table in a folder."""
    if folders.is_list(path):
        listed = lists.read(path)
        return Labelled(listed.paths, lists.labels(listed.one_hot), listed.classes)
    named = folders.read(path)
    return Labelled(list(named), *of_names(list(named.values())))


def check_readable(data: Labelled, preprocess: Preprocess) -> None:
    """Open every image once: a minute now is better than a failure in the second epoch.

    Raises:
        DataError: lists the images that cannot be read.
    """
    if not isinstance(data.images, list):
        return
    broken = []
    for path in tqdm(data.images, desc="checking images", unit="img", mininterval=1):
        try:
            upright(path, preprocess.size)
        except ImageError as error:
            broken.append(str(error))
    if broken:
        raise DataError(
            "repair or remove these images, which cannot be read:\n" + "\n".join(broken)
        )


class Shown(Protocol):
    """Images to train on, with labels as `Labelled` has them; images may be regions."""

    @property
    def images(self) -> Sequence[Source] | NDArray[np.uint8]:
        """N of them."""

    def one_hot(self) -> NDArray[np.float32]:
        """Labels as float32 (n, classes)."""

    def __len__(self) -> int: ...


class Views(Dataset[tuple[Tensor, Tensor]]):
    """Images as network input, uint8 (size, size, 3), each with its row of `one_hot`.

    Args:
        data: the images.
        preprocess: of the model.
        epoch_seed: None for plain views, as at run time. A number for random views: flipped,
            shifted by up to an eighth, enlarged by up to a quarter. They depend on nothing but
            this number and the position, so a resumed run continues as if uninterrupted.
    """

    def __init__(self, data: Shown, preprocess: Preprocess, epoch_seed: int | None) -> None:
        self.data = data
        self.one_hot = torch.from_numpy(data.one_hot())
        self.preprocess = preprocess
        self.epoch_seed = epoch_seed

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self.data.images[position]
        if self.epoch_seed is not None:
            image = _random_view(
                upright(image, self.preprocess.size),
                np.random.default_rng((self.epoch_seed, position)),
            )
        return torch.from_numpy(load(image, self.preprocess)), self.one_hot[position]


def _random_view(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    width, height = image.size
    scale = generator.uniform(1.0, 1.25)
    shift = generator.uniform(-0.125, 0.125, 2)
    # The window may extend beyond the image, which is padded with mid-grey.
    left = width * (0.5 - 0.5 / scale + shift[0])
    top = height * (0.5 - 0.5 / scale + shift[1])
    window = (left, top, left + width / scale, top + height / scale)
    image = image.transform(
        image.size, Image.Transform.EXTENT, window, Image.Resampling.BICUBIC, fillcolor=(127,) * 3
    )
    if generator.random() < 0.5:
        return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


def from_annotations(found: annotations.Annotated) -> Labelled:
    """All images of an annotations.tsv."""
    return Labelled(found.paths, lists.labels(found.one_hot()), found.classes)


def from_class_folders(root: Path) -> Labelled:
    """Read one folder per class (`folders.class_folders`)."""
    found = folders.class_folders(root)
    position = {name: at for at, name in enumerate(dict.fromkeys(found.values()))}
    labels = np.array([position[name] for name in found.values()], np.int64)
    return Labelled(list(found), labels, tuple(position))


def numbered(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Labelled:
    """Images whose classes are named by their numbers."""
    classes = tuple(str(label) for label in range(int(labels.max(initial=-1)) + 1))
    return Labelled(images, labels, classes)
