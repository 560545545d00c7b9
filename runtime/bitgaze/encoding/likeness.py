"""Whether two images are one image, altered: what two distances say together.

The structural code (structure.py) settles what was resized, compressed, recoloured or blurred; the
semantic code of the model supports it where a crop or caption moved the structure. Neither is
believed by itself where everything around looks alike: see `Surroundings`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Structural distances of different images, set to bound what was counted on 7,600 images and 900
# generated screens (export/copies_table.py): a normal distribution, and one pair in 300 from a
# wider and nearer one (one scene twice, one kind of garment). Two codes with 128 of 256 bits set
# at random differ in 128 bits, with a standard deviation of 8.02.
_TYPICAL, _LEAST_TYPICAL, _DEVIATION = 128.0, 64.0, 9.0
_RELATED, _NEARER, _RELATED_DEVIATION = 1 / 300, 24.0, 17.0
# Of altered copies: four in ten hardly move it, the others to anywhere.
_SETTLED, _SETTLED_SCALE, _MOVED_DENSITY = 0.4, 4.0, 0.004
# Three quarters of normally distributed distances are below the mean and 0.674 deviations.
_QUARTILE, _QUARTILE_OFFSET = 0.75, 0.674 * 8
_FEWEST = 4  # hits, to say anything of the surroundings
# A gallery of a few images is often of one thing.
_LEAST_ITEMS = 300


@dataclass(frozen=True)
class Surroundings:
    """How far the images around a query are from it: what a distance is compared with.

    Receipts are as near to each other as crops of a photograph to the photograph, by both codes.

    Attributes:
        structural: typical structural distance of its hits that are no copies, 64 to 128.
        semantic: typical semantic distance of its hits, as a share of the code's bits.
    """

    structural: float = _TYPICAL
    semantic: float = 0.5


@dataclass(frozen=True)
class SemanticEvidence:
    """What a semantic distance says of copies, as opposed to images of the same kind.

    A logarithm of odds that falls in a line, within limits. It differs between models; the values
    are those of the model that ships. `limit` 0 is for a model whose distances of copies are not
    known.

    Attributes:
        middle: distance at which copies are as frequent as others, as a share of the bits.
        slope: decrease of the logarithm per share of the bits.
        limit: the largest logarithm, >= 0; the smallest is two thirds of it, negative.
    """

    middle: float = 0.15
    slope: float = 38.0
    limit: float = 3.0


def surroundings(structural: ArrayLike, semantic: ArrayLike, bits: int) -> Surroundings:
    """Describe a query's surroundings by its nearest hits, of which three in four may be copies.

    Args:
        structural: integers, shape (k,): structural distances of the k hits that are semantically
            nearest and have a structural code. 50 suffice.
        semantic: integers, shape (k,): their semantic distances.
        bits: length of the semantic code.

    Returns:
        The surroundings; those of unrelated photographs if k < 4.
    """
    if np.size(structural) < _FEWEST:
        return Surroundings()
    usual = float(np.quantile(np.asarray(structural), _QUARTILE)) - _QUARTILE_OFFSET
    usual = min(max(usual, _LEAST_TYPICAL), _TYPICAL)
    return Surroundings(usual, float(np.quantile(np.asarray(semantic), _QUARTILE)) / bits)


def same_image(
    structural: ArrayLike,
    semantic: ArrayLike,
    bits: int,
    items: int,
    around: Surroundings = Surroundings(),
    evidence: SemanticEvidence = SemanticEvidence(),
) -> NDArray[np.float64]:
    """Probability that images found in a search are the query, altered.

    Bayes' rule: the gallery is assumed to contain one copy of every second query, and at least 300
    items. Below the distances that were counted, the law of different images is extrapolated: of
    380 million pairs of photographs and drawings none is within 24 but the same image twice, of
    500,000 pairs of one shop's receipts 3 are within 20 and none within 16.

    Args:
        structural: integers in 0..256, shape (n,): structural distances. Of pairs that both have a
            structural code; of others the probability is unknown.
        semantic: integers in 0..bits, shape (n,): semantic distances of the same pairs.
        bits: length of the semantic code.
        items: number of images that were compared with the query, times the number of versions of
            the query (mirrored, turned, cropped) of which the nearest was taken.
        around: of the query.
        evidence: of the model.

    Returns:
        float64, shape (n,), in [0, 1]. Never rises with either distance, nor with `items`.
    """
    distance = np.minimum(np.asarray(structural, np.float64), around.structural)
    share = np.asarray(semantic, np.float64) / bits
    different = (1 - _RELATED) * _normal(distance, around.structural, _DEVIATION)
    different += _RELATED * _normal(distance, around.structural - _NEARER, _RELATED_DEVIATION)
    copied = _SETTLED / _SETTLED_SCALE * np.exp(-distance / _SETTLED_SCALE) + _MOVED_DENSITY
    # Distances that are usual around the query say nothing for a copy.
    middle = min(evidence.middle, 0.4 * around.semantic)
    support = np.clip(evidence.slope * (middle - share), -2 / 3 * evidence.limit, evidence.limit)
    # Never rises with distance, which the ratio of the two densities could.
    ratio = np.log(different / copied) - support + np.log(max(items, _LEAST_ITEMS))
    return np.asarray(1 / (1 + np.exp(ratio)))


def _normal(values: NDArray[np.float64], mean: float, deviation: float) -> NDArray[np.float64]:
    density: NDArray[np.float64] = np.exp(-0.5 * ((values - mean) / deviation) ** 2) / (
        deviation * np.sqrt(2 * np.pi)
    )
    return density
