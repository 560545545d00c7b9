"""Where to look again: from the maps of an image's likely classes to boxes.

The network sees the whole image at a few hundred pixels. A look is a part of the image, at the
image's own pixels, that goes through the same network: one for each place where a likely class has
its evidence, as large as that evidence, then squares at the peaks of the attention, which is the
expectation over all classes.
"""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST = 15
_KINDS = ("classes, then attention",)
# Steps of the grid of boxes in a cell of the maps.
_STEPS = 4
# Evidence and probability are rounded before anything is decided, so that the last digits, which
# differ between machines, rarely matter: to a part of the map's peak, and to eighths of a power of
# two.
_LEVELS = 1024
_LEVELS_OF_A_DOUBLING = 8


@dataclass(frozen=True)
class LookRule:
    """How a model chooses its looks; part of the model's identity.

    Attributes:
        most: the largest number of looks at an image, 1 to 15.
        probability: of a class, from which it gets a look, in (0, 1).
        extent: a look is as large as the part of the class map around its peak that is above this
            share of the peak, in (0, 1);
        smallest: but at least this share of the image's side, in (0, 1],
        largest: and at most this one, at least `smallest`.
        side: of the looks at peaks of the attention, which fill the places that classes leave, as
            a share of the image's sides, in (0, 1].
        apart: minimum distance of such a peak from the middle of every earlier look, as a share of
            the image's sides, in (0, 1].
        overlap: a look is dropped if intersection over union with an earlier one reaches this, in
            (0, 1].
        kind: the rule above; this version knows no other and refuses them.
    """

    most: int = 3
    probability: float = 0.002
    extent: float = 0.35
    smallest: float = 0.35
    largest: float = 0.8
    side: float = 0.5
    apart: float = 0.22
    overlap: float = 0.5
    kind: str = "classes, then attention"

    def __post_init__(self) -> None:
        if type(self.most) is not int:
            raise TypeError(f"most is {self.most!r}, expected an integer")
        if not 1 <= self.most <= _MOST:
            raise ValueError(f"most is {self.most}, expected 1 to {_MOST}")
        for name, value in asdict(self).items():
            if name in ("most", "kind"):
                continue
            if type(value) is not float:
                raise TypeError(f"{name} is {value!r}, expected a float")
            if not 0 < value <= 1 or (value == 1 and name in ("probability", "extent")):
                raise ValueError(f"{name} is {value}, expected a number between 0 and 1")
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest}, more than largest, {self.largest}")
        if self.kind not in _KINDS:
            raise ValueError(f"kind is {self.kind!r}, this version of bitgaze supports {_KINDS}")


class Look(NamedTuple):
    """A place to look at.

    Attributes:
        box: left, top, right, bottom, in [0, 1] of the image.
        row: of the class map that it was found in; -1 if in the attention.
    """

    box: tuple[float, float, float, float]
    row: int


_Cells = tuple[int, int, int, int]


def choose(
    class_maps: NDArray[np.float32],
    probability: NDArray[np.float32],
    attention: NDArray[np.float32],
    rule: LookRule,
    count: int,
) -> list[Look]:
    """Choose looks at an image, the likeliest class first, the attention's peaks last.

    Everything after the rounding of evidence and probability is computed in integers. Equal
    probabilities go by row, equal peaks by row and column of the map.

    Args:
        class_maps: (k, h, w), the evidence of k classes at each place; covers the whole image.
        probability: (k,), of the classes.
        attention: (h, w), covers the whole image.
        rule: of the model.
        count: largest number of looks, at most `rule.most`.
    """
    with np.errstate(divide="ignore"):
        level = np.rint(_LEVELS_OF_A_DOUBLING * np.log2(probability))
    least = round(_LEVELS_OF_A_DOUBLING * math.log2(rule.probability))
    height, width = (_STEPS * side for side in class_maps.shape[1:])
    found: list[tuple[_Cells, int]] = []
    for row in np.argsort(-level, kind="stable"):
        if len(found) == count or not level[row] >= least:
            break
        evidence = _enlarged(class_maps[row])
        if evidence is None:
            continue
        box = _around_peak(evidence, rule.extent)
        left, right = _bounded(box[0], box[2], width, rule)
        top, bottom = _bounded(box[1], box[3], height, rule)
        _add(found, ((left, top, right, bottom), int(row)), rule)
    if len(found) < count and (evidence := _enlarged(attention)) is not None:
        is_free = np.ones(evidence.shape, bool)
        for box, _ in found:
            _take(is_free, box[0] + box[2], box[1] + box[3], rule)
        while len(found) < count and is_free.any():
            y, x = divmod(int(np.where(is_free, evidence, np.iinfo(np.int64).min).argmax()), width)
            left, right = _centred(x, rule.side, width)
            top, bottom = _centred(y, rule.side, height)
            _add(found, ((left, top, right, bottom), -1), rule)
            _take(is_free, 2 * x + 1, 2 * y + 1, rule)
    return [
        Look((box[0] / width, box[1] / height, box[2] / width, box[3] / height), row)
        for box, row in found
    ]


def _enlarged(class_map: NDArray[np.float32]) -> NDArray[np.int64] | None:
    """Evidence at the steps of the grid, by linear interpolation, or None if there is none."""
    peak = class_map.max()
    if not peak > 0:  # or a value is NaN
        return None
    # Evidence against the class, however strong, is no more than a neighbour can bear.
    levels = np.rint(np.maximum(class_map / peak, -8) * _LEVELS).astype(np.int64)
    rows, columns = (_interpolation(side) for side in levels.shape)
    enlarged: NDArray[np.int64] = rows @ levels @ columns.T
    return enlarged


@lru_cache(maxsize=8)
def _interpolation(cells: int) -> NDArray[np.int64]:
    """Weights of cells at each step, in units of 1 / (2 * _STEPS): (_STEPS * cells, cells)."""
    unit = 2 * _STEPS
    weights = np.zeros((_STEPS * cells, cells), np.int64)
    for step in range(_STEPS * cells):
        # The middle of the step, counted from the middle of the first cell.
        place = min(max(2 * step + 1 - _STEPS, 0), unit * (cells - 1))
        cell, part = divmod(place, unit)
        weights[step, cell] += unit - part
        if part:
            weights[step, cell + 1] += part
    return weights


def _around_peak(evidence: NDArray[np.int64], extent: float) -> _Cells:
    """The box that grows from the peak as long as evidence next to it is above the share."""
    height, width = evidence.shape
    top, left = divmod(int(evidence.argmax()), width)
    right, bottom = left + 1, top + 1
    is_part = evidence * _LEVELS >= round(extent * _LEVELS) * int(evidence.max())
    while True:
        before = left, top, right, bottom
        while left > 0 and is_part[top:bottom, left - 1].any():
            left -= 1
        while right < width and is_part[top:bottom, right].any():
            right += 1
        while top > 0 and is_part[top - 1, left:right].any():
            top -= 1
        while bottom < height and is_part[bottom, left:right].any():
            bottom += 1
        if before == (left, top, right, bottom):
            return before


def _bounded(low: int, high: int, side: int, rule: LookRule) -> tuple[int, int]:
    """Keep the middle of a range, its length within bounds, and the whole within the image."""
    length = min(max(high - low, round(rule.smallest * side)), round(rule.largest * side))
    length = max(length, 1)
    low = min(max((low + high - length) // 2, 0), side - length)
    return low, low + length


def _centred(place: int, share: float, side: int) -> tuple[int, int]:
    """A range of this share of the side around a step, within the image."""
    length = max(round(share * side), 1)
    low = min(max((2 * place + 1 - length) // 2, 0), side - length)
    return low, low + length


def _add(found: list[tuple[_Cells, int]], new: tuple[_Cells, int], rule: LookRule) -> None:
    if all(_overlap(new[0], box) < rule.overlap for box, _ in found):
        found.append(new)


def _take(is_free: NDArray[np.bool_], x: int, y: int, rule: LookRule) -> None:
    """Leave no peak near a place, which is given in half steps."""
    height, width = is_free.shape
    # Compared in units of half a step of both sides together, which are integers.
    across = (2 * np.arange(width) + 1 - x) * height
    down = (2 * np.arange(height) + 1 - y) * width
    reach = rule.apart * 2 * height * width
    is_free[down[:, None] ** 2 + across**2 < reach**2] = False


def _overlap(one: _Cells, other: _Cells) -> float:
    """Intersection over union."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    return common / (_area(one) + _area(other) - common)


def _area(box: _Cells) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])
