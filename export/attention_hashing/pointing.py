"""Where a map points, beside boxes that say where the objects are.

Knows maps and boxes. Does not know what made the map.
"""

import numpy as np
from numpy.typing import NDArray


def pointing_game(maps: NDArray[np.floating], boxes: list[NDArray[np.float32]]) -> float:
    """Share of the maps whose highest cell has its centre in a box (Zhang et al., ECCV 2016).

    Without their tolerance of 15 pixels. Of equal cells the first counts; a map that is 0
    everywhere points nowhere, and misses.

    Args:
        maps: (n, h, w).
        boxes: for each map (k, 4), left, top, right, bottom, as shares of the picture; k > 0.
    """
    height, width = maps.shape[1:]
    peaks = maps.reshape(len(maps), -1).argmax(1)
    y, x = (peaks // width + 0.5) / height, (peaks % width + 0.5) / width
    points = maps.reshape(len(maps), -1).any(1)
    hits = [
        ((left <= across) & (across < right) & (top <= down) & (down < bottom)).any()
        for across, down, (left, top, right, bottom) in zip(
            x, y, (one.T for one in boxes), strict=True
        )
    ]
    return float(np.mean(points & hits))


def energy_inside(maps: NDArray[np.floating], boxes: list[NDArray[np.float32]]) -> float:
    """Mean share of a map's sum that lies in its boxes (Wang et al., Score-CAM, 2020).

    A cell counts by the share of its area that boxes cover.

    Args:
        maps: (n, h, w), not negative; one without any energy counts 0.
        boxes: as `pointing_game` takes them.
    """
    shares = [
        float((one * covered(several, one.shape)).sum() / max(one.sum(), 1e-12))
        for one, several in zip(maps, boxes, strict=True)
    ]
    return float(np.mean(shares))


def covered(
    boxes: NDArray[np.float32], shape: tuple[int, ...], fine: int = 8
) -> NDArray[np.float64]:
    """Share of each cell's area in any of the boxes, (h, w), by points on a grid in each cell."""
    height, width = (fine * side for side in shape)
    y = ((np.arange(height) + 0.5) / height)[:, None, None]
    x = ((np.arange(width) + 0.5) / width)[None, :, None]
    left, top, right, bottom = boxes.T
    inside = ((left <= x) & (x < right) & (top <= y) & (y < bottom)).any(2)
    return inside.reshape(shape[0], fine, shape[1], fine).mean((1, 3))
