"""Scenes of scattered objects to train on and to measure on, with nothing in common.

Knows which objects and photographs each part is made of. Does not know how a scene is made
(scattered.py).
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.data.labelled import Labelled
from attention_hashing.data.protocols import Protocol
from attention_hashing.data.scattered import OBJECT_SIDE, Scattered
from bitgaze.images import upright

# Photographs of queries, training, database and validation.
_PHOTO_SHARES = (0.2, 0.6, 0.1, 0.1)
# Of the database's objects, what validation has instead.
_VALIDATION_SHARE = 0.2


class ScatteredParts(NamedTuple):
    """Scenes whose objects and backgrounds come from different images in each part.

    Validation is what settings are chosen on, so that queries and database stay unseen.
    """

    queries: Scattered
    training: Scattered
    database: Scattered
    validation: Scattered


def parts(
    protocol: Protocol,
    photos: list[Path] | list[NDArray[np.uint8]] | None,
    counts: tuple[int, int, int, int],
    seed: int,
) -> ScatteredParts:
    """Scenes to train on and to measure on.

    Args:
        protocol: whose own parts the objects are drawn from; validation has a fifth of its
            database's.
        photos: three fifths are backgrounds to train on, a fifth those of queries, a tenth each
            those of database and validation, as drawn by the seed; None for textures.
        counts: of scenes: queries, training, database, validation.
        seed: of everything random, 0..2^30 - 1.

    Raises:
        ValueError: parts that share objects, fewer than ten photographs, or as `Scattered`.
        ImageError: an image or a photograph cannot be read.
    """
    if not 0 <= seed < 2**30:
        raise ValueError(f"seed is {seed}, expected 0..{2**30 - 1}")
    objects = (protocol.queries, protocol.training, protocol.database)
    if np.unique(np.concatenate(objects)).size < sum(map(len, objects)):
        raise ValueError(f"the parts of {protocol.name} share images, and so would the scenes")
    spread = np.random.default_rng((seed, 1)).permutation(protocol.database)
    taken = round(_VALIDATION_SHARE * len(spread))
    objects = (*objects[:2], spread[taken:], spread[:taken])
    backgrounds: list[list[Path] | list[NDArray[np.uint8]] | None] = [None] * len(objects)
    if photos is not None:
        if len(photos) < 10:
            raise ValueError(f"{len(photos)} photographs, expected at least 10 to part")
        order = np.random.default_rng(seed).permutation(len(photos))
        places = np.rint(np.cumsum(_PHOTO_SHARES[:-1]) * len(photos)).astype(int)
        backgrounds = [[photos[i] for i in some] for some in np.split(order, places)]
    made = [
        Scattered(
            pixels(data := protocol.data.subset(positions)),
            data.labels,
            data.classes,
            background,
            count,
            len(objects) * seed + number,
        )
        for number, (positions, background, count) in enumerate(
            zip(objects, backgrounds, counts, strict=True)
        )
    ]
    return ScatteredParts(*made)


def pixels(data: Labelled) -> NDArray[np.uint8]:
    """Images of 32 x 32 px as objects: uint8 (n, 32, 32, 3).

    Raises:
        ValueError: an image of another size.
        ImageError: one that cannot be read.
    """
    if not isinstance(data.images, list):
        return data.images
    found = np.empty((len(data), OBJECT_SIDE, OBJECT_SIDE, 3), np.uint8)
    for place, path in enumerate(tqdm(data.images, desc="objects", unit="img", disable=None)):
        image = upright(path, OBJECT_SIDE)
        if image.size != (OBJECT_SIDE, OBJECT_SIDE):
            raise ValueError(f"{path}: {image.width} x {image.height} px, expected 32 x 32")
        found[place] = np.asarray(image)
    return found
