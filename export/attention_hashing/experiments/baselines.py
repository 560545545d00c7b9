"""Codes that need no hash training, to hold methods against: LSH, PCA-ITQ, the class's number.

The upper reference needs no code: the float features themselves, which `metrics.mean_by_cosine`
ranks. Knows numbers only: features (n, d) of some layer, or a classifier's scores.
"""

import numpy as np
from numpy.typing import NDArray

from attention_hashing.general.unsupervised import leading
from bitgaze import adaptation

Projection = tuple[NDArray[np.float64], NDArray[np.float64]]


def lsh(features: NDArray[np.float32], bits: int, seed: int) -> Projection:
    """Random hyperplanes through the features' mean (Charikar, STOC 2002).

    Through the mean and not through 0: pooled features are positive, and all on one side of many a
    plane through 0.

    Args:
        features: (n, d), any number of bits.
        bits: length of the code, at least 1.
        seed: of the planes.

    Returns:
        weight (d, bits) and threshold (bits,); a bit is set where `features @ weight - threshold`
        is above 0.

    Raises:
        ValueError: no features, or no bits.
    """
    centre = _centre(features, bits)
    weight = np.random.default_rng(seed).standard_normal((features.shape[1], bits))
    return weight, centre @ weight


def pca_itq(features: NDArray[np.float32], bits: int) -> Projection:
    """Principal directions, turned so that signs lose little (Gong and Lazebnik, CVPR 2011).

    The rotation is the one that `bitgaze.adaptation` finds for a gallery.

    Args:
        features: (n, d).
        bits: length of the code, at most d.

    Returns:
        As `lsh`.

    Raises:
        ValueError: no features, no bits, or more bits than there are directions.
    """
    centre = _centre(features, bits)
    if bits > features.shape[1]:
        raise ValueError(f"{bits} bits, but features have {features.shape[1]} dimensions")
    principal = leading(features - centre, bits)
    turned = adaptation.fit(((features - centre) @ principal).astype(np.float32))
    weight = principal @ turned.rotation.astype(np.float64)
    return weight, centre @ weight


def class_id(scores: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """The number of the likeliest class, in binary (Sablayrolles et al., ICASSP 2017).

    Images of one class lie at distance 0, those of others anywhere: what a method must surpass to
    say more than a classifier does, on the classes that it was trained on.

    Args:
        scores: (n, classes); of equal ones the first counts.
        bits: length of the code; those that the number does not take are not set.

    Returns:
        (n, bits), -1 or 1, the number's highest bit first.

    Raises:
        ValueError: fewer bits than the classes' numbers take.
    """
    needed = (scores.shape[1] - 1).bit_length()
    if bits < max(needed, 1):
        raise ValueError(f"{scores.shape[1]} classes take {max(needed, 1)} bits, {bits} were asked")
    places = np.arange(needed - 1, -1, -1)
    values = np.full((len(scores), bits), -1, np.float32)
    values[:, :needed][(scores.argmax(1)[:, None] >> places) & 1 == 1] = 1
    return values


def _centre(features: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    if bits < 1 or not len(features):
        raise ValueError(f"{bits} bits from {len(features)} features, expected at least 1 of both")
    return features.mean(0, dtype=np.float64)
