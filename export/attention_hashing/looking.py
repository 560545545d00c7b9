"""Looks at training images, chosen as the model file will: at likely classes, then by attention.

A look is learned under the class that it was chosen for, and under those labels of its image that
the branch sees in it.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from attention_hashing.attention import AttentionBranch
from attention_hashing.config import Config
from attention_hashing.data.labelled import Labelled, Views
from attention_hashing.network import AttentionHashing
from bitgaze.encoding.images import Box, Preprocess, Region, Source
from bitgaze.encoding.looks import LookRule, choose

LOOKS = "looks.json"
RULE = LookRule(
    most=3, probability=0.15, extent=0.4, smallest=0.25, largest=1.0, side=0.5, overlap=0.8
)

# A label of the image is in a look if the branch finds it as probable there.
_SEEN = 0.7


class Place(NamedTuple):
    """A look: left, top, right, bottom as shares of the sides, and its class or -1."""

    box: Box
    label: int


class Evidence(NamedTuple):
    """What a branch says of n images.

    Attributes:
        maps: float32, (n, classes, h, w), evidence as looks are chosen by.
        probability: float32, (n, classes).
        attention: float32, (n, h, w).
    """

    maps: NDArray[np.float32]
    probability: NDArray[np.float32]
    attention: NDArray[np.float32]


@dataclass(frozen=True)
class WithLooks:
    """Images, then looks at them.

    Attributes:
        images: k of them; looks are regions.
        labels: bool, (k, classes).
        owners: int64, (k,): of each look, the position of the image that it is a part of; of each
            image, its own.
    """

    images: list[Source]
    labels: NDArray[np.bool_]
    owners: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def one_hot(self) -> NDArray[np.float32]:
        """Labels as float32, (k, classes)."""
        return self.labels.astype(np.float32)

    def views(self, preprocess: Preprocess, epoch_seed: int | None) -> Views:
        """The images as network input; see `Views`."""
        return Views(self, preprocess, epoch_seed)


@torch.inference_mode()
def evidence(features: Iterable[Tensor], branch: AttentionBranch) -> Evidence:
    """What a branch says of batches of features (B, channels, h, w), of at least one image."""
    parts = []
    for some in features:
        logits, attention = branch(some)
        maps = branch.evidence(branch.class_maps(some), logits)
        parts.append((maps.cpu(), branch.probability(logits).cpu(), attention.cpu()))
    return Evidence(*(torch.cat(some).numpy() for some in zip(*parts, strict=True)))


def explicit(
    seen: Evidence,
    one_hot: NDArray[np.float32],
    known: NDArray[np.intp],
    rule: LookRule = RULE,
) -> list[list[Place]]:
    """Looks at the likely classes of each image, or at its labels where these are known.

    Args:
        seen: of the branch.
        one_hot: (n, classes).
        known: positions of the images whose labels are known.
        rule: of the looks.

    Returns:
        Up to `rule.most` looks at each image; those that the attention chose have no label.
    """
    is_known = np.zeros(len(one_hot), bool)
    is_known[known] = True
    found = []
    for image, (maps, probability, attention) in enumerate(zip(*seen, strict=True)):
        numbers, likely = np.arange(len(maps)), probability
        if is_known[image]:
            numbers = np.flatnonzero(one_hot[image])
            likely = np.maximum(probability[numbers], np.float32(rule.probability))
        looks = choose(maps[numbers], likely, attention, rule, rule.most)
        found.append(
            [Place(look.box, int(numbers[look.row]) if look.row >= 0 else -1) for look in looks]
        )
    return found


def with_looks(
    data: Labelled, network: AttentionHashing, config: Config, run: Path, has_begun: bool
) -> WithLooks:
    """The images, followed by looks at them.

    The looks are stored in the run's folder: once the hash layer learns, the backbone changes, and
    would choose others when a run is resumed.

    Args:
        data: to train on.
        network: whose branch is trained; it is left in evaluation mode.
        config: of the run; its `looks` is the largest number of looks at an image.
        run: the folder.
        has_begun: whether the hash layer has begun to learn, so that the looks are stored.

    Raises:
        ValueError: they should be stored, and are not, or by an older version.
    """
    path = run / LOOKS
    of_images = data.one_hot() > 0
    if not has_begun:
        places = _chosen(data, network, config)
        looks = [
            [(one.box, np.flatnonzero(row).tolist()) for one, row in zip(some, rows, strict=True)]
            for some, rows in zip(
                places, _labels(data, of_images, places, network, config), strict=True
            )
        ]
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(looks), encoding="utf-8")
        draft.replace(path)
    elif not path.is_file():
        raise ValueError(f"{path} is missing; without it the run cannot be resumed: start another")
    stored = json.loads(path.read_text(encoding="utf-8"))
    images: list[Source] = [*data.images]
    for source, some in zip(data.images, stored, strict=True):
        images += [Region(source, tuple(box)) for box, _ in some]
    one_hot = np.zeros((len(images), of_images.shape[1]), bool)
    one_hot[: len(of_images)] = of_images
    for row, (_, numbers) in enumerate((one for some in stored for one in some), len(of_images)):
        if not isinstance(numbers, list):
            raise ValueError(
                f"{path} has {numbers!r} as the label of a look, expected a list of labels: an "
                "older version wrote it, and the run cannot be resumed: start another"
            )
        one_hot[row, numbers] = True
    places = np.arange(len(data))
    owners = np.concatenate([places, np.repeat(places, [len(some) for some in stored])])
    return WithLooks(images, one_hot, owners)


def labels_of_looks(
    labels: ArrayLike, row: NDArray[np.bool_], probability: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Labels that looks are learned under: their own and those seen in them, or all if none is.

    Args:
        labels: of k looks at an image; -1 for none.
        row: (classes,), those of the image.
        probability: (k, classes), of the classes in each look.

    Returns:
        (k, classes).
    """
    is_own = np.asarray(labels, np.int64).reshape(-1, 1) == np.arange(len(row))
    found = is_own | (row & (probability >= _SEEN))
    return np.where(found.any(1, keepdims=True), found, row)


@torch.inference_mode()
def _labels(
    data: Labelled,
    of_images: NDArray[np.bool_],
    places: list[list[Place]],
    network: AttentionHashing,
    config: Config,
) -> list[NDArray[np.bool_]]:
    """Labels of the looks at each image, as the branch sees them."""
    if not config.several_labels:
        return [
            np.repeat(row[None], len(some), axis=0)
            for some, row in zip(places, of_images, strict=True)
        ]
    regions: list[Source] = [
        Region(source, one.box)
        for source, some in zip(data.images, places, strict=True)
        for one in some
    ]
    nothing = np.zeros((len(regions), of_images.shape[1]), bool)
    owners = np.repeat(np.arange(len(places)), [len(some) for some in places])
    seen = [
        network.branch.probability(network.branch(some).logits).cpu().numpy()
        for some in _features(
            WithLooks(regions, nothing, owners).views(config.preprocess, None), network, config
        )
    ]
    probability = np.concatenate(seen) if seen else nothing.astype(np.float32)
    parts = np.split(probability, np.cumsum([len(some) for some in places])[:-1])
    return [
        labels_of_looks([one.label for one in some], row, part)
        for some, row, part in zip(places, of_images, parts, strict=True)
    ]


def _chosen(data: Labelled, network: AttentionHashing, config: Config) -> list[list[Place]]:
    network.eval()
    seen = evidence(_features(data.views(config.preprocess, None), network, config), network.branch)
    rule = replace(RULE, most=config.looks)
    return explicit(seen, data.one_hot(), np.arange(len(data)), rule)


@torch.inference_mode()
def _features(views: Views, network: AttentionHashing, config: Config) -> Iterator[Tensor]:
    """The backbone's maps of images, batch by batch."""
    device = next(network.parameters()).device
    for image, _ in DataLoader(views, config.batch_size):
        yield network.features(image.to(device))
