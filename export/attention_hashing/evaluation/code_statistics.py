"""How well codes use their bits, whatever their labels."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class CodeStatistics(NamedTuple):
    """Statistics of codes; shares are in [0, 1].

    Attributes:
        unique: distinct codes / codes.
        most_common: share of the most common code.
        balance: mean over bits of |share of codes in which the bit is set - 1/2|: 0 if every bit
            halves the set, .5 if every bit is constant.
        least_set, most_set: share of codes in which the least, or most, frequently set bit is set.
        constant: number of bits that are the same in all codes.
        correlation: mean absolute correlation over pairs of bits that are not constant; 0 if there
            is no such pair.
        largest_correlation: the largest absolute correlation.
    """

    unique: float
    most_common: float
    balance: float
    least_set: float
    most_set: float
    constant: int
    correlation: float
    largest_correlation: float


def code_statistics(codes: NDArray[np.uint8]) -> CodeStatistics:
    """Describe codes.

    By chance alone, independent fair bits have a mean absolute correlation of about .8 / sqrt(n).

    Args:
        codes: (n, bits // 8), n > 0.

    Raises:
        ValueError: there are no codes.
    """
    if not len(codes):
        raise ValueError("there are no codes to describe")
    _, repeats = np.unique(codes, axis=0, return_counts=True)
    bits = np.unpackbits(codes, axis=1).astype(np.float32)
    share = bits.mean(0, dtype=np.float64)
    is_varied = (share > 0) & (share < 1)
    varied = (bits - share.astype(np.float32))[:, is_varied]
    scaled = varied / np.sqrt((varied**2).sum(0))
    pairs = np.abs(scaled.T @ scaled)[np.triu_indices(scaled.shape[1], 1)]
    return CodeStatistics(
        unique=len(repeats) / len(codes),
        most_common=float(repeats.max() / len(codes)),
        balance=float(np.abs(share - 0.5).mean()),
        least_set=float(share.min()),
        most_set=float(share.max()),
        constant=int((~is_varied).sum()),
        correlation=float(pairs.mean()) if len(pairs) else 0.0,
        largest_correlation=float(pairs.max(initial=0)),
    )
