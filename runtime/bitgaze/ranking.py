"""Order among codes that one distance cannot tell apart: by the query's hash values.

Knows numbers only.
"""

import numpy as np
from numpy.typing import NDArray

_BITS_OF_BYTES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)  # (256, 8)


def asymmetric_scores(values: NDArray[np.float32], codes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """How far codes are from a picture whose hash values are known; its code is their signs.

    A bit that differs counts as much as the value is away from 0: one that nearly fell the other
    way counts little. Stored codes need nothing beside them for that.

    Args:
        values: float32, (bits,), of the query.
        codes: uint8, (n, bits // 8).

    Returns:
        float64, (n,): sum of |value| over the bits where code and query differ. Equal codes have
        equal scores, to the last bit, wherever they stand.
    """
    differing = codes ^ np.packbits(values > 0)
    weights = np.abs(values).astype(np.float64).reshape(-1, 8)
    scores = np.zeros(len(codes))
    # Byte by byte, always in this order: a matrix product may round equal rows unequally.
    for byte, byte_weights in zip(differing.T, weights, strict=True):
        table = np.zeros(256)
        for bit, weight in enumerate(byte_weights):
            table += _BITS_OF_BYTES[:, bit] * weight
        scores += table[byte]
    return scores
