"""Codes fitted to a collection of images: an offset and a rotation of a model's hash values.

A model's bits are balanced on the images it was made with. On others many hash values have one
sign nearly always, and their bits say nothing. Moved to the mean of one's own images and turned
so that signs lose little (ITQ: Gong and Lazebnik, CVPR 2011), they do. Knows numbers only.
"""

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.encoder import Encoded
from bitgaze.hamming import pack

# 20 gave Fashion-MNIST .004 less mAP, 100 gave .002 more.
_STEPS = 50
# What float32 and a sum over at most 1024 bits can be off.
_ORTHOGONAL_WITHIN = 1e-4


@dataclass(frozen=True, eq=False)
class Adaptation:
    """What a gallery does to hash values before their signs become a code.

    Attributes:
        offset: float32, (bits,), taken off first.
        rotation: float32, (bits, bits), orthogonal; values are rows and are multiplied from the
            left.

    Raises:
        ValueError: other types or shapes, a number that is not finite, or a rotation that is not
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
                raise ValueError(f"{name} is not all finite numbers")
        with np.errstate(all="ignore"):  # what overflows is not orthogonal either
            error = np.abs(self.rotation.T @ self.rotation - np.eye(bits, dtype=np.float32)).max()
        if not error < _ORTHOGONAL_WITHIN:
            raise ValueError("rotation is not orthogonal")

    @classmethod
    def from_bytes(cls, content: bytes, bits: int) -> "Adaptation":
        """Reads what `to_bytes` wrote.

        Raises:
            ValueError: another length, or numbers that are no adaptation's.
        """
        if len(content) != 4 * bits * (bits + 1):
            raise ValueError(f"{len(content)} bytes, expected {4 * bits * (bits + 1)}")
        values = np.frombuffer(content, "<f4").astype(np.float32)
        return cls(values[:bits], values[bits:].reshape(bits, bits))

    def to_bytes(self) -> bytes:
        """Offset, then rotation by rows, float32, little-endian."""
        return self.offset.astype("<f4").tobytes() + self.rotation.astype("<f4").tobytes()

    @property
    def fingerprint(self) -> str:
        """Identity, 64 hex digits: SHA-256 of the bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def apply(self, hashes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Hash values of the model to those of the adapted codes: float32, (n, bits) both."""
        # In float64, rounding cannot be seen in a sign: an image alone and the same in a batch
        # are multiplied in another order.
        values = (hashes - self.offset.astype(np.float64)) @ self.rotation.astype(np.float64)
        return values.astype(np.float32)

    def codes(self, hashes: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Hash values of the model, float32, (n, bits), to adapted codes, uint8, (n, bits // 8)."""
        return pack(self.apply(hashes))


def fit(hashes: NDArray[np.float32]) -> Adaptation:
    """The adaptation to the images with these hash values; the same for the same values.

    Args:
        hashes: float32, (n, bits), as the model gives them. How many it takes is the caller's to
            know.

    Raises:
        ValueError: no rows, or a value that is not finite.
    """
    if not len(hashes) or not np.isfinite(hashes).all():
        raise ValueError("an adaptation is fitted to at least one row of finite hash values")
    points = hashes.astype(np.float64)
    offset = points.mean(axis=0).astype(np.float32)
    points -= offset
    # From the model's own directions on: they are as good a start as principal axes or chance, and
    # with few images a better one.
    rotation = np.eye(points.shape[1])
    before = np.zeros_like(points)
    for _ in range(_STEPS):
        signs = np.where(points @ rotation > 0, 1.0, -1.0)
        if np.array_equal(signs, before):  # with few images soon
            break
        before = signs
        left, _, right = np.linalg.svd(points.T @ signs)
        rotation = left @ right
    return Adaptation(offset, rotation.astype(np.float32))


def adapted(encoded: Encoded, adaptation: Adaptation | None, tolerance: float) -> Encoded:
    """What a model says of images, with the codes and hash values of an adapted gallery.

    Args:
        encoded: by the model.
        adaptation: of the gallery; None leaves everything as it is.
        tolerance: of the model's hash values, see `Contract`.
    """
    if adaptation is None:
        return encoded
    hashes = adaptation.apply(encoded.hashes)
    # What each value can be off by, when all that it is a sum of are.
    stable = np.abs(hashes) > tolerance * np.abs(adaptation.rotation).sum(axis=0)
    unread = list(encoded.errors)
    hashes[unread], stable[unread] = 0, False
    return replace(encoded, codes=pack(hashes), hashes=hashes, stable=stable)


def carried_over(kind: ArrayLike, from_rates: ArrayLike, to_rates: ArrayLike) -> tuple[float, ...]:
    """A table of probabilities by distance, for codes whose distances mean something else.

    A distance takes the probability of the one that as many unrelated pairs are within. Where the
    new rates are too high, because related pairs were taken for unrelated ones, it is too low.

    Args:
        kind: (bits + 1,), never rises with distance.
        from_rates: (bits + 1,): share of unrelated pairs that are as near or nearer, where `kind`
            holds.
        to_rates: the same, where the result is to hold.
    """
    table = np.asarray(kind, np.float64)
    distances = np.searchsorted(np.asarray(from_rates), np.asarray(to_rates), side="left")
    return tuple(table[np.minimum(distances, len(table) - 1)].tolist())


def with_kind_of(calibration: Calibration, model: Calibration | None) -> Calibration:
    """A calibration without labels, with the model's probabilities of the same kind."""
    if model is None or not model.kind:
        return calibration
    kind = carried_over(model.kind, model.false_match, calibration.false_match)
    return Calibration(calibration.duplicate, kind, calibration.false_match)
