"""The plots of a report, as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageOps

from attention_hashing.evaluation.distance_counts import Levels
from attention_hashing.evaluation.metrics import Ball
from bitgaze.encoding.heatmap import overlay

_DPI = 150
_INK, _SOFT = "#1c1b22", "#6a6775"
# Blue and orange are distinct in all kinds of colour vision.
_FIRST, _SECOND, _THIRD = "#23619e", "#d9762b", "#8a8793"
_SIDE = 240  # of an image, in pixels
_LONGEST_NAME = 26
_MARKED = (0.25, 0.5, 0.75)  # recall values at which the radius is labelled


def precision_by_radius(ball: Ball, path: Path) -> None:
    """Plot precision against recall, one point per radius, and both and empty balls by radius."""
    figure = _figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    left.plot(ball.recall, ball.precision, ".-", color=_FIRST, lw=1.2, ms=5)
    left.plot(ball.recall, ball.pooled_precision, ".-", color=_SECOND, lw=1.2, ms=5)
    for radius in (int(np.searchsorted(ball.recall, share)) for share in _MARKED):
        if radius < len(ball.recall):
            recall = ball.recall[radius]
            left.vlines(recall, 0, ball.precision[radius], color=_SOFT, lw=0.8, ls=":")
            left.annotate(
                f"r = {radius}", (recall, 0), (4, 4), textcoords="offset points", fontsize=8
            )
    _named(left, "recall (mean over queries)", "precision")
    left.set(xlim=(-0.02, 1.02), ylim=(0, 1.05))
    radii = np.arange(len(ball.recall))
    for axes in (left, right):
        _frame(axes)
    for values, colour, name in (
        (ball.precision, _FIRST, "precision, empty ball = 0"),
        (ball.pooled_precision, _SECOND, "precision, all balls pooled"),
        (ball.recall, _INK, "recall"),
        (ball.empty, _THIRD, "share of empty balls"),
    ):
        style = "--" if colour in (_INK, _THIRD) else "-"
        right.plot(radii, values, style, color=colour, lw=1.5, label=name)
    _named(right, "radius (bits)", "share")
    right.set(xlim=(0, len(radii) - 1), ylim=(0, 1.05))
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=_DPI)


def distances(ranking: Levels, path: Path) -> None:
    """Plot the distances of pairs that share a label, and of all other pairs."""
    figure = _figure(7, 4)
    axes = figure.subplots()
    matching = ranking.relevant.sum(0)
    for counts, colour, name in (
        (matching, _FIRST, "a label in common"),
        (ranking.items.sum(0) - matching, _SECOND, "none in common"),
    ):
        total = counts.sum()
        share = counts / max(total, 1)
        place = np.arange(len(counts))
        axes.bar(place, share, width=1, color=colour, alpha=0.45, label=f"{name}, {total:,} pairs")
        axes.step(place, share, where="mid", color=colour, lw=1)
    _frame(axes)
    _named(axes, "Hamming distance (bits)", "share of the pairs")
    axes.set(xlim=(-0.5, len(matching) - 0.5), ylim=(0, None))
    axes.legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=_DPI)


def attention(
    images: Sequence[Image.Image],
    maps: NDArray[np.float32],
    names: Sequence[str],
    path: Path,
) -> None:
    """Show images, and below each one where the network looked.

    Args:
        images: upright, RGB.
        maps: (images, h, w), in [0, 1].
        names: one per image.
        path: of the PNG.
    """
    figure = _figure(1.9 * len(images), 4.1)
    columns = figure.subplots(2, len(images), squeeze=False).T
    for (above, below), image, heat, name in zip(columns, images, maps, names, strict=True):
        for axes, shown in ((above, image), (below, overlay(image, heat))):
            axes.imshow(ImageOps.pad(shown, (_SIDE, _SIDE), color="white"))
            axes.set_axis_off()
        above.set_title(name[:_LONGEST_NAME], fontsize=8, color=_INK, parse_math=False)
    figure.savefig(path, dpi=_DPI)


def _figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, without pyplot and its global state."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def _frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.5)


def _named(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
