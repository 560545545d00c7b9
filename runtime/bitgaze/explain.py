"""Why a picture is where it is: the attention map laid over it.

Knows pictures and maps. Does not know galleries or pages.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Five points of a ramp from dark violet to pale yellow, even in lightness, so that it reads the
# same in grey print and with colour-blind eyes.
_RAMP = np.array(
    [(13, 8, 65), (107, 26, 110), (196, 60, 78), (246, 130, 31), (252, 236, 150)], np.float32
)
_HEAT_OPACITY = 0.6


def overlay(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """The picture with its attention as heat.

    Args:
        image: upright, RGB, any size.
        attention: (h, w), in [0, 1], over the whole of `image`.

    Returns:
        A new image of the same size.

    Raises:
        ValueError: attention that is not two-dimensional.
    """
    if attention.ndim != 2:
        raise ValueError(f"attention has shape {attention.shape}, expected (h, w)")
    coarse = Image.fromarray(attention.astype(np.float32))
    strength = np.asarray(coarse.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    opacity = _HEAT_OPACITY * strength[..., None]
    blended = (1 - opacity) * np.asarray(image, np.float32) + opacity * _heat(strength)
    return Image.fromarray(blended.round().astype(np.uint8))


def _heat(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values in [0, 1], (h, w), to colours (h, w, 3), 0..255."""
    points = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(strength, points, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
