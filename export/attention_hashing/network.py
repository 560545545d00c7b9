"""The network: backbone, attention branch, and one hash layer over global and local features."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attention_hashing.attention import AttentionBranch

_EPSILON = 1e-4


class Hashed(NamedTuple):
    """logits (B, classes), attention (B, h, w) in [0, 1], hash (B, bits)."""

    logits: Tensor
    attention: Tensor
    hash: Tensor


class HashLayer(NamedTuple):
    """A fitted hash layer: values are `(features @ weight - threshold) / sqrt(variance)`.

    Attributes:
        weight: float16 or float32, (d, bits).
        threshold: float32, (bits,); a bit is set where `features @ weight` is above it.
        variance: float32, (bits,), or one number for all bits; scales the values, changes no bit.
    """

    weight: NDArray[np.floating]
    threshold: NDArray[np.float32]
    variance: NDArray[np.float32] | float = 1.0

    def values(self, features: NDArray[np.floating]) -> NDArray[np.float32]:
        """Hash values of features (n, d): float32 (n, bits)."""
        single, weight = (part.astype(np.float32, copy=False) for part in (features, self.weight))
        found: NDArray[np.float32] = (single @ weight - self.threshold) / np.sqrt(self.variance)
        return found


class AttentionHashing(nn.Module):
    """Image to hash values, with the attention that shaped them.

    The global feature is the spatial mean of the feature map; the local feature is its mean
    weighted by the attention. A linear layer over both, followed by batch normalisation, yields
    the hash values (OrthoHash, Hoe et al., NeurIPS 2021, shows how that balances bits). A bit is
    set where its value is above 0.

    Args:
        backbone: a module with `channels`, `mean` and `std` that returns (B, channels, h, w).
        branch: over the same number of channels.
        bits: length of the code.
    """

    def __init__(self, backbone: nn.Module, branch: AttentionBranch, bits: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.branch = branch
        self.project = nn.Linear(2 * backbone.channels, bits, bias=False)
        self.normalise = nn.BatchNorm1d(bits)

    @property
    def bits(self) -> int:
        """Length of the code."""
        return self.project.out_features

    def forward(self, image: Tensor) -> Hashed:
        """Hash images: uint8 (B, H, W, 3), RGB."""
        return self.hash(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """The backbone's map (B, channels, h, w) of images uint8 (B, H, W, 3)."""
        x = image.permute(0, 3, 1, 2).float()
        x = (x - self.backbone.mean) * (1 / self.backbone.std)
        return self.backbone(x)

    def replace_hash_layer(self, layer: HashLayer) -> None:
        """Use this fitted hash layer over 2 * channels features; its number of bits may differ."""
        dimensions, bits = layer.weight.shape
        self.project = nn.Linear(dimensions, bits, bias=False)
        self.normalise = nn.BatchNorm1d(bits).eval()
        with torch.no_grad():
            self.project.weight.copy_(torch.from_numpy(layer.weight.T))
            self.normalise.running_mean.copy_(torch.from_numpy(layer.threshold))
            self.normalise.running_var.copy_(torch.as_tensor(layer.variance))

    def hash(self, features: Tensor) -> Hashed:
        """Hash a backbone's map (B, channels, h, w)."""
        logits, attention = self.branch(features)
        return Hashed(logits, attention, self.normalise(self.project(pooled(features, attention))))


def pooled(features: Tensor, attention: Tensor) -> Tensor:
    """Global and local features, concatenated.

    Args:
        features: (B, channels, h, w).
        attention: (B, h, w).

    Returns:
        (B, 2 * channels): the spatial mean, then the attention-weighted mean.
    """
    total = attention.sum((1, 2))[:, None] + _EPSILON  # (B, 1)
    local = torch.einsum("bhw,bdhw->bd", attention, features) / total
    return torch.cat([features.mean((2, 3)), local], dim=1)


class Deployed(nn.Module):
    """The network as exported: packed code, hash values, attention, and where to look again.

    Args:
        network: to export.
        looks: whether to compute class maps to look by, as well.
    """

    def __init__(self, network: AttentionHashing, looks: bool = False) -> None:
        super().__init__()
        self.network = network
        self.looks = looks
        self.register_buffer("place_values", 2.0 ** torch.arange(7, -1, -1), persistent=False)

    @property
    def outputs(self) -> list[str]:
        """Their names, in order."""
        names = ["code", "hash", "attention"]
        return names + ["class_maps", "class_probability", "class_number"] * self.looks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Hash images: uint8 (B, H, W, 3).

        Returns:
            code uint8 (B, bits / 8), hash (B, bits), attention (B, h, w); with looks also `Places`.
        """
        features = self.network.features(image)
        logits, attention, values = self.network.hash(features)
        found = (pack(values, self.place_values), values, attention)
        if not self.looks:
            return found
        return (*found, *self.network.branch.places(features, logits))


def pack(values: Tensor, place_values: Tensor) -> Tensor:
    """Pack signs into bytes, as bitgaze.hamming.pack does: the first bit is the highest of byte 0.

    ONNX has no operator that packs bits; a product with the place values is exact in float32.
    """
    bits = (values > 0).float().unflatten(1, (-1, 8))  # (B, bits / 8, 8)
    return (bits @ place_values).to(torch.uint8)
