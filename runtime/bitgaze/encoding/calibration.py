"""What a Hamming distance means: the probability of a match, and the rate of false matches.

Works on distances of image pairs alone; models and galleries store the resulting tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Below the smallest distance observed, the number of unrelated pairs is assumed to halve every this
# fraction of the code length. Of 24,750 pairs of photographs with 128-bit codes, 72 are within 40
# and 9 within 28.
_HALVING = 1 / 32


@dataclass(frozen=True)
class Calibration:
    """Three tables indexed by Hamming distance, each with bits + 1 numbers in [0, 1].

    The probabilities assume even odds: before its distance is known, a pair is as likely to match
    as not; `at_odds` converts them. The expected number of unrelated images that a search finds is
    `false_match` times the number of items in the gallery.

    Attributes:
        duplicate: probability that two images at this distance are one image, altered: resized,
            compressed, cropped, ... Never rises with distance; empty if it was not measured.
        kind: probability that they show the same kind of thing. Never rises with distance; empty
            if it was not measured for lack of labels.
        false_match: share of unrelated pairs at this distance or nearer. Never falls. Below the
            nearest measured pair, an extrapolation from it: half as many every 1/32 of the bits.
    """

    duplicate: tuple[float, ...]
    kind: tuple[float, ...]
    false_match: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            table = getattr(self, field.name)
            if not all(type(value) is float and 0 <= value <= 1 for value in table):
                raise ValueError(f"calibration {field.name} is not all numbers in 0..1")
            rises = field.name == "false_match"
            if list(table) != sorted(table, reverse=not rises):
                raise ValueError(
                    f"calibration {field.name} {'falls' if rises else 'rises'} with distance"
                )
            if len(table) != len(self.false_match) and (table or field.name == "false_match"):
                raise ValueError(
                    f"calibration {field.name} has {len(table)} entries, "
                    f"false_match has {len(self.false_match)}"
                )

    @property
    def bits(self) -> int:
        """Length of the codes that the tables are for."""
        return len(self.false_match) - 1

    def radius(self, false_match_rate: float) -> int:
        """The largest radius that keeps the share of unrelated images found within a rate.

        Args:
            false_match_rate: maximum share of unrelated images, above 0 and below 1.

        Raises:
            ValueError: the rate is out of range, or smaller than this calibration can resolve.
        """
        if not 0 < false_match_rate < 1:
            raise ValueError(
                f"false_match_rate is {false_match_rate}, expected above 0 and below 1"
            )
        radius = int(np.searchsorted(self.false_match, false_match_rate, side="right")) - 1
        if radius < 0:
            raise ValueError(
                f"false_match_rate is {false_match_rate}, the smallest that this calibration can "
                f"resolve is {self.false_match[0]:.2g}"
            )
        return radius


def at_odds(probability: float, odds: float) -> float:
    """Convert a probability that assumes even odds to other prior odds (Bayes' rule).

    Args:
        probability: in [0, 1], at even odds.
        odds: prior odds of a match, above 0; 0.1 means one pair in eleven.
    """
    return probability / (probability + (1 - probability) / odds)


def probabilities(matching: ArrayLike, others: ArrayLike, bits: int) -> tuple[float, ...]:
    """Probability of a match at each distance, for even odds: bits + 1 numbers.

    A falling step function, fitted by isotonic regression (Zadrozny and Elkan, KDD 2002), in which
    matching and other pairs have the same total weight. One more other pair is spread over the
    distances below the nearest one: that none was observed there does not prove that none exists.

    Args:
        matching: integers in 0..bits, shape (n,), n >= 1: distances of pairs that match.
        others: shape (m,), m >= 1: distances of pairs that do not.
        bits: length of the codes.

    Raises:
        ValueError: a distance is outside 0..bits.
    """
    expected = _with_one_nearer(_histogram(others, bits))
    return _floats(_falling_shares(_histogram(matching, bits), expected))


def false_match_rates(unrelated: ArrayLike, bits: int) -> tuple[float, ...]:
    """The table `Calibration.false_match`: bits + 1 numbers.

    Args:
        unrelated: integers in 0..bits, shape (n,), n >= 1: distances of unrelated images.
        bits: length of the codes.

    Raises:
        ValueError: a distance is outside 0..bits.
    """
    counts = _with_one_nearer(_histogram(unrelated, bits))
    return _floats(np.minimum(np.cumsum(counts) / counts.sum(), 1))


def _histogram(distances: ArrayLike, bits: int) -> NDArray[np.int64]:
    values = np.asarray(distances, np.int64).ravel()
    if len(values) and not 0 <= values.min() <= values.max() <= bits:
        raise ValueError(f"distances are in {values.min()}..{values.max()}, expected 0..{bits}")
    return np.bincount(values, minlength=bits + 1)


def _floats(table: NDArray[np.float64]) -> tuple[float, ...]:
    # Ten digits, because in a gallery of millions 1 - probability matters.
    return tuple(float(f"{value:.10g}") for value in table)


def _with_one_nearer(observed: NDArray[np.int64]) -> NDArray[np.float64]:
    """Pairs by distance, and one more pair spread below the smallest distance: (bits + 1,)."""
    counts = observed.astype(np.float64)
    if nearest := int(np.flatnonzero(observed)[0]):
        below = 2.0 ** (-np.arange(nearest, 0, -1) / (_HALVING * (len(observed) - 1)))
        counts[:nearest] = below / below.sum()
    return counts


def _falling_shares(
    matching: NDArray[np.int64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of matching pairs at each distance, both kinds weighing 1, made to fall: (bits + 1,).

    A distance without pairs gets the share of the next smaller distance that has some, or else of
    the next larger one.
    """
    # Pool adjacent violators: merge neighbours while the farther one has the higher share. A block
    # holds both summed weights and the number of distances that it covers.
    blocks: list[tuple[float, float, int]] = []
    for match, other in zip(matching / matching.sum(), others / others.sum(), strict=True):
        blocks.append((float(match), float(other), 1))
        while len(blocks) > 1 and _is_out_of_order(blocks):
            (a, b, n), (c, d, m) = blocks[-2:]
            blocks[-2:] = [(a + c, b + d, n + m)]
    return np.concatenate([np.full(n, _share(a, b)) for a, b, n in blocks])


def _is_out_of_order(blocks: Sequence[tuple[float, float, int]]) -> bool:
    (near, near_other, _), (far, far_other, _) = blocks[-2:]
    if near + near_other == 0 or far + far_other == 0:
        return True
    return _share(far, far_other) >= _share(near, near_other)


def _share(match: float, other: float) -> float:
    return match / (match + other)
