"""Panels: parts of an image that may be images of their own, as in a screenshot or a collage.

An image that was pasted into another has straight edges. Around it the other is often plain, as
the margins of a telephone's screen are: rows and columns of one level are cut away, in turns (an
XY-cut; Nagy and Seth, ICPR 1984). Where images adjoin, the level changes along a whole line at
once, and not beside it.
"""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from bitgaze.encoding.images import Box, Region, Source, with_upright
from bitgaze.encoding.registration import reduced

MOST_PANELS = 6
# Pixels a side that an image is decoded to: a panel of a tenth of it has 300, more than a model's
# input.
_SHORTER, _LONGER = 512, 1024
# Shares of the image's area.
_LEAST_AREA, _LARGEST_AREA = 0.1, 0.92
_LEAST_SIDE = 32  # pixels
# Rows and columns of a smaller standard deviation, of 255 levels, are plain. Fewer than 3 plain
# ones between others belong to them.
_PLAIN, _GAP = 4.0, 3
_CUTS = 4  # in turns
# A pixel is a step if those before and behind it differ by over 12 levels. At a seam, steps are
# more frequent than around it, along all of it, and than 3 rows beside it: by this share in sum. Of
# 240 pairs of photographs side by side, 92 % have such a seam where they adjoin; of as many single
# photographs, 10 % have one somewhere.
_STEP, _SEAM = 12, 0.4
_NEAREST, _FARTHEST, _BESIDE = 4, 14, 3  # rows before and behind a seam
_MARGIN = 0.12  # of a side; nearer to an edge there is no panel
_SPLITS = 2  # a collage of four images is split twice

_Rows: TypeAlias = tuple[int, int]
# Rows, then columns: first, and behind the last.
_Area: TypeAlias = tuple[_Rows, _Rows]


def panels(source: Source) -> list[Region]:
    """The panels of an image, which is decoded once for all of them.

    Args:
        source: the image, no region.

    Returns:
        As of `find_panels`.

    Raises:
        ImageError: the image cannot be read.
    """
    image = with_upright(source, _SHORTER, _small, copies=1)
    return [Region(image, box) for box in find_panels(reduced(image))]


def _small(image: Image.Image) -> Image.Image:
    if max(image.size) <= _LONGER:
        return image.copy()
    return ImageOps.contain(image, (_LONGER, _LONGER), Image.Resampling.BILINEAR)


def find_panels(image: Image.Image) -> list[Box]:
    """Find the parts of an image that may be images of their own.

    Args:
        image: grey, of at least 200 pixels or so a side for panels of a tenth of it.

    Returns:
        At most 6 boxes as shares of the sides, the largest first: left, top, right, bottom. One may
        contain others. They are guesses: one photograph in five has some.
    """
    levels = np.asarray(image, np.float32)
    height, width = levels.shape
    found = dict.fromkeys(
        area
        for block in _blocks(levels, ((0, height), (0, width)))
        if _size(block) >= _LEAST_AREA * levels.size
        for area in (block, *_split(levels, block, _SPLITS))
    )
    panels = [
        area
        for area in found
        if _LEAST_AREA <= _size(area) / levels.size <= _LARGEST_AREA
        and min(last - first for first, last in area) >= _LEAST_SIDE
    ]
    panels.sort(key=_size, reverse=True)
    return [
        (left / width, top / height, right / width, bottom / height)
        for (top, bottom), (left, right) in panels[:MOST_PANELS]
    ]


def _size(area: _Area) -> int:
    (top, bottom), (left, right) = area
    return (bottom - top) * (right - left)


def _blocks(levels: NDArray[np.float32], area: _Area) -> list[_Area]:
    """What is left of an area without its plain rows and columns, cut apart where they were."""
    areas = [area]
    for turn in range(2 * _CUTS):
        axis = turn % 2
        cut = [one for some in areas for one in _cut(levels, some, axis)]
        if cut == areas and turn:
            break
        areas = cut
    return areas


def _cut(levels: NDArray[np.float32], area: _Area, axis: int) -> Iterator[_Area]:
    (top, bottom), (left, right) = area
    is_shown = levels[top:bottom, left:right].std(axis=1 - axis) > _PLAIN
    ends = np.flatnonzero(np.diff(is_shown, prepend=False, append=False)).tolist()
    runs: list[_Rows] = []
    for first, last in zip(ends[::2], ends[1::2], strict=True):
        if runs and first - runs[-1][1] < _GAP:
            runs[-1] = runs[-1][0], last
        else:
            runs.append((first, last))
    for first, last in runs:
        yield _within(area, axis, first, last)


def _within(area: _Area, axis: int, first: int, last: int) -> _Area:
    start = area[axis][0]
    rows = start + first, start + last
    return (rows, area[1]) if axis == 0 else (area[0], rows)


def _split(levels: NDArray[np.float32], area: _Area, splits: int) -> list[_Area]:
    """The halves of an area on both sides of its clearest seam, and their halves."""
    (top, bottom), (left, right) = area
    part = levels[top:bottom, left:right]
    seams = [(*seam, axis) for axis in (0, 1) if (seam := _seam(part if axis == 0 else part.T))]
    if not seams or not splits:
        return []
    _, place, axis = max(seams)
    halves = [_within(area, axis, 0, place), _within(area, axis, place, part.shape[axis])]
    return [*halves, *(one for half in halves for one in _split(levels, half, splits - 1))]


def _seam(part: NDArray[np.float32]) -> tuple[float, int] | None:
    """How clear the clearest horizontal seam is, and its row; None without one."""
    height, width = part.shape
    if min(height, width) < _LEAST_SIDE:
        return None
    is_step = (np.abs(part[2:] - part[:-2]) > _STEP).astype(np.float32)
    steps = np.stack([eighth.mean(axis=1) for eighth in np.array_split(is_step, 8, axis=1)])
    sums = np.pad(steps.cumsum(axis=1), ((0, 0), (1, 0)))
    first = max(_FARTHEST, int(_MARGIN * height))
    rows = np.arange(first, min(len(is_step) - _FARTHEST, int((1 - _MARGIN) * height)))
    if not len(rows):
        return None
    before = sums[:, rows - _NEAREST + 1] - sums[:, rows - _FARTHEST]
    behind = sums[:, rows + _FARTHEST + 1] - sums[:, rows + _NEAREST]
    around = (before + behind) / (2 * (_FARTHEST - _NEAREST + 1))
    # One of the eighths may be where both images are alike.
    along = np.sort(steps[:, rows] - around, axis=0)[1]
    whole = steps.mean(axis=0)
    sharp = whole[rows] - np.maximum(whole[rows - _BESIDE], whole[rows + _BESIDE])
    clear = along + sharp
    best = int(clear.argmax())
    return (float(clear[best]), int(rows[best]) + 1) if clear[best] >= _SEAM else None
