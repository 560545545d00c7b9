"""Whether an image shows the same as a part of another, pixel by pixel.

Structural codes find a part to within 2 % of a side (parts.py). From there the image is laid over
it by the affine map that makes brightness differ least (Lucas and Kanade, IJCAI 1981), and compared
block by block. A crop agrees nearly everywhere; another photograph of the same thing, or another
product in the same packaging, in places.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bitgaze.encoding.images import Source, with_upright
from bitgaze.encoding.parts import Part, find_part
from bitgaze.encoding.resizing import resized

# Pixels a side that are compared. The map is fitted to a quarter of them first, which bears the
# largest errors, then to half, then to all.
_SIDE = 128
_SIDES, _STEPS = (32, 64, _SIDE), 10
# Sides, shorter and longer, of an image of which a part of 60 % of each has _SIDE pixels.
_SHORTER, _LONGER = 214, 428
# In standard deviations of brightness: what differs more, such as a caption, hardly counts.
_TOLERANCE = 1.0
# Movement of the farthest corner, in pixels, at which the map is good enough.
_SMALL_STEP = 0.02
_DAMPING, _TINY = 1e-3, 1e-9
# Pixels at the edges belong to a border in part; 8 x 8 blocks are left.
_EDGE, _BLOCK = 4, 15
# Blocks of a smaller standard deviation, of 255 levels, are plain.
_LEAST_CONTRAST = 6.0
# Of 42 images, crops down to 70 %, sent by a messenger too, have a lower quartile of .96 or more,
# and borders of 10 % of .98 in the median. Of 18 pairs of other photographs of one thing, and of
# products in one packaging, that agreed by code, the highest is .93.
_QUARTILE, _LEAST_CORRELATION, _FEWEST = 0.25, 0.95, 8
# What each EXIF orientation asks a viewer to do.
_TURNS = (
    None,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_180,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def reduced(source: Source) -> Image.Image:
    """Decode an image to what can be compared: grey, at most 428 pixels a side.

    Raises:
        ImageError: the image cannot be read.
    """
    return with_upright(
        source, _SHORTER, lambda image: ImageOps.contain(image.convert("L"), (_LONGER, _LONGER))
    )


def is_part(
    one: Image.Image,
    other: Image.Image,
    codes: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    *,
    turned: bool,
) -> bool:
    """Whether one of two images shows a part of the other, or all of it; slightly turned, too.

    Args:
        one: as `reduced` returns it.
        other: likewise.
        codes: their structural codes, not zero.
        turned: whether it may be mirrored or turned by quarters.
    """
    forward, backward = (find_part(*pair, turned=turned) for pair in (codes, codes[::-1]))
    found = (
        block_correlations(one, other, forward)
        if forward.agreement >= backward.agreement
        else block_correlations(other, one, backward)
    )
    return len(found) >= _FEWEST and bool(np.quantile(found, _QUARTILE) >= _LEAST_CORRELATION)


def block_correlations(whole: Image.Image, image: Image.Image, part: Part) -> NDArray[np.float64]:
    """Correlations of an image's blocks with the part of another image that it may show.

    Args:
        whole: the other image, grey.
        image: grey.
        part: where in `whole` it is, about.

    Returns:
        float64, shape (m,), in [-1, 1]: of those of 8 x 8 blocks that are not plain in both.
    """
    turn = _TURNS[part.orientation - 1]
    upright = image if turn is None else image.transpose(turn)
    left, top, right, bottom = part.box
    # Pixels of the part to pixels of the whole, both of `_SIDE` for the part's sides: 2 x 3.
    size = round(_SIDE / (right - left)), round(_SIDE / (bottom - top))
    to_whole = np.array(
        [
            [size[0] * (right - left) / _SIDE, 0, size[0] * left],
            [0, size[1] * (bottom - top) / _SIDE, size[1] * top],
        ]
    )
    for side in _SIDES:
        scale = side / _SIDE
        target = _standard(_grey(upright, (side, side)))
        source = _grey(whole, (round(size[0] * scale), round(size[1] * scale)))
        to_whole[:, 2] *= scale
        _fit(source, target, to_whole)
        to_whole[:, 2] /= scale
    shown = np.asarray(_grey(upright, (_SIDE, _SIDE)))
    found = np.asarray(_laid(_grey(whole, size), to_whole, _SIDE))
    return _correlations(shown, found)


def _fit(source: Image.Image, target: NDArray[np.float64], to_source: NDArray[np.float64]) -> None:
    """Improve a map, in place, by Levenberg's steps: damped where brightness says little."""
    side = len(target)
    down, across = np.mgrid[0:side, 0:side]
    found, damping = _standard(_laid(source, to_source, side)), _DAMPING
    least = _cost(target - found)
    for _ in range(_STEPS):
        slope_down, slope_across = np.gradient(found)
        columns = [
            slope * factor
            for slope in (slope_across, slope_down)
            for factor in (across, down, np.ones((side, side)))
        ]
        slopes = np.stack([column.ravel() for column in columns], axis=1)
        error = (target - found).ravel()
        # Where the images differ, by a caption or a corner, nothing is to be learned.
        weighted = slopes / (1 + (error / _TOLERANCE) ** 2)[:, None]
        squares = weighted.T @ slopes
        damped = squares + damping * np.diag(np.diag(squares) + _TINY)
        step = np.linalg.solve(damped, weighted.T @ error).reshape(2, 3)
        moved = _standard(_laid(source, to_source + step, side))
        cost = _cost(target - moved)
        if cost >= least:
            damping *= 10
            continue
        to_source += step
        found, least, damping = moved, cost, damping / 10
        if np.abs(step @ (side, side, 1)).max() < _SMALL_STEP:
            break


def _cost(error: NDArray[np.float64]) -> float:
    return float(np.log1p((error / _TOLERANCE) ** 2).sum())


def _grey(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return resized(image, size, Image.Resampling.BILINEAR).convert("F")


def _laid(source: Image.Image, to_source: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """The part of an image that a map leads to: (side, side)."""
    return np.asarray(
        source.transform(
            (side, side),
            Image.Transform.AFFINE,
            tuple(to_source.ravel()),
            Image.Resampling.BILINEAR,
        ),
        np.float64,
    )


def _standard(pixels: NDArray[np.float64] | Image.Image) -> NDArray[np.float64]:
    values = np.asarray(pixels, np.float64)
    return np.asarray((values - values.mean()) / (values.std() + 1e-9))


def _correlations(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    blocks = []
    for pixels in (one, other):
        count = (_SIDE - 2 * _EDGE) // _BLOCK
        by_block = (
            pixels[_EDGE:-_EDGE, _EDGE:-_EDGE]
            .reshape(count, _BLOCK, count, _BLOCK)
            .transpose(0, 2, 1, 3)
        )
        values = by_block.reshape(count * count, _BLOCK * _BLOCK).astype(np.float64)
        blocks.append(values - values.mean(axis=1, keepdims=True))
    deviations = [block.std(axis=1) for block in blocks]
    is_shown = np.maximum(*deviations) > _LEAST_CONTRAST
    products = (blocks[0] * blocks[1]).mean(axis=1)
    return np.asarray((products / (deviations[0] * deviations[1] + 1e-9))[is_shown])
