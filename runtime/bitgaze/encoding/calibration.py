"""What a Hamming distance means: how likely a match it is, and how often a stranger comes as near.

Knows distances of pairs. Does not know images, models or galleries, nor where tables are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Of the codes' length: so much nearer, half as many unrelated pairs. Of photographs' pairs, coded
# with 128 bits, 72 of 24,750 are within 40 and 9 within 28.
_HALVING = 1 / 32


@dataclass(frozen=True)
class Calibration:
    """Three tables over the distances 0..bits, bits + 1 numbers in [0, 1] each.

    The probabilities hold at even odds: for a pair that is as likely to match as not before one
    looks at its distance. How many strangers a search brings up depends on the size of the gallery;
    that is `false_match` times the number of its items.

    Attributes:
        duplicate: probability that two images at this distance are one image, altered: resized,
            compressed, cropped, ... Never rises with distance.
        kind: probability that they show the same kind of thing. Never rises with distance; empty
            where no labels were there to tell.
        false_match: share of unrelated pairs that are at this distance or nearer; for the smallest
            distances, which none of the pairs had, what so many pairs can exclude. Never falls.
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
            if len(table) != len(self.false_match) and not (field.name == "kind" and not table):
                raise ValueError(
                    f"calibration {field.name} has {len(table)} entries, "
                    f"false_match has {len(self.false_match)}"
                )

    @property
    def bits(self) -> int:
        """Length of the codes whose distances these are."""
        return len(self.false_match) - 1

    def radius(self, false_match_rate: float) -> int:
        """The largest radius at which at most this share of unrelated images is found.

        Args:
            false_match_rate: above 0, below 1.

        Raises:
            ValueError: a rate outside that, or smaller than this calibration can tell.
        """
        if not 0 < false_match_rate < 1:
            raise ValueError(
                f"false_match_rate is {false_match_rate}, expected above 0 and below 1"
            )
        radius = int(np.searchsorted(self.false_match, false_match_rate, side="right")) - 1
        if radius < 0:
            raise ValueError(
                f"false_match_rate is {false_match_rate}; the images that were measured tell of "
                f"rates from {self.false_match[0]:.2g} on"
            )
        return radius


def at_odds(probability: float, odds: float) -> float:
    """A probability that holds at even odds, at others.

    Args:
        probability: in [0, 1], at even odds.
        odds: of a match before one looks at the distance, above 0; 0.1 is one in eleven.
    """
    return probability / (probability + (1 - probability) / odds)


def calibrate(
    duplicates: ArrayLike, kinds: ArrayLike, strangers: ArrayLike, bits: int
) -> Calibration:
    """The tables, from distances of pairs of known relation; all others are unrelated ones.

    Args:
        duplicates: integers in 0..bits, (n,): distances of images to altered versions.
        kinds: (m,), of images of the same kind; empty where there are no labels.
        strangers: (s,), of unrelated images.
        bits: length of the codes.

    Raises:
        ValueError: no duplicates or no strangers, or a distance outside 0..bits.
    """
    if not np.size(duplicates) or not np.size(strangers):
        raise ValueError("a calibration takes distances of duplicates and of unrelated pairs")
    return Calibration(
        duplicate=probabilities(duplicates, strangers, bits),
        kind=probabilities(kinds, strangers, bits) if np.size(kinds) else (),
        false_match=false_match_rates(strangers, bits),
    )


def probabilities(matching: ArrayLike, others: ArrayLike, bits: int) -> tuple[float, ...]:
    """A table of `Calibration`, from distances of pairs that match and of others: (bits + 1,).

    A falling step function, fitted by isotonic regression (Zadrozny and Elkan, KDD 2002), matching
    and other pairs weighing the same in total. Nearer than the nearest other pair, one more of
    them is spread: that none was seen there is not to say that there is none.

    Args:
        matching: integers in 0..bits, (n,), at least one.
        others: (m,), at least one.
        bits: length of the codes.

    Raises:
        ValueError: a distance outside 0..bits.
    """
    expected = _with_one_nearer(_histogram(others, bits))
    return _floats(_shares(_histogram(matching, bits), expected))


def false_match_rates(strangers: ArrayLike, bits: int) -> tuple[float, ...]:
    """The table `Calibration.false_match`; arguments and errors as for `probabilities`."""
    unrelated = _histogram(strangers, bits)
    rates = (np.cumsum(unrelated) + 1) / (unrelated.sum() + 1)
    return _floats(np.minimum(rates, 1))


def _histogram(distances: ArrayLike, bits: int) -> NDArray[np.int64]:
    values = np.asarray(distances, np.int64).ravel()
    if len(values) and not 0 <= values.min() <= values.max() <= bits:
        raise ValueError(f"distances are in {values.min()}..{values.max()}, expected 0..{bits}")
    return np.bincount(values, minlength=bits + 1)


def _floats(table: NDArray[np.float64]) -> tuple[float, ...]:
    # Ten digits: 1 - probability is what counts in a gallery of millions.
    return tuple(float(f"{value:.10g}") for value in table)


def _with_one_nearer(unrelated: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts of unrelated pairs by distance, and one more pair below the smallest: (bits + 1,)."""
    counts = unrelated.astype(np.float64)
    if nearest := int(np.flatnonzero(unrelated)[0]):
        below = 2.0 ** (-np.arange(nearest, 0, -1) / (_HALVING * (len(unrelated) - 1)))
        counts[:nearest] = below / below.sum()
    return counts


def _shares(matching: NDArray[np.int64], unrelated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of matching pairs at each distance, both kinds weighing 1, made to fall: (bits + 1,).

    Distances that no pair had take the probability of the next smaller one that some pair had, or
    else of the next larger one.
    """
    matches, others = matching / matching.sum(), unrelated / unrelated.sum()
    # Pool neighbours while one that is farther claims a higher share: each block holds its summed
    # weights and how many distances it covers.
    blocks: list[tuple[float, float, int]] = []
    for match, other in zip(matches, others, strict=True):
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
