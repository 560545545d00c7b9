"""Where an image shows another one inside a frame: bars of a screen, margins, a border.

Knows bands of one colour only. What is found is a guess, to be compared with other images.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.images import Box

# Grey levels by which pixels of one colour differ in a JPEG.
_PLAIN = 16
# Of each side: what is less is no frame, or no image.
_LEAST_CUT, _LEAST_LEFT = 0.02, 0.2
# Pixels a side that are left: fewer have no structure to speak of.
_LEAST_SIDE = 32


def inside_frame(image: Image.Image) -> Box | None:
    """Find the largest part of an image between rows, then columns, of one colour.

    A photograph on a telephone's screen lies between such rows, and the clock above them.

    Args:
        image: of any size and mode; the frame is found to the pixel.

    Returns:
        left, top, right, bottom, in [0, 1]; None if there is no frame, or hardly anything inside.
    """
    grey = np.asarray(image.convert("L"), np.int16)
    height, width = grey.shape
    top, bottom = _longest(grey)
    left, right = _longest(grey[top:bottom].T)
    if right - left < max(_LEAST_LEFT * width, _LEAST_SIDE):
        return None
    if bottom - top < max(_LEAST_LEFT * height, _LEAST_SIDE):
        return None
    cut = max(1 - (right - left) / width, 1 - (bottom - top) / height)
    if cut < _LEAST_CUT:
        return None
    return left / width, top / height, right / width, bottom / height


def _longest(grey: NDArray[np.int16]) -> tuple[int, int]:
    """The longest run of rows that do not belong to a frame: its start and its end.

    Rows of a frame have one colour, and it is that of the first row or of the last: a plain sky or
    the white behind a product is inside.
    """
    if not grey.size:
        return 0, 0
    least, most = grey.min(axis=1), grey.max(axis=1)
    is_plain = most - least <= _PLAIN
    is_frame = np.zeros(len(grey), bool)
    for edge in (0, -1):
        if is_plain[edge]:
            is_frame |= is_plain & (np.abs(least - least[edge]) <= _PLAIN)
    edges = np.flatnonzero(np.diff(~is_frame, prepend=False, append=False))
    if not len(edges):
        return 0, 0
    starts, ends = edges[::2], edges[1::2]
    longest = int(np.argmax(ends - starts))
    return int(starts[longest]), int(ends[longest])
