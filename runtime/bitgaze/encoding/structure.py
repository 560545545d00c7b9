"""The structural code of an image: what it looks like, whatever it shows.

PDQ's 256-bit perceptual hash (Facebook, "The TMK+PDQF Video-Hashing Algorithm and the PDQ
Image-Hashing Algorithm", 2019) of an image of 64 x 64 pixels. PDQ itself shrinks images with two
box filters and takes every n-th pixel, which leaves aliases: Pillow's filter, which does not, moves
a code by 3 bits instead of 18 when a photograph is sent at 200 pixels and quality 50, and hardly
depends on the scale at which a JPEG was decoded.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STRUCTURE_BITS = 256

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
_COLUMNS, _ROWS = _ODD[None, :], _ODD[:, None]
# As the encoder resizes: first by whole factors, which is fast.
_REDUCING_GAP = 2.0
_DECIMALS = 6


class Structure(NamedTuple):
    """The structural code of one image.

    Attributes:
        code: uint8, shape (32,). Compare codes by Hamming distance: 0 to about 30 for an image that
            was resized, compressed, recoloured or blurred, about 128 for different images. Crops,
            borders, turns and mirrors change it as much as another image does.
        quality: PDQ's, 0 to 100: how much there is to see. Codes of plain images are noise, and say
            nothing of whether two images are the same.
    """

    code: NDArray[np.uint8]
    quality: int


def structure(image: Image.Image) -> Structure:
    """Compute the structural code of an image.

    Args:
        image: RGB, upright, of any size; JPEGs may have been decoded at a reduced scale.

    Raises:
        ValueError: the image is not RGB.
    """
    luma = _luma(image)
    return Structure(_packed(_coefficients(luma)), _quality(luma))


def turned_codes(image: Image.Image) -> NDArray[np.uint8]:
    """Compute the structural codes of an image turned and mirrored, from one transform.

    Args:
        image: as for `structure`.

    Returns:
        uint8, shape (8, 32). Row i is the code of the image as a viewer shows it that follows an
        EXIF orientation of i + 1; row 0 is the image as given.

    Raises:
        ValueError: the image is not RGB.
    """
    given = _coefficients(_luma(image))
    return np.stack(
        [
            _packed(turned)
            for turned in (
                given,
                given * _COLUMNS,
                given * _ROWS * _COLUMNS,
                given * _ROWS,
                given.T,
                (given * _ROWS).T,
                (given * _ROWS * _COLUMNS).T,
                (given * _COLUMNS).T,
            )
        ]
    )


def _luma(image: Image.Image) -> NDArray[np.float32]:
    """The whole image as 64 x 64 brightnesses, 0 to 255."""
    if image.mode != "RGB":
        raise ValueError(f"the image has mode {image.mode}, expected RGB")
    if image.size != (_SIDE, _SIDE):
        image = image.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=_REDUCING_GAP)
    return np.asarray(image, np.float32) @ _LUMA


def _coefficients(luma: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine coefficients of low frequency, (16, 16): rows by vertical frequency."""
    coefficients: NDArray[np.float64] = _DCT @ luma.astype(np.float64) @ _DCT.T
    return coefficients


def _packed(coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A bit for each coefficient, set if it is above the lower median, in PDQ's order."""
    # Rounded, so that coefficients that are 0 but for rounding compare alike on every machine.
    values = np.round(coefficients.ravel(), _DECIMALS)
    median = np.partition(values, len(values) // 2 - 1)[len(values) // 2 - 1]
    return np.packbits((values > median)[::-1])


def _quality(luma: NDArray[np.float32]) -> int:
    """PDQ's measure: differences of neighbours in whole percent, summed, over 90, at most 100."""
    differences = (np.diff(luma, axis=axis).ravel() for axis in (0, 1))
    total = sum(int(np.abs(np.trunc(part * 100 / 255)).sum()) for part in differences)
    return min(total // 90, 100)
