"""Fits a hash layer without labels, to photographs and distorted versions of them.

The codes of two photographs should differ as much as the photographs do, however either has been
distorted. The input is points (class scores of versions), each with the image that it shows.

1. Remove the directions in which versions of one photograph differ most: they distinguish a blurred
   image from a sharp one, and the look of a domain rather than its content. Versions that show too
   little of their photograph to be the same image are used for this step only.
2. Initialise the bits by PCA, then ITQ (Gong and Lazebnik, CVPR 2011).
3. Train the bits so that the inner product of two versions' codes is 1 if both show one photograph;
   otherwise the limit for codes of random hyperplanes, 2 / pi * asin(cosine) (Charikar, STOC 2002),
   for the cosine between the two photographs' means.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attention_hashing.descent import half_cosine, minimise
from bitgaze.gallery import adaptation

# Chosen by measurements on other sets (docs/lab-notes.md).
_NUISANCES = 2
_DIMENSIONS = 600
_STEPS = 1500
_BATCH = 512
_RATE = 2e-3
_FIRST_SLOPE, _LAST_SLOPE = 1.0, 4.0
_SAME_WEIGHT = 0.05
_BALANCE_WEIGHT = 0.1
_STAY_WEIGHT = 0.01


def fit_bits(
    points: NDArray[np.float64],
    images: NDArray[np.int64],
    same: NDArray[np.bool_],
    bits: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a layer whose hash values are `points @ weight - threshold`.

    Args:
        points: (n, d), versions of images.
        images: (n,), the image of each version; every number in 0..m - 1 occurs.
        same: (n,), whether a version still counts as the same image; at least one of each does.
        bits: at most d, and fewer than m.
        seed: of the batches.

    Returns:
        weight (d, bits) and threshold (bits,).
    """
    centre = points.mean(0)
    basis = leading(points - centre, max(_DIMENSIONS, bits))
    points = (points - centre) @ basis  # (n, r)
    means = np.zeros((images.max() + 1, points.shape[1]))
    np.add.at(means, images[same], points[same])
    means /= np.bincount(images[same])[:, None]
    nuisances = leading(points - means[images], _NUISANCES)
    points, images = points[same], images[same]
    cleaned = points - (points @ nuisances) @ nuisances.T
    principal = leading(cleaned - cleaned.mean(0), bits)
    start = principal @ adaptation.fit((cleaned @ principal).astype(np.float32)).rotation
    teachers = means - (means @ nuisances) @ nuisances.T
    weight, threshold = _trained(points, images, teachers - teachers.mean(0), start, seed)
    return basis @ weight, threshold + centre @ basis @ weight


def _trained(
    points: NDArray[np.float64],
    images: NDArray[np.int64],
    teachers: NDArray[np.float64],
    start: NDArray[np.float64],
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    unit = torch.from_numpy(teachers / np.linalg.norm(teachers, axis=1, keepdims=True)).float()
    target = 2 / torch.pi * torch.asin((unit @ unit.T).clamp(-1, 1))  # (m, m)
    values = points @ start
    scale = values.std()
    weight = torch.from_numpy(start / scale).float()  # (r, bits)
    origin = weight.clone()
    threshold = torch.from_numpy(values.mean(0) / scale).float()  # (bits,)
    weight.requires_grad_()
    threshold.requires_grad_()
    optimiser = torch.optim.Adam([weight, threshold], lr=_RATE)
    batch = min(_BATCH, len(points))
    inputs, image = torch.from_numpy(points).float(), torch.from_numpy(images)
    generator = np.random.default_rng(seed)
    is_same_row = torch.eye(batch, dtype=torch.bool)

    def losses() -> Iterator[Tensor]:
        for step in range(_STEPS):
            rows = torch.from_numpy(generator.integers(0, len(points), batch))
            slope = _FIRST_SLOPE + (_LAST_SLOPE - _FIRST_SLOPE) * step / _STEPS
            soft = torch.tanh(slope * (inputs[rows] @ weight - threshold))  # (B, bits)
            found = soft @ soft.T / soft.shape[1]  # (B, B)
            of = image[rows]
            same = of[:, None] == of[None]
            loss = (found - target[of][:, of]).square()[~same].mean()
            if (pairs := same & ~is_same_row).any():
                loss = loss + _SAME_WEIGHT * (found[pairs] - 1).square().mean()
            loss = loss + _BALANCE_WEIGHT * soft.mean(0).square().mean()
            yield loss + _STAY_WEIGHT * (weight - origin).square().sum() / origin.square().sum()

    minimise(losses(), optimiser, half_cosine(optimiser, _STEPS, warm_up=0))
    return weight.detach().double().numpy(), threshold.detach().double().numpy()


def leading(points: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Directions of largest scatter about 0, in descending order: (d, min(d, count))."""
    _, directions = np.linalg.eigh(points.T @ points)
    return directions[:, ::-1][:, :count]
