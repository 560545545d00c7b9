"""Scenes of scattered objects for training and for evaluation, with nothing in common.

Assigns objects and backgrounds to parts; data/scattered.py makes the scenes.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.data.labelled import Labelled
from attention_hashing.data.protocols import Protocol
from attention_hashing.data.scattered import OBJECT_SIDE, Scattered
from bitgaze.encoding.images import upright

# Shares of the backgrounds: queries, training, database, validation.
_BACKGROUND_SHARES = (0.2, 0.6, 0.1, 0.1)
# Share of the database's objects that validation gets.
_VALIDATION_SHARE = 0.2


class ScatteredParts(NamedTuple):
    """Scenes by part; no two parts share an object or a background.

    Settings are chosen on `validation`, so that queries and database stay unseen.
    """

    queries: Scattered
    training: Scattered
    database: Scattered
    validation: Scattered


def parts(
    protocol: Protocol,
    backgrounds: list[Path] | list[NDArray[np.uint8]] | None,
    counts: tuple[int, int, int, int],
    seed: int,
) -> ScatteredParts:
    """Make scenes for training and evaluation.

    Args:
        protocol: whose parts provide the objects; validation gets a fifth of its database's.
        backgrounds: images to cut backgrounds from, assigned at random: three fifths to training, a
            fifth to queries, a tenth each to database and validation; None for textures.
        counts: number of scenes: queries, training, database, validation.
        seed: of everything random, in 0..2^30 - 1.

    Raises:
        ValueError: the protocol's parts overlap, there are fewer than ten backgrounds, or as for
            `Scattered`.
        ImageError: an object or a background cannot be read.
    """
    if not 0 <= seed < 2**30:
        raise ValueError(f"seed is {seed}, expected 0..{2**30 - 1}")
    objects = (protocol.queries, protocol.training, protocol.database)
    if np.unique(np.concatenate(objects)).size < sum(map(len, objects)):
        raise ValueError(f"the parts of {protocol.name} share images, so the scenes would, too")
    spread = np.random.default_rng((seed, 1)).permutation(protocol.database)
    taken = round(_VALIDATION_SHARE * len(spread))
    objects = (*objects[:2], spread[taken:], spread[:taken])
    by_part: list[list[Path] | list[NDArray[np.uint8]] | None] = [None] * len(objects)
    if backgrounds is not None:
        if len(backgrounds) < 10:
            raise ValueError(f"{len(backgrounds)} backgrounds, expected at least 10")
        order = np.random.default_rng(seed).permutation(len(backgrounds))
        places = np.rint(np.cumsum(_BACKGROUND_SHARES[:-1]) * len(backgrounds)).astype(int)
        by_part = [[backgrounds[i] for i in some] for some in np.split(order, places)]
    made = [
        Scattered(
            pixels(data := protocol.data.subset(positions)),
            data.labels,
            data.classes,
            part,
            count,
            len(objects) * seed + number,
        )
        for number, (positions, part, count) in enumerate(
            zip(objects, by_part, counts, strict=True)
        )
    ]
    return ScatteredParts(*made)


def pixels(data: Labelled) -> NDArray[np.uint8]:
    """The pixels of images of 32 x 32 px: uint8 (n, 32, 32, 3).

    Raises:
        ValueError: an image has another size.
        ImageError: an image cannot be read.
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
