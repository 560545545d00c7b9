"""Whether this machine gives the codes that a model's maker got.

Knows the golden examples of a contract. Does not know galleries.
"""

from dataclasses import dataclass

import numpy as np

from bitgaze.encoding.encoder import Encoder
from bitgaze.errors import ModelError


@dataclass(frozen=True)
class Verification:
    """A model's golden examples, encoded here, and the codes that the contract holds for them.

    Attributes:
        model: the model's name.
        fingerprint: of the model.
        runs_on: what ran it, as the session tells.
        tolerance: a bit whose hash value lies this near to 0 may differ between machines.
        bits: length of a code.
        flipped: for each example, how many bits differ.
        flipped_stable: of these, how many whose hash value, here, is beyond the tolerance.
    """

    model: str
    fingerprint: str
    runs_on: str
    tolerance: float
    bits: int
    flipped: tuple[int, ...]
    flipped_stable: tuple[int, ...]

    @property
    def is_equal(self) -> bool:
        """Whether codes from here can be compared with others: no stable bit differs."""
        return not any(self.flipped_stable)


def verify(encoder: Encoder) -> Verification:
    """Encode the golden examples of a model on this machine and its providers.

    Args:
        encoder: the model, with the providers to try.

    Raises:
        ModelError: the model has no golden examples, or one cannot be encoded.
    """
    contract, path = encoder.contract, encoder.model.path
    if not contract.golden:
        raise ModelError(
            f"{path}: holds no golden examples, so there is nothing to compare with; "
            "export/to_onnx.py writes some"
        )
    encoded = encoder.encode([golden.png for golden in contract.golden])
    if encoded.errors:
        position, error = next(iter(encoded.errors.items()))
        raise ModelError(f"{path}: golden example {position}: {error}") from error
    expected = np.frombuffer(b"".join(golden.code for golden in contract.golden), np.uint8)
    flipped = np.unpackbits(encoded.codes ^ expected.reshape(encoded.codes.shape), axis=1) > 0
    return Verification(
        model=contract.name,
        fingerprint=encoder.fingerprint,
        runs_on=str(encoder.report),
        tolerance=contract.tolerance,
        bits=encoder.bits,
        flipped=tuple(flipped.sum(1).tolist()),
        flipped_stable=tuple((flipped & encoded.stable).sum(1).tolist()),
    )
