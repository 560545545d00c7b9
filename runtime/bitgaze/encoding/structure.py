"""The structural code of an image: what it looks like, whatever it shows.

PDQ's 256-bit perceptual hash (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ
Image-Hashing Algorithm", 2019) of an image of 64 x 64 pixels. PDQ itself shrinks images with two
box filters and takes every n-th pixel, which leaves aliases: Pillow's filter, which does not, moves
a code by 3 bits instead of 18 when a photograph is sent at 200 pixels and quality 50, and hardly
depends on the scale at which a JPEG was decoded.
"""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.resizing import resized

STRUCTURE_BITS = 256

_T = TypeVar("_T", bound=np.floating)

# Pixels a side that the transform is of, and its coefficients a side.
_SIDE, _KEPT = 64, 16
# As in PDQ (ITU-R BT.601).
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Type II discrete cosine transform, without the constant term: (16, 64).
_DCT = np.sqrt(2 / _SIDE) * np.cos(
    np.pi / (2 * _SIDE) * np.outer(np.arange(1, _KEPT + 1), 2 * np.arange(_SIDE) + 1)
)
# Mirroring an image changes the sign of the cosines of odd frequency: of the first, the third, ...
_ODD = np.where(np.arange(_KEPT) % 2, 1.0, -1.0)
# Bits of coefficients within 2 of the median are noise. Of photographs, blurred ones too, at least
# 109 of the 256 coefficients are further away; of skies, gradients and plain colours at most 2.
# PDQ's own measure of quality finds 44 of 100 in a gradient, and 5 in a photograph.
_CLEAR, _LEAST_CLEAR = 2.0, 64


def structural_code(image: Image.Image) -> NDArray[np.uint8]:
    """Compute the structural code of an image.

    Compare codes by Hamming distance, which is even: 0 to about 30 for an image that was resized,
    compressed, recoloured or blurred, 128 on average for different images. Crops, borders, turns
    and mirrors change a code as much as another image does.

    Args:
        image: RGB, upright, of any size; JPEGs may have been decoded at a reduced scale.

    Returns:
        uint8, shape (32,), with 128 bits set; or all zero for an image too plain to have a
        structure (one colour, a gradient, a clear sky): whether two of them are the same cannot be
        seen.

    Raises:
        ValueError: the image is not RGB.
    """
    return _packed(_coefficients(image))


def turned_codes(image: Image.Image) -> NDArray[np.uint8]:
    """Compute the structural codes of an image turned and mirrored, from one transform.

    Args:
        image: as for `structural_code`.

    Returns:
        uint8, shape (8, 32). Row i is the code of the image as a viewer shows it that follows an
        EXIF orientation of i + 1; row 0 is the image as given.

    Raises:
        ValueError: the image is not RGB.
    """
    return np.stack([_packed(turned) for turned in orientations(_coefficients(image))])


def turned_versions(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Estimate `turned_codes` from an image's code alone: to about 6 bits.

    Args:
        codes: structural codes, uint8, shape (n, 32).

    Returns:
        uint8, shape (n, 8, 32).
    """
    bits = orientations(signs(codes)).reshape(len(codes), 8, STRUCTURE_BITS) > 0
    return np.packbits(bits[..., ::-1], axis=-1)


def orientations(coefficients: NDArray[_T]) -> NDArray[_T]:
    """Turn and mirror images by their coefficients, or the signs of these.

    Args:
        coefficients: shape (..., 16, 16), rows by vertical frequency.

    Returns:
        Shape (..., 8, 16, 16), in the order of `turned_codes`.
    """
    columns, rows = (
        _ODD[None, :].astype(coefficients.dtype),
        _ODD[:, None].astype(coefficients.dtype),
    )
    mirrored = [
        coefficients,
        coefficients * columns,
        coefficients * (rows * columns),
        coefficients * rows,
    ]
    upended = [mirrored[i].swapaxes(-2, -1) for i in (0, 3, 2, 1)]
    return np.stack([*mirrored, *upended], axis=-3)


def signs(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The signs that structural codes hold of the coefficients, relative to their median.

    Args:
        codes: uint8, shape (..., 32).

    Returns:
        float32, shape (..., 16, 16): 1 or -1, rows by vertical frequency.
    """
    bits = np.unpackbits(codes, axis=-1)[..., ::-1]
    return np.where(bits, np.float32(1), np.float32(-1)).reshape(*codes.shape[:-1], _KEPT, _KEPT)


def _coefficients(image: Image.Image) -> NDArray[np.float64]:
    """Cosine coefficients of low frequency, (16, 16): rows by vertical frequency."""
    if image.mode != "RGB":
        raise ValueError(f"the image has mode {image.mode}, expected RGB")
    square = resized(image, (_SIDE, _SIDE), Image.Resampling.BILINEAR)
    brightness = (np.asarray(square, np.float32) @ _LUMA).astype(np.float64)
    coefficients: NDArray[np.float64] = _DCT @ brightness @ _DCT.T
    return coefficients


def _packed(coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A bit for each coefficient, set if it is above the lower median, in PDQ's order."""
    values = coefficients.ravel()
    median = np.partition(values, len(values) // 2 - 1)[len(values) // 2 - 1]
    if np.count_nonzero(np.abs(values - median) > _CLEAR) < _LEAST_CLEAR:
        return np.zeros(STRUCTURE_BITS // 8, np.uint8)
    return np.packbits((values > median)[::-1])
