"""Places to look at, by explicit attention and by rivals, and searches by several codes an image.

Boxes are left, top, right, bottom, in [0, 1] of the image.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from attention_hashing.data.labels import Labels, is_relevant
from attention_hashing.evaluation.distance_counts import Levels
from attention_hashing.evaluation.metrics import average_precision
from bitgaze.encoding.images import Box
from bitgaze.encoding.looks import LookRule, choose
from bitgaze.gallery import adaptation

RULES = ("whole", "nearest", "whole + nearest", "Chamfer")
# Around a true box, as a share of its sides: an object is recognised by what surrounds it, too.
_MARGIN = 0.1
# Smaller objects, as a share of the image's area, count in no measure of places.
_SMALLEST = 0.005
# Side at which spectral residuals are computed, as published, and cells of the resulting map.
_SPECTRAL_SIDE, _SPECTRAL_CELLS = 64, 16
_QUERIES, _SHARE = 300, 0.3


def random_boxes(count: int, side: float, generator: np.random.Generator) -> list[Box]:
    """Squares at random places within the image."""
    corners = generator.uniform(0, 1 - side, (count, 2))
    return [(float(x), float(y), float(x) + side, float(y) + side) for x, y in corners]


def moved(boxes: Sequence[Box], generator: np.random.Generator) -> list[Box]:
    """Boxes of the same sizes at random places within the image."""
    found = []
    for left, top, right, bottom in boxes:
        width, height = right - left, bottom - top
        x, y = (float(place) for place in generator.uniform(0, (1 - width, 1 - height)))
        found.append((x, y, x + width, y + height))
    return found


def grid(count: int, side: float) -> list[Box]:
    """The first of: upper left, lower right, upper right, lower left, middle."""
    far = 1 - side
    corners = [(0, 0), (far, far), (far, 0), (0, far), (far / 2, far / 2)]
    return [(x, y, x + side, y + side) for x, y in corners[:count]]


def at_peaks(saliency: NDArray[np.float32], rule: LookRule, count: int) -> list[Box]:
    """Squares at the peaks of a map (h, w) that knows no classes, as a model fills its looks."""
    nothing = np.zeros((0, *saliency.shape), np.float32)
    found = choose(nothing, np.zeros(0, np.float32), saliency, rule, count)
    return [look.box for look in found]


def spectral_residual(image: Image.Image) -> NDArray[np.float32]:
    """Saliency from an image alone: what its spectrum has beyond its own local mean.

    Hou and Zhang, "Saliency detection: a spectral residual approach" (CVPR 2007).

    Returns:
        float32, (16, 16).
    """
    side = _SPECTRAL_SIDE
    grey = np.asarray(image.convert("L").resize((side, side)), np.float64)
    spectrum = np.fft.fft2(grey)
    amplitude = np.log(np.abs(spectrum) + 1e-9)
    around = (
        sum(np.roll(amplitude, (y, x), axis=(0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)) / 9
    )
    residual = np.fft.ifft2(np.exp(amplitude - around + 1j * np.angle(spectrum)))
    cell = side // _SPECTRAL_CELLS
    cells = (np.abs(residual) ** 2).reshape(_SPECTRAL_CELLS, cell, _SPECTRAL_CELLS, cell)
    return cells.mean((1, 3)).astype(np.float32)


def energy(features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Implicit attention of a map (channels, h, w): the mean square of its channels.

    Zagoruyko and Komodakis, "Paying more attention to attention" (ICLR 2017).
    """
    return np.square(features.astype(np.float32)).mean(0)


def largest(truth: NDArray[np.float32], count: int) -> list[Box]:
    """The largest true boxes (k, 4), each with a margin."""
    area = (truth[:, 2] - truth[:, 0]) * (truth[:, 3] - truth[:, 1])
    chosen = truth[np.argsort(-area, kind="stable")[:count]].astype(np.float64)
    margin = _MARGIN * (chosen[:, 2:] - chosen[:, :2])
    low, high = chosen[:, :2] - margin, chosen[:, 2:] + margin
    found = np.clip(np.hstack([low, high]), 0, 1)
    return [(a, b, c, d) for a, b, c, d in found.tolist()]


def found_and_seen(
    truth: Sequence[NDArray[np.float32]], boxes: Sequence[Sequence[Box]]
) -> tuple[float, float]:
    """How well boxes find the objects of images.

    Args:
        truth: of each image, its true boxes (k, 4).
        boxes: of each image.

    Returns:
        The share of true boxes that intersect some box by half of their union; and the share of a
        true box's area that the best box contains, on average. Objects smaller than a two-hundredth
        of the image do not count.
    """
    hits, shares = [], []
    for objects, some in zip(truth, boxes, strict=True):
        place = np.array(some, np.float64).reshape(-1, 1, 4)
        area = (objects[:, 2:] - objects[:, :2]).prod(1)
        sides = np.minimum(place[..., 2:], objects[:, 2:]) - np.maximum(
            place[..., :2], objects[:, :2]
        )
        common = np.clip(sides, 0, None).prod(2)  # (boxes, objects)
        union = (place[..., 2:] - place[..., :2]).prod(2) + area - common
        counted = area >= _SMALLEST
        hits.append((common / union).max(0, initial=0)[counted] >= 0.5)
        shares.append((common / area).max(0, initial=0)[counted])
    return float(np.concatenate(hits).mean()), float(np.concatenate(shares).mean())


def draw(size: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Positions of queries, at most 300 and three tenths of all images, and of the database."""
    order = np.random.default_rng(seed).permutation(size)
    queries, database = np.split(order, [query_count(size)])
    return queries, database


def query_count(size: int) -> int:
    """The number of queries among as many images."""
    return min(_QUERIES, round(_SHARE * size))


def precision_of_views(
    values: NDArray[np.float32],
    labels: Labels,
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
) -> tuple[adaptation.Adaptation, dict[str, NDArray[np.float64]]]:
    """Search by all views, on codes that are adapted to those of the database.

    Args:
        values: (n, views, bits), hash values; the first view is the whole image.
        labels: of the n images.
        queries: positions of the images to search for,
        database: and of those to search in.

    Returns:
        What codes were adapted by, and the tie-aware AP of each query by each of RULES.
    """
    bits = values.shape[2]
    fitted = adaptation.fit(values[database].reshape(-1, bits))
    codes = fitted.apply(values.reshape(-1, bits)).reshape(values.shape) > 0
    by_rule = levels_of_views(codes[queries], labels[queries], codes[database], labels[database])
    return fitted, {rule: average_precision(found).expected for rule, found in by_rule.items()}


def levels_of_views(
    queries: NDArray[np.bool_],
    labels_of_queries: Labels,
    items: NDArray[np.bool_],
    labels: Labels,
) -> dict[str, Levels]:
    """Count by distance where images have several codes, the first of which is the whole image's.

    Rules: the distance of the whole images; that of the nearest pair of views; their sum; and the
    symmetric Chamfer distance, in which each view of one side counts with its distance to the
    nearest of the other side, averaged over both sides. It is counted in units that make it an
    integer.

    Args:
        queries: (q, views, bits).
        labels_of_queries: as for `is_relevant`.
        items: (n, views, bits); the number of views may be another one.
        labels: as for `is_relevant`.

    Returns:
        The counts by each of RULES.
    """
    right = is_relevant(labels_of_queries, labels)
    one, other = (np.where(codes, 1, -1).astype(np.float32) for codes in (queries, items))
    n, views, bits = items.shape
    flat = other.reshape(-1, bits).T
    of_queries = [
        _distances(((bits - query @ flat) / 2).astype(np.int64).reshape(-1, n, views))
        for query in one
    ]
    return {rule: _levels(np.array([d[rule] for d in of_queries]), right) for rule in RULES}


def _distances(between: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """Distances of n items by each rule, from those between views: (views of query, n, views)."""
    of_query, _, of_item = between.shape
    whole, nearest = between[0, :, 0], between.min((0, 2))
    there, back = between.min(2).sum(0), between.min(0).sum(1)
    chamfer = there * of_item + back * of_query
    return dict(zip(RULES, (whole, nearest, whole + nearest, chamfer), strict=True))


def _levels(distances: NDArray[np.int64], right: NDArray[np.bool_]) -> Levels:
    columns = int(distances.max()) + 1
    place = distances + columns * np.arange(len(distances))[:, None]
    counts = [
        np.bincount(chosen, minlength=columns * len(distances)).reshape(-1, columns)
        for chosen in (place.ravel(), place[right])
    ]
    return Levels(*counts)
