"""Cluttered backgrounds: crops of photographs, or generated textures."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bitgaze.encoding.images import upright

# Shorter side of the images in memory, in pixels; at 192 each takes 150 kB.
_KEPT_SIDE = 192
# Side of a crop, as a share of the image's shorter side.
_CROP = (0.5, 1.0)
# From coarse to fine: cells per side, and weight. Most of the noise is grey, as in photographs.
_NOISE = ((3, 0.9), (8, 0.5), (32, 0.3))
_COLOUR = 0.3
_SHAPES = (6, 16)


def prepared(source: NDArray[np.uint8] | Path) -> NDArray[np.uint8]:
    """Load an image for `cropped`: uint8 (height, width, 3), with a shorter side of 192 px.

    Raises:
        ImageError: the image cannot be read.
    """
    image = upright(source, _KEPT_SIDE)
    scale = _KEPT_SIDE / min(image.size)
    width, height = (max(_KEPT_SIDE, round(scale * length)) for length in image.size)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def cropped(
    sources: list[NDArray[np.uint8]], side: int, generator: np.random.Generator
) -> NDArray[np.uint8]:
    """A random square of one of the images, mirrored half the time: uint8 (side, side, 3)."""
    source = sources[int(generator.integers(len(sources)))]
    height, width = source.shape[:2]
    crop = int(generator.uniform(*_CROP) * min(height, width))
    top = int(generator.integers(height - crop + 1))
    left = int(generator.integers(width - crop + 1))
    image = Image.fromarray(source[top : top + crop, left : left + crop])
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    if generator.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.array(image)


def textured(side: int, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Smooth noise with rectangles and ellipses on top: uint8 (side, side, 3)."""
    values = np.full((side, side, 3), generator.uniform(60, 195, 3), np.float32)
    for cells, weight in _NOISE:
        noise = generator.uniform(-128, 128, (cells, cells, 3)).astype(np.float32)
        noise = _COLOUR * noise + (1 - _COLOUR) * noise[:, :, :1]
        for channel in range(3):
            smooth = Image.fromarray(np.ascontiguousarray(noise[:, :, channel]))
            smooth = smooth.resize((side, side), Image.Resampling.BICUBIC)
            values[:, :, channel] += weight * np.asarray(smooth)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for _ in range(int(generator.integers(*_SHAPES))):
        left, top = generator.uniform(-0.1, 0.9, 2) * side
        width, height = generator.uniform(0.05, 0.4, 2) * side
        # Translucent: a shape of one solid colour would stand out.
        colour = (*generator.integers(0, 256, 3).tolist(), int(generator.integers(96, 224)))
        shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
        shape((left, top, left + width, top + height), fill=colour)
    return np.array(image)
