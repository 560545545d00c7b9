"""Adaptation: fits codes to a collection of images, by an offset and a rotation of hash values.

A model's bits are balanced on the images it was made with. On other images many hash values nearly
always have the same sign, and their bits carry no information. Subtracting the collection's mean
and rotating so that taking signs loses little (ITQ: Gong and Lazebnik, CVPR 2011) balances them
again. Works on arrays alone.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.hamming import pack

# On Fashion-MNIST, 20 steps cost .004 mAP, and 100 gained .002.
_STEPS = 50
# Rounding error of float32 sums over up to 1024 bits.
_MAX_ORTHOGONALITY_ERROR = 1e-4


@dataclass(frozen=True, eq=False)
class Adaptation:
    """The transformation of hash values whose signs are a gallery's codes.

    Attributes:
        offset: float32, (bits,), subtracted first.
        rotation: float32, (bits, bits), orthogonal; hash values are rows and multiply it from the
            left.

    Raises:
        ValueError: another dtype or shape, a value that is not finite, or a rotation that is not
            orthogonal.
    """

    offset: NDArray[np.float32]
    rotation: NDArray[np.float32]

    def __post_init__(self) -> None:
        bits = self.offset.size
        for name, shape in (("offset", (bits,)), ("rotation", (bits, bits))):
            array = getattr(self, name)
            if array.dtype != np.float32 or array.shape != shape:
                raise ValueError(f"{name} is {array.dtype} {array.shape}, expected float32 {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} holds values that are not finite")
        with np.errstate(all="ignore"):  # a rotation that overflows is not orthogonal either
            error = np.abs(self.rotation.T @ self.rotation - np.eye(bits, dtype=np.float32)).max()
        if not error < _MAX_ORTHOGONALITY_ERROR:
            raise ValueError("rotation is not orthogonal")

    @classmethod
    def from_bytes(cls, content: bytes, bits: int) -> "Adaptation":
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: the wrong number of bytes, or values that are not an adaptation.
        """
        if len(content) != 4 * bits * (bits + 1):
            raise ValueError(
                f"adaptation has {len(content)} bytes, expected {4 * bits * (bits + 1)}"
            )
        values = np.frombuffer(content, "<f4").astype(np.float32)
        return cls(values[:bits], values[bits:].reshape(bits, bits))

    def to_bytes(self) -> bytes:
        """The offset, then the rotation row by row, as little-endian float32."""
        return self.offset.astype("<f4").tobytes() + self.rotation.astype("<f4").tobytes()

    @property
    def fingerprint(self) -> str:
        """Identity, 64 hex digits: SHA-256 of `to_bytes`."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def apply(self, hashes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Transform the model's hash values; float32, (..., bits), in and out."""
        # In float64, so that rounding does not flip signs: an image alone and the same image in a
        # batch are multiplied in a different order.
        values = (hashes - self.offset.astype(np.float64)) @ self.rotation.astype(np.float64)
        return values.astype(np.float32)


def fit(hashes: NDArray[np.float32]) -> Adaptation:
    """Fit an adaptation to the images with these hash values; deterministic.

    Args:
        hashes: float32, (n, bits), from the model. The caller decides how many are enough.

    Raises:
        ValueError: no rows, or a value that is not finite.
    """
    if not len(hashes) or not np.isfinite(hashes).all():
        raise ValueError("fitting an adaptation requires at least one row of finite hash values")
    points = hashes.astype(np.float64)
    offset = points.mean(axis=0).astype(np.float32)
    points -= offset
    # Start from the model's own axes: as good as principal axes or a random rotation, and better
    # with few images.
    rotation = np.eye(points.shape[1])
    previous = np.zeros_like(points)
    for _ in range(_STEPS):
        signs = np.where(points @ rotation > 0, 1.0, -1.0)
        if np.array_equal(signs, previous):  # converges early with few images
            break
        previous = signs
        left, _, right = np.linalg.svd(points.T @ signs)
        rotation = left @ right
    return Adaptation(offset, rotation.astype(np.float32))


def adapted_codes(hashes: NDArray[np.float32], adaptation: Adaptation | None) -> NDArray[np.uint8]:
    """A gallery's codes from the model's hash values.

    Args:
        hashes: float32, (..., bits), from the model.
        adaptation: the gallery's; None for the model's own codes.

    Returns:
        uint8, (..., bits // 8).
    """
    return pack(hashes if adaptation is None else adaptation.apply(hashes))


def adapted(encoded: Encoded, adaptation: Adaptation | None, encoder: Encoder) -> Encoded:
    """A model's result with the codes and hash values of an adapted gallery.

    Args:
        encoded: the result of `encoder`.
        adaptation: the gallery's; None returns `encoded` unchanged.
        encoder: the gallery's model.
    """
    if adaptation is None:
        return encoded
    values = adaptation.apply(encoded.view_hashes)
    # The error bound of each rotated value, if every value in its sum is off by the tolerance.
    error = encoder.contract.tolerance * np.abs(adaptation.rotation).sum(axis=0)
    values[list(encoded.errors)] = 0
    hashes, look_hashes = values[:, 0], values[:, 1:]
    return replace(
        encoded,
        codes=pack(hashes),
        hashes=hashes,
        stable=np.abs(hashes) > error,
        looks=pack(look_hashes),
        look_hashes=look_hashes,
    )


def carried_over(kind: ArrayLike, from_rates: ArrayLike, to_rates: ArrayLike) -> tuple[float, ...]:
    """Transfer a table of probabilities by distance to codes with other distances.

    Each distance takes the probability of the old distance with the same false-match rate. Where
    the new rates are too high, because related pairs were counted as unrelated, the result is too
    low.

    Args:
        kind: (bits + 1,), probabilities by old distance, never rising.
        from_rates: (bits + 1,), share of unrelated pairs at each old distance or nearer.
        to_rates: (bits + 1,), the same by new distance.
    """
    table = np.asarray(kind, np.float64)
    distances = np.searchsorted(np.asarray(from_rates), np.asarray(to_rates), side="left")
    return tuple(table[np.minimum(distances, len(table) - 1)].tolist())


def carried_over_from(model: Calibration | None, rates: tuple[float, ...]) -> Calibration:
    """The calibration of adapted codes.

    Args:
        model: the calibration of the model's own codes; None if they have none.
        rates: `Calibration.false_match` of the adapted codes, measured on the gallery's images.
    """
    if model is None:
        return Calibration((), (), rates)
    tables = [
        carried_over(table, model.false_match, rates) if table else ()
        for table in (model.duplicate, model.kind)
    ]
    return Calibration(tables[0], tables[1], rates)
