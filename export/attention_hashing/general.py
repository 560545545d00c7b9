"""The general model: an ImageNet classifier as the attention branch, hashed without labels.

The hash layer looks at what the classifier would say of the whole picture and of the attended part
(its scores are linear in the features, so they cost nothing), keeps the directions in which
photographs differ most, and turns them so that signs lose little: PCA, then ITQ (Gong and Lazebnik,
    CVPR 2011).
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from attention_hashing.attention import AttentionBranch
from attention_hashing.backbones import efficientnet_lite0
from attention_hashing.data import Labelled, Views
from attention_hashing.network import AttentionHashing, pooled
from bitgaze.images import Preprocess

PREPROCESS = Preprocess(size=224)
# The attended part varies more; this weight evens it out with the whole (docs/lab-notes.md).
_GLOBAL_WEIGHT = 3.0
_VIEWS = 6
_ITQ_STEPS = 60


def untrained(bits: int) -> AttentionHashing:
    """Pretrained backbone and branch; the hash layer still random."""
    backbone, weight, bias = efficientnet_lite0()
    return AttentionHashing(backbone, AttentionBranch.from_classifier(weight, bias), bits).eval()


def fitted(layer: Path) -> AttentionHashing:
    """The general model with a hash layer that `fit` stored."""
    with np.load(layer) as stored:
        weight, mean, variance = (
            torch.from_numpy(stored[name].astype(np.float32))
            for name in ("weight", "mean", "variance")
        )
    network = untrained(len(weight))
    with torch.no_grad():
        network.project.weight.copy_(weight)
        network.normalise.running_mean.copy_(mean)
        network.normalise.running_var.copy_(variance)
    return network


def fit(pictures: list[Path], bits: int, seed: int, layer: Path, command: str) -> None:
    """Fit a hash layer on photographs and store it.

    Args:
        pictures: photographs, more than `bits` of them.
        bits: length of the code.
        seed: of the random views and the initial rotation.
        layer: .npz to write: weight (bits, 2560) float16; mean and variance (bits,) float32 of its
            output over the views; command.
        command: how this was called, kept beside the numbers.

    Raises:
        ValueError: bits or seed out of range, or too few pictures.
    """
    if bits % 8 or not 8 <= bits <= 1024:
        raise ValueError(f"bits is {bits}, expected a multiple of 8 in 8..1024")
    if seed < 0:
        raise ValueError(f"seed is {seed}, expected at least 0")
    if len(pictures) <= bits:
        raise ValueError(f"{len(pictures)} pictures for {bits} bits; it takes more than {bits}")
    network = untrained(bits)
    features = _features(network, pictures, seed)
    scores = _scores(network)
    projected = features @ scores.T
    centred = projected - projected.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    principal = directions[:bits]  # (bits, 2 * classes)
    rotation = _itq(centred @ principal.T, seed)
    weight = rotation.T @ principal @ scores  # (bits, 2 * channels)
    # Scaled so that float16 keeps its precision; batch normalisation takes the scale out again.
    weight = (weight / np.abs(weight).max()).astype(np.float16)
    output = features @ weight.T.astype(np.float64)
    np.savez(
        layer,
        weight=weight,
        mean=output.mean(0).astype(np.float32),
        variance=output.var(0).astype(np.float32),
        command=command,
    )


@torch.inference_mode()
def _features(network: AttentionHashing, pictures: list[Path], seed: int) -> NDArray[np.float64]:
    """Pooled features of plain and random views: (n * (1 + views), 2 * channels)."""
    data = Labelled(pictures, np.zeros(len(pictures), np.int64), ("photographs",))
    rows: list[Tensor] = []
    for view in tqdm(range(1 + _VIEWS), desc="views", unit="view"):
        views = Views(data, PREPROCESS, epoch_seed=None if view == 0 else seed + view)
        for image, _ in DataLoader(views, batch_size=32):
            features = network.features(image)
            rows.append(pooled(features, network.branch(features).attention))
    return torch.cat(rows).numpy().astype(np.float64)


def _scores(network: AttentionHashing) -> NDArray[np.float64]:
    """Pooled features to class scores of whole and attended part: (2 * classes, 2 * channels)."""
    weight = network.branch.classify.weight.detach().flatten(1).numpy().astype(np.float64)
    weight = weight - weight.mean(0)  # what raises every class alike says nothing
    blank = np.zeros_like(weight)
    return np.block([[_GLOBAL_WEIGHT * weight, blank], [blank, weight]])


def _itq(points: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The rotation that brings points closest to their signs: (bits, bits), orthogonal."""
    bits = points.shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))
    for _ in range(_ITQ_STEPS):
        left, _, right = np.linalg.svd(points.T @ np.sign(points @ rotation))
        rotation = left @ right
    return rotation


def command(layer: Path) -> str:
    """How a stored hash layer was made."""
    with np.load(layer) as stored:
        return str(stored["command"])
