"""Check that this machine computes the codes that the exporting machine computed."""

from dataclasses import dataclass

import numpy as np

from bitgaze.encoding.encoder import Encoder
from bitgaze.errors import ModelError


@dataclass(frozen=True)
class Verification:
    """Result of `verify`: how many bits of a model's golden examples differ on this machine.

    Attributes:
        model: name of the model.
        fingerprint: of the model, 64 hex digits.
        runs_on: which providers ran the model, and how many of its nodes.
        tolerance: a bit whose hash value is within this distance of 0 may differ between machines.
        bits: length of a code.
        flipped: for each example, the number of bits that differ from the contract's code.
        flipped_stable: for each example, the number of these whose hash value on this machine
            exceeds the tolerance.
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
        """Whether no stable bit differs, so that codes of both machines can be compared."""
        return not any(self.flipped_stable)


def verify(encoder: Encoder) -> Verification:
    """Encode a model's golden examples on this machine and compare the codes with its contract.

    Args:
        encoder: the model to verify, on the providers to verify.

    Raises:
        ModelError: the model has no golden examples, or one of them cannot be encoded.
        ProviderError: the session failed while running.
        ValueError: the encoder is closed.
    """
    contract, path = encoder.contract, encoder.model.path
    if not contract.golden:
        raise ModelError(
            f"{path}: holds no golden examples to compare with; export the model with "
            "export/to_onnx.py, which writes some"
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
