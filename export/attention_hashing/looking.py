"""Looks at training images: where the branch finds their labels, each under the label it is for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from attention_hashing.config import Config
from attention_hashing.data.labelled import Labelled
from attention_hashing.network import AttentionHashing
from bitgaze.encoding.images import Region
from bitgaze.encoding.looks import LookRule, choose

LOOKS = "looks.json"
RULE = LookRule(
    most=3, probability=0.15, extent=0.4, smallest=0.25, largest=1.0, side=0.5, overlap=0.8
)


class Place(NamedTuple):
    """A look: left, top, right, bottom as shares of the sides, and its class or -1."""

    box: tuple[float, float, float, float]
    label: int


def explicit(
    evidence: NDArray[np.float32],
    one_hot: NDArray[np.float32],
    known: NDArray[np.intp],
    rule: LookRule = RULE,
) -> list[list[Place]]:
    """Looks at the likely classes of each image, or at its labels where these are known.

    Args:
        evidence: class maps, (n, classes, h, w).
        one_hot: (n, classes).
        known: positions of the images whose labels are known.
        rule: of the looks; no look is added from the attention.
    """
    probability = 1 / (1 + np.exp(-evidence.mean((2, 3))))  # (n, classes)
    is_known = np.zeros(len(evidence), bool)
    is_known[known] = True
    nothing = np.zeros(evidence.shape[2:], np.float32)
    found = []
    for image, maps in enumerate(evidence):
        if is_known[image]:
            numbers = np.flatnonzero(one_hot[image])
            likely = np.maximum(probability[image, numbers], rule.probability)
        else:
            numbers = np.arange(len(maps))
            likely = probability[image]
        # A class that is likely without positive evidence anywhere still has a highest place.
        some = maps[numbers] - np.minimum(maps[numbers].mean((1, 2)), 0)[:, None, None]
        looks = choose(some, likely.astype(np.float32), nothing, rule, rule.most)
        found.append([Place(look.box, int(numbers[look.row])) for look in looks])
    return found


def with_looks(
    data: Labelled, network: AttentionHashing, config: Config, run: Path, has_begun: bool
) -> Labelled:
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
        ValueError: they should be stored, and are not.
    """
    path = run / LOOKS
    if not has_begun:
        found = [[(one.box, one.label) for one in some] for some in _chosen(data, network, config)]
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(found), encoding="utf-8")
        draft.replace(path)
    elif not path.is_file():
        raise ValueError(f"{path} is missing; without it the run cannot be resumed: start another")
    stored = json.loads(path.read_text(encoding="utf-8"))
    own = data.one_hot() > 0
    images, rows = list(data.images), [own]
    for image, some in enumerate(stored):
        for box, label in some:
            images.append(Region(data.images[image], tuple(box)))
            rows.append(np.arange(len(data.classes))[None] == label)
    return Labelled(images, np.concatenate(rows), data.classes)


@torch.inference_mode()
def _chosen(data: Labelled, network: AttentionHashing, config: Config) -> list[list[Place]]:
    network.eval()
    device = next(network.parameters()).device
    maps = [
        network.branch.class_maps(network.features(image.to(device))).float().cpu().numpy()
        for image, _ in DataLoader(data.views(config.preprocess, None), config.batch_size)
    ]
    rule = replace(RULE, most=config.looks)
    return explicit(np.concatenate(maps), data.one_hot(), np.arange(len(data)), rule)
