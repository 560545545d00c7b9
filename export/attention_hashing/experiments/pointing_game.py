"""Whether attention maps point at objects whose boxes are known."""

import numpy as np
from numpy.typing import NDArray

_POINTS = 8  # across a cell, to measure areas


def pointing_game(
    maps: NDArray[np.floating], boxes: list[NDArray[np.float32]], tolerance: float = 0
) -> float:
    """Share of maps whose highest cell has its centre in a box (Zhang et al., ECCV 2016).

    Of equal cells the first counts. A map that is 0 everywhere points nowhere, and misses.

    Args:
        maps: (n, h, w).
        boxes: for each map (k, 4), k > 0: left, top, right, bottom, as shares of the image.
        tolerance: distance from a box that still counts as a hit, as a share of the side of a
            square image. The paper's 15 pixels are 0.03 of the longer side of its images.
    """
    height, width = maps.shape[1:]
    peaks = maps.reshape(len(maps), -1).argmax(1)
    y, x = (peaks // width + 0.5) / height, (peaks % width + 0.5) / width
    points = maps.reshape(len(maps), -1).any(1)
    hits = [
        _hit(several, across, down, tolerance)
        for several, across, down in zip(boxes, x, y, strict=True)
    ]
    return float(np.mean(points & np.array(hits)))


def energy_inside(maps: NDArray[np.floating], boxes: list[NDArray[np.float32]]) -> float:
    """Mean share of a map's sum that lies in its boxes (Wang et al., Score-CAM, 2020).

    A cell is weighted by the share of its area that boxes cover.

    Args:
        maps: (n, h, w), not negative; a map that is 0 everywhere counts as 0.
        boxes: as for `pointing_game`.
    """
    shares = [
        float((one * covered(several, one.shape)).sum() / max(one.sum(), 1e-12))
        for one, several in zip(maps, boxes, strict=True)
    ]
    return float(np.mean(shares))


def covered(
    boxes: NDArray[np.float32], shape: tuple[int, ...], tolerance: float = 0
) -> NDArray[np.float64]:
    """Share of each cell's area that boxes cover, (h, w), measured at a grid of points per cell.

    Args:
        boxes: (k, 4), as for one map of `pointing_game`.
        shape: (h, w).
        tolerance: as for `pointing_game`.
    """
    height, width = (_POINTS * side for side in shape)
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / width)[None, :]
    inside = _hit(boxes, x, y, tolerance)
    return inside.reshape(shape[0], _POINTS, shape[1], _POINTS).mean((1, 3))


def _hit(
    boxes: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    tolerance: float,
) -> NDArray[np.bool_]:
    """Whether points are in a box, or less than the tolerance outside."""
    left, top, right, bottom = boxes.T
    x, y = np.asarray(x)[..., None], np.asarray(y)[..., None]
    across = np.maximum(np.maximum(left - x, x - right), 0)
    down = np.maximum(np.maximum(top - y, y - bottom), 0)
    # Half-open, so that boxes side by side share no point: centres of cells lie on edges.
    inside = (left <= x) & (x < right) & (top <= y) & (y < bottom)
    hit: NDArray[np.bool_] = (inside | (np.hypot(across, down) < tolerance)).any(-1)
    return hit
