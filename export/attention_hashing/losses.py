"""Hashing losses, one function each: formula, source, nothing else."""

import math

import torch
from torch import Tensor, nn


def orthohash_targets(classes: int, bits: int, seed: int) -> Tensor:
    """One fixed target per class, entries -1 or 1: float32 (classes, bits).

    Independent fair coins, as in OrthoHash: any number of bits and classes, and nearly orthogonal
    in expectation. A target that another class has already is drawn again.
    """
    if classes > 2**bits:
        raise ValueError(f"{classes} classes do not fit {bits} bits")
    generator = torch.Generator().manual_seed(seed)
    rows: dict[tuple[int, ...], None] = {}
    while len(rows) < classes:
        coins = torch.randint(0, 2, (bits,), generator=generator)
        rows[tuple(coins.tolist())] = None
    return torch.tensor(list(rows), dtype=torch.float32) * 2 - 1


def orthohash(values: Tensor, labels: Tensor, targets: Tensor, margin: float = 0.4) -> Tensor:
    """Cosine to the class's target, against all others, with a margin.

    L = -log softmax_y( s (cos_y - m), s cos_{c != y} ),  s = sqrt(2) log(C - 1), at least 4
    (Hoe et al., "One Loss for All", NeurIPS 2021; margin and scale from its supplement). There is
    no quantisation term: a large cosine to a vector of -1 and 1 is one.

    Args:
        values: (B, bits), the network's hash values.
        labels: int64 (B,).
        targets: (classes, bits), entries -1 or 1.
        margin: m.
    """
    classes, bits = targets.shape
    cosine = nn.functional.normalize(values) @ targets.T / math.sqrt(bits)  # (B, classes)
    scale = max(4.0, math.sqrt(2) * math.log(max(classes - 1, 1)))
    offset = margin * nn.functional.one_hot(labels, classes)
    return nn.functional.cross_entropy(scale * (cosine - offset), labels)
