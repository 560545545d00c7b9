"""Codes without hash training, to compare methods with: LSH, PCA-ITQ, the number of the class.

The upper baseline has no codes: the float features themselves, ranked by `metrics.by_cosine`.
"""

import numpy as np
from numpy.typing import NDArray

from attention_hashing.general.unsupervised import leading
from bitgaze.gallery import adaptation

Projection = tuple[NDArray[np.float64], NDArray[np.float64]]


def lsh(features: NDArray[np.float32], bits: int, seed: int) -> Projection:
    """Random hyperplanes through the features' mean (Charikar, STOC 2002).

    Through the mean rather than 0: pooled features are positive, so all of them would lie on one
    side of many planes through 0.

    Args:
        features: (n, d).
        bits: length of the code, at least 1.
        seed: of the planes.

    Returns:
        weight (d, bits) and threshold (bits,); a bit is set where `features @ weight - threshold`
        is above 0.

    Raises:
        ValueError: there are no features, or no bits.
    """
    centre = _centre(features, bits)
    weight = np.random.default_rng(seed).standard_normal((features.shape[1], bits))
    return weight, centre @ weight


def pca_itq(features: NDArray[np.float32], bits: int) -> Projection:
    """Principal directions, rotated so that signs lose little (Gong and Lazebnik, CVPR 2011).

    The rotation is found as `bitgaze.gallery.adaptation` finds it for a gallery.

    Args:
        features: (n, d).
        bits: length of the code, at most d.

    Returns:
        As for `lsh`.

    Raises:
        ValueError: there are no features or no bits, or more bits than dimensions.
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

    Images of one class are at distance 0, others at any distance. On the classes that it was
    trained on, a method must surpass this to be better than a classifier.

    Args:
        scores: (n, classes); of equal scores the first counts.
        bits: length of the code; bits beyond those of the number are not set.

    Returns:
        (n, bits), -1 or 1, the number's highest bit first.

    Raises:
        ValueError: there are fewer bits than the numbers of the classes need.
    """
    needed = (scores.shape[1] - 1).bit_length()
    if bits < max(needed, 1):
        raise ValueError(f"{scores.shape[1]} classes need {max(needed, 1)} bits, got {bits}")
    places = np.arange(needed - 1, -1, -1)
    values = np.full((len(scores), bits), -1, np.float32)
    values[:, :needed][(scores.argmax(1)[:, None] >> places) & 1 == 1] = 1
    return values


def _centre(features: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    if bits < 1 or not len(features):
        raise ValueError(f"{bits} bits from {len(features)} features, expected at least 1 of both")
    return features.mean(0, dtype=np.float64)
