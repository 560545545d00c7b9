"""Scattered CIFAR-10: scenes of 128 x 128 px with one to three of its objects at known places.

A scene shows where an attention map should look and what it should ignore. Scenes are made from a
seed; scattered_parts.py chooses the objects and backgrounds.

A CIFAR image is a square with its own background. Its border is feathered, so that no edge reveals
the object.
"""

import hashlib
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from attention_hashing.data.backgrounds import cropped, prepared, textured
from bitgaze.encoding.images import Preprocess, load

SIDE = 128
OBJECT_SIDE = 32
MAX_OBJECTS = 3
# Side of an object, as a share of the scene's. Chosen by how often the likeliest class is in the
# scene, of a Lite0 that learned for 8 epochs to classify scenes without attention, its first five
# blocks frozen: .785 of 1,000 scenes.
SIDES = (0.3, 0.5)
# Maximum overlap of two boxes, as a share of the smaller one.
MAX_OVERLAP = 0.25
# Width of the feathered border, as a share of the object's side.
_FEATHER = 0.1


class Scene(NamedTuple):
    """An image and its contents.

    Attributes:
        image: uint8 (128, 128, 3), RGB.
        labels: float32 (classes,), 1 for the classes of its objects, otherwise 0.
        boxes: float32 (k, 4) of k objects: left, top, right, bottom in [0, 1]. Later objects lie
            on top of earlier ones.
        classes: int64 (k,) of the objects, all different.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.float32]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]


class _Layout(NamedTuple):
    objects: NDArray[np.int64]  # (k,) positions among the images
    boxes: NDArray[np.int64]  # (k, 3) left, top, side in pixels


class Scattered:
    """Scenes by number. A scene depends on seed and number alone, not on order or process.

    Args:
        images: of the objects, uint8 (n, 32, 32, 3).
        labels: classes of the objects, int64 (n,).
        classes: names.
        backgrounds: images to cut backgrounds from: arrays uint8 (height, width, 3), or paths,
            which are read here; None for textures generated from the seed.
        count: number of scenes.
        seed: of everything random, in 0..2^32 - 1.

    Raises:
        ValueError: a number is out of range, an array has another shape, fewer than three classes
            have an image, or `backgrounds` is empty.
        ImageError: a background cannot be read.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: tuple[str, ...],
        backgrounds: list[NDArray[np.uint8]] | list[Path] | None,
        count: int,
        seed: int,
    ) -> None:
        expected = (len(labels), OBJECT_SIDE, OBJECT_SIDE, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise ValueError(
                f"objects are {images.dtype} {images.shape}, expected uint8 {expected}"
            )
        if labels.ndim != 1 or not np.isin(labels, range(len(classes))).all():
            raise ValueError(
                f"labels are {labels.dtype} {labels.shape}, expected 0..{len(classes) - 1} each"
            )
        if count < 1:
            raise ValueError(f"count is {count}, expected at least 1")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}, expected 0..{2**32 - 1}")
        if backgrounds is not None and not len(backgrounds):
            raise ValueError("no backgrounds; pass None for textures")
        self.classes = classes
        self._images = images
        self._labels = labels
        self._backgrounds = None if backgrounds is None else [prepared(one) for one in backgrounds]
        self._count = count
        self._seed = seed
        self._of_class = [np.flatnonzero(labels == label) for label in range(len(classes))]
        self._present = [label for label, some in enumerate(self._of_class) if len(some)]
        if len(self._present) < MAX_OBJECTS:
            raise ValueError(
                f"objects of {len(self._present)} classes, expected at least {MAX_OBJECTS}"
            )

    def __len__(self) -> int:
        return self._count

    def scene(self, position: int, epoch_seed: int | None = None) -> Scene:
        """One scene; a different one for each epoch seed.

        Raises:
            IndexError: the position is out of range.
        """
        generator = self._generator(position, epoch_seed)
        layout = self._layout(generator)
        if self._backgrounds is None:
            image = textured(SIDE, generator)
        else:
            image = cropped(self._backgrounds, SIDE, generator)
        for which, box in zip(layout.objects, layout.boxes, strict=True):
            _paste(image, self._images[which], box, bool(generator.random() < 0.5))
        classes = self._labels[layout.objects]
        labels = np.zeros(len(self.classes), np.float32)
        labels[classes] = 1
        return Scene(image, labels, _as_shares(layout.boxes), classes)

    @property
    def labels(self) -> NDArray[np.bool_]:
        """Labels of all scenes, bool (count, classes), without painting them."""
        one_hot = np.zeros((self._count, len(self.classes)), bool)
        for position in range(self._count):
            objects = self._layout(self._generator(position, None)).objects
            one_hot[position, self._labels[objects]] = True
        return one_hot

    @property
    def boxes(self) -> list[NDArray[np.float32]]:
        """Boxes of all scenes, as in `Scene`, without painting them."""
        layouts = (self._layout(self._generator(n, None)) for n in range(self._count))
        return [_as_shares(layout.boxes) for layout in layouts]

    def digest(self) -> str:
        """SHA-256 of what the scenes are made of, as 64 hex digits."""
        digest = hashlib.sha256(repr((self._count, self._seed, self.classes, SIDES)).encode())
        for array in (self._images, self._labels, *(self._backgrounds or ())):
            digest.update(repr(array.shape).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def views(self, preprocess: Preprocess, epoch_seed: int | None) -> "SceneViews":
        """The scenes as network input; see `SceneViews`."""
        return SceneViews(self, preprocess, epoch_seed)

    def _generator(self, position: int, epoch_seed: int | None) -> np.random.Generator:
        if not 0 <= position < self._count:
            raise IndexError(f"scene {position}, expected 0..{self._count - 1}")
        epoch = 0 if epoch_seed is None else epoch_seed + 1
        return np.random.default_rng((self._seed, position, epoch))

    def _layout(self, generator: np.random.Generator) -> _Layout:
        count = int(generator.integers(1, MAX_OBJECTS + 1))
        classes = generator.choice(self._present, count, replace=False)
        objects = [generator.choice(self._of_class[label]) for label in classes]
        sides = np.rint(SIDE * generator.uniform(*SIDES, count)).astype(np.int64)
        while True:  # ends: three objects of the largest size fit into corners
            corners = generator.integers(0, SIDE - sides[:, None] + 1, (count, 2))
            if _are_apart(corners, sides):
                break
        return _Layout(np.array(objects, np.int64), np.column_stack([corners, sides]))


class SceneViews(Dataset[tuple[Tensor, Tensor]]):
    """Scenes as network input, uint8 (size, size, 3), with labels float32 (classes,).

    Args:
        scenes: the scenes.
        preprocess: of the model.
        epoch_seed: None for the scenes themselves. A number for new ones, which depend on it alone,
            so that training never sees a scene twice.
    """

    def __init__(self, scenes: Scattered, preprocess: Preprocess, epoch_seed: int | None) -> None:
        self.scenes = scenes
        self.preprocess = preprocess
        self.epoch_seed = epoch_seed

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        scene = self.scenes.scene(position, self.epoch_seed)
        return (
            torch.from_numpy(load(scene.image, self.preprocess)),
            torch.from_numpy(scene.labels),
        )


def _as_shares(boxes: NDArray[np.int64]) -> NDArray[np.float32]:
    """Boxes of a layout (left, top, side in pixels) as boxes of a scene."""
    left, top, side = boxes.T
    shares = np.stack([left, top, left + side, top + side], axis=1) / np.float32(SIDE)
    return shares.astype(np.float32)


def _are_apart(corners: NDArray[np.int64], sides: NDArray[np.int64]) -> bool:
    """Whether no two squares share more than MAX_OVERLAP of the smaller."""
    for i, j in combinations(range(len(sides)), 2):
        start = np.maximum(corners[i], corners[j])
        end = np.minimum(corners[i] + sides[i], corners[j] + sides[j])
        shared = np.prod(np.maximum(end - start, 0))
        if shared > MAX_OVERLAP * min(sides[i], sides[j]) ** 2:
            return False
    return True


def _paste(
    scene: NDArray[np.uint8], image: NDArray[np.uint8], box: NDArray[np.int64], is_flipped: bool
) -> None:
    left, top, side = box.tolist()
    pasted = Image.fromarray(image[:, ::-1] if is_flipped else image)
    pasted = pasted.resize((side, side), Image.Resampling.BICUBIC)
    place = scene[top : top + side, left : left + side]
    alpha = _mask(side)
    place[:] = np.rint(place + alpha * (np.asarray(pasted, np.float32) - place))


@cache
def _mask(side: int) -> NDArray[np.float32]:
    """Opacity of an object, float32 (side, side, 1): 1, fading to 0 at the border."""
    to_edge = np.minimum(np.arange(side) + 0.5, side - np.arange(side) - 0.5)
    ramp = np.minimum(to_edge / (_FEATHER * side), 1)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)[:, :, None]
