"""Whether an image is a part of another, mirrored or turned, by their two structural codes.

A structural code has the signs of an image's cosine coefficients. Their magnitudes are much the
same in all images: they fall as frequency rises. So a code is a rough drawing of its image, and the
code of each part of the image can be expected from it, by linear maps. Nothing else is stored.

Works on structural codes alone (structure.py); likeness.py knows what an agreement means.
"""

from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.structure import orientations, signs

# Samples of a part, and coefficients a side of the code, of frequencies 1 to 16.
_SAMPLES, _KEPT = 64, 16
# The parts that are tried first leave out multiples of 8 % of a side before and behind them, 40 %
# in all; those around the best go by 2 %. Twice as many first parts take four times as long, and
# find no more.
_FINE, _STEP, _MOST = 0.02, 4, 20
# One pair of different images in thirty agrees so well at first that the best part is refined.
_PROMISING = 4.5
_FREQUENCIES = np.arange(1, _KEPT + 1)
# Root mean squares of photographs' coefficients fall with frequency to the power of -1.01.
_MAGNITUDES = (1 / np.hypot(_FREQUENCIES[:, None], _FREQUENCIES)).astype(np.float32)

_Interval = tuple[int, int]  # what is left out before and behind, in units of `_FINE`
_INTERVALS: list[_Interval] = [
    (before, behind)
    for before in range(0, _MOST + 1, _STEP)
    for behind in range(0, _MOST + 1 - before, _STEP)
]


class Part(NamedTuple):
    """Where an image is in another.

    Attributes:
        agreement: as of `agreements`.
        box: left, top, right, bottom, as shares of the other image's sides.
        orientation: EXIF orientation that the image has to be shown with, 1 to 8.
    """

    agreement: float
    box: tuple[float, float, float, float]
    orientation: int


def agreements(
    code: NDArray[np.uint8], others: NDArray[np.uint8], *, turned: bool
) -> NDArray[np.float64]:
    """How well other images agree with parts of an image, or the image with parts of them.

    A crop is a part of its original, and an image is a part of what has a border around it.

    Args:
        code: structural code, uint8, shape (32,), not zero.
        others: structural codes, uint8, shape (m, 32), none of them zero.
        turned: try all eight orientations, not only the one as given.

    Returns:
        float64, shape (m,), as of `agreements_with_parts`.
    """
    found = agreements_with_parts(code, others, turned=turned)
    for row, other in enumerate(others):
        backward = agreements_with_parts(other, code[None], turned=turned)
        found[row] = max(found[row], backward[0])
    return found


def agreements_with_parts(
    code: NDArray[np.uint8], others: NDArray[np.uint8], *, turned: bool
) -> NDArray[np.float64]:
    """How well other images agree with what is expected of parts of an image.

    Tries parts of at least 60 % of each side, and the whole.

    Args:
        code: structural code, uint8, shape (32,), not zero.
        others: structural codes, uint8, shape (m, 32), none of them zero.
        turned: try all eight orientations, not only the one as given.

    Returns:
        float64, shape (m,), at most 16, which equal codes have: the agreement with the best part,
        in standard deviations of that of a single part with a different image. A different
        photograph has 3 to 6.
    """
    targets = orientations(signs(others))[:, : 8 if turned else 1]
    return _best(signs(code), targets)


def find_part(code: NDArray[np.uint8], other: NDArray[np.uint8], *, turned: bool) -> Part:
    """Find the part of an image that another agrees with best.

    Args:
        code: structural code of the image, uint8, shape (32,), not zero.
        other: of the other one.
        turned: try all eight orientations, not only the one as given.
    """
    drawn = signs(code)
    targets = orientations(signs(other))[: 8 if turned else 1].reshape(-1, _KEPT * _KEPT)
    agreement = _parts(drawn, _first_maps(), _first_maps()) @ targets.T
    first, turn = divmod(int(agreement.argmax()), len(targets))
    best, down, across = _refined(drawn, targets[turn], first)
    (top, below), (left, beside) = (tuple(_FINE * cut for cut in side) for side in (down, across))
    return Part(best, (left, top, 1 - beside, 1 - below), turn + 1)


def _best(drawn: NDArray[np.float32], targets: NDArray[np.float32]) -> NDArray[np.float64]:
    """The agreement of the best part of a drawing with the best orientation of each target.

    Args:
        drawn: signs, (16, 16).
        targets: signs, (m, orientations, 16, 16).

    Returns:
        float64, (m,).
    """
    count, turns = targets.shape[:2]
    flat = targets.reshape(count * turns, _KEPT * _KEPT)
    agreement = _parts(drawn, _first_maps(), _first_maps()) @ flat.T
    best = agreement.max(axis=0).reshape(count, turns)
    turn = best.argmax(axis=1)
    found: NDArray[np.float64] = best.max(axis=1).astype(np.float64)
    for row in np.flatnonzero(found >= _PROMISING).tolist():
        column = row * turns + int(turn[row])
        found[row] = _refined(drawn, flat[column], int(agreement[:, column].argmax()))[0]
    return np.asarray(found)


def _refined(
    drawn: NDArray[np.float32], target: NDArray[np.float32], first: int
) -> tuple[float, _Interval, _Interval]:
    """The agreement of the best part around one of the first parts, and where it is."""
    vertical, horizontal = map(_around, divmod(first, len(_INTERVALS)))
    near = _parts(drawn, vertical.maps, horizontal.maps) @ target
    down, across = divmod(int(near.argmax()), len(horizontal.maps))
    return float(near.max()), vertical.intervals[down], horizontal.intervals[across]


def _parts(
    drawn: NDArray[np.float32], vertical: NDArray[np.float32], horizontal: NDArray[np.float32]
) -> NDArray[np.float32]:
    """What is expected of each part, as coefficients of equal weight: (parts, 256), of norm 1."""
    down, across = len(vertical), len(horizontal)
    found = (vertical.reshape(-1, _KEPT) @ (drawn * _MAGNITUDES)) @ horizontal.reshape(-1, _KEPT).T
    found = found.reshape(down, _KEPT, across, _KEPT).transpose(0, 2, 1, 3) / _MAGNITUDES
    flat: NDArray[np.float32] = found.reshape(down * across, _KEPT * _KEPT)
    flat /= np.sqrt(np.einsum("ij,ij->i", flat, flat))[:, None]
    return flat


@cache
def _first_maps() -> NDArray[np.float32]:
    return np.stack([_map(interval) for interval in _INTERVALS])


class _Around(NamedTuple):
    intervals: list[_Interval]
    maps: NDArray[np.float32]


@lru_cache(maxsize=len(_INTERVALS))
def _around(number: int) -> _Around:
    """The parts of a side around one of the first."""
    before, behind = _INTERVALS[number]
    steps = range(1 - _STEP, _STEP)
    near = {(max(before + one, 0), max(behind + other, 0)) for one in steps for other in steps}
    intervals = sorted(near)
    return _Around(intervals, np.stack([_map(interval) for interval in intervals]))


def _map(interval: _Interval) -> NDArray[np.float32]:
    """The matrix from coefficients along a side to those of a part of it: (16, 16)."""
    before, behind = (_FINE * cut for cut in interval)
    middles = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
    of_whole = np.cos(np.pi * np.outer(_FREQUENCIES, before + (1 - before - behind) * middles))
    of_part = np.cos(np.pi * np.outer(_FREQUENCIES, middles))
    found: NDArray[np.float32] = (2 / _SAMPLES * of_part @ of_whole.T).astype(np.float32)
    return found
