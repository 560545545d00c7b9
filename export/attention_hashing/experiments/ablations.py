"""Measures what the attention adds: its map is replaced, or its training changed, all else equal.

All variants have the same stored maps, the same loss, and a hash layer over a global and a second
feature. They differ in the second:

    explicit      the mean weighted by the attention of a branch that was trained to classify
    joint         as explicit at the start; then branch and hash layer are trained together
    implicit      the same branch, never trained to classify: only the hash loss trains it
    boxes         as explicit, but the attention is the objects' true places: an upper bound for
                  any map, not a method
    shuffled      as explicit, with the attention of another image
    centred       the mean weighted by a Gaussian in the middle of the image
    simam         parameter-free attention (Yang et al., ICML 2021)
    untaught      no attention: the mean of the branch's 3 x 3 convolution, which was trained to
                  classify. This shows what that training adds without a map
    wide          no attention: such a convolution, trained with the hash layer alone. It has at
                  least as many parameters as explicit
    global        no second feature

The hash layer's features have mean 0 and variance 1, as in heads.fit_layer: over the training
images, or over a batch if branch or convolution are trained as well (joint, implicit, wide).
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from attention_hashing.attention import GUIDANCE_WEIGHT, AttentionBranch
from attention_hashing.bfloat16 import multiplies_bfloat16
from attention_hashing.heads import descend, fit_layer
from attention_hashing.methods import Method
from attention_hashing.network import AttentionHashing, pooled

_CHUNK = 256
_SPREAD = 0.25  # of the Gaussian, as a share of the side
_SIMAM_LAMBDA = 1e-4  # the paper's
_VARIANCE_ADDED = 1e-6  # to that of features, before they are divided by its root


class Data(NamedTuple):
    """Stored maps, labels, and the training images.

    Attributes:
        maps: float16, (n, channels, h, w), the backbone's maps of all images.
        one_hot: float32, (n, classes), 1 for each label of an image, otherwise 0.
        training: positions among the n.
        inside: (n, h, w), share of each cell's area that objects cover.
    """

    maps: NDArray[np.float16]
    one_hot: NDArray[np.float32]
    training: NDArray[np.intp]
    inside: NDArray[np.float32]


class Learner(Protocol):
    """Trains one variant, and returns its hash values of all images: (n, bits)."""

    def __call__(self, method: Method, epochs: int, rate: float) -> NDArray[np.float32]:
        """Train from scratch.

        Args:
            method: the loss, untrained; its seed is that of all random choices.
            epochs: of the hash layer.
            rate: learning rate at the start.
        """
        ...


def learner(variant: str, data: Data, branch: AttentionBranch, seed: int) -> Learner:
    """A learner of a variant. It can be called repeatedly, and computes features only once.

    Args:
        variant: one of VARIANTS.
        data: to train on.
        branch: trained to classify; it is not modified.
        seed: of features that are random.
    """
    if variant in _LEARNED:
        return partial(_learned_together, _LEARNED[variant], data, branch)
    features = FEATURES[variant](data, branch, seed)

    def over_features(method: Method, epochs: int, rate: float) -> NDArray[np.float32]:
        chosen = data.training
        layer = fit_layer(features[chosen], data.one_hot[chosen], method, epochs, rate)
        return layer.values(features)

    return over_features


def attention_of(maps: NDArray[np.float16], branch: AttentionBranch) -> NDArray[np.float32]:
    """The branch's attention for each map: (n, h, w), in [0, 1]."""
    return _in_parts(lambda part, _: branch(part).attention, maps)


def _explicit(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    return _attended(data.maps, attention_of(data.maps, branch))


def _boxes(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    return _attended(data.maps, data.inside)


def _shuffled(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    attention = attention_of(data.maps, branch)
    turned = np.random.default_rng(seed).permutation(len(attention))
    other = np.empty_like(turned)
    other[turned] = np.roll(turned, 1)  # one cycle through all images: none keeps its own
    return _attended(data.maps, attention[other])


def _centred(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in data.maps.shape[2:])
    one = np.exp(-(x**2 + y[:, None] ** 2) / (2 * _SPREAD**2)).astype(np.float32)
    return _attended(data.maps, np.broadcast_to(one / one.max(), (len(data.maps), *one.shape)))


def _attended(maps: NDArray[np.float16], attention: NDArray[np.float32]) -> NDArray[np.float32]:
    return _in_parts(pooled, maps, attention)


def _simam(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    """Weighted by sigmoid((x - mean)^2 / (4 (variance + lambda)) + 0.5), channel by channel."""

    def both(part: Tensor, _: Tensor) -> Tensor:
        square = (part - part.mean((2, 3), keepdim=True)).square()
        variance = square.sum((2, 3), keepdim=True) / (part[0, 0].numel() - 1)
        weights = torch.sigmoid(square / (4 * (variance + _SIMAM_LAMBDA)) + 0.5)
        local = (part * weights).sum((2, 3)) / weights.sum((2, 3))
        return torch.cat([part.mean((2, 3)), local], 1)

    return _in_parts(both, data.maps)


def _untaught(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    def both(part: Tensor, _: Tensor) -> Tensor:
        return torch.cat([part.mean((2, 3)), branch.context(part).mean((2, 3))], 1)

    return _in_parts(both, data.maps)


def _global(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    return _in_parts(lambda part, _: part.mean((2, 3)), data.maps)


class _Kept(nn.Module):
    """Takes the place of a backbone, whose maps are already stored."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class _Quick(nn.Module):
    """The 3 x 3 convolution, in bfloat16 if the processor has instructions for it.

    Nearly all arithmetic of the training is here. Forward and backward of 64 maps, 1280 channels to
    64 over 8 x 8, on two cores with amx_bf16: 0.19 s in float32, 0.05 s in bfloat16.
    """

    def __init__(self, context: nn.Module) -> None:
        super().__init__()
        self.context = context.to(memory_format=torch.channels_last)
        self.is_half = multiplies_bfloat16()

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_half):
            found = self.context(maps)
        return found.float()


class _Attending(nn.Module):
    """The network after the backbone, with scaled features: maps to hash values (B, bits)."""

    def __init__(self, branch: AttentionBranch, channels: int, bits: int) -> None:
        super().__init__()
        self.network = AttentionHashing(_Kept(channels), branch, bits)
        self.network.project = _scaled(self.network.project)

    def forward(self, maps: Tensor) -> Tensor:
        return self.network.hash(maps).hash


class Wide(nn.Module):
    """A hash layer over the global feature and the mean of a 3 x 3 convolution.

    Args:
        branch: it has at least as many parameters as this branch and its hash layer.
        channels: of the maps.
        bits: length of the code.
    """

    def __init__(self, branch: AttentionBranch, channels: int, bits: int) -> None:
        super().__init__()
        guided = sum(one.numel() for one in branch.parameters()) + 2 * channels * bits
        each = 9 * channels + 2 + bits  # parameters per channel of the convolution
        hidden = -(-(guided - channels * bits) // each)
        self.context = _Quick(AttentionBranch(channels, 1, hidden).context)
        self.project = _scaled(nn.Linear(channels + hidden, bits, bias=False))
        self.normalise = nn.BatchNorm1d(bits)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, channels, h, w) to hash values (B, bits)."""
        both = torch.cat([maps.mean((2, 3)), self.context(maps).mean((2, 3))], 1)
        return self.normalise(self.project(both))


def _scaled(layer: nn.Linear) -> nn.Sequential:
    scale = nn.BatchNorm1d(layer.in_features, _VARIANCE_ADDED, affine=False)
    return nn.Sequential(scale, layer)


class _Learned(NamedTuple):
    """Properties of a variant whose branch is trained with the hash layer."""

    starts_taught: bool
    is_guided: bool
    has_attention: bool


_LEARNED = {
    "joint": _Learned(True, True, True),
    "implicit": _Learned(False, False, True),
    "wide": _Learned(False, False, False),
}
FEATURES: dict[str, Callable[..., NDArray[np.float32]]] = {
    "explicit": _explicit,
    "boxes": _boxes,
    "shuffled": _shuffled,
    "centred": _centred,
    "simam": _simam,
    "untaught": _untaught,
    "global": _global,
}
VARIANTS = (*FEATURES, *_LEARNED)


def _learned_together(
    how: _Learned,
    data: Data,
    taught: AttentionBranch,
    method: Method,
    epochs: int,
    rate: float,
) -> NDArray[np.float32]:
    channels, classes = data.maps.shape[1], data.one_hot.shape[1]
    torch.manual_seed(method.seed)
    branch = AttentionBranch(channels, classes, taught.hidden)
    if how.starts_taught:
        branch.load_state_dict(taught.state_dict())
    branch.context = _Quick(branch.context)
    network = (_Attending if how.has_attention else Wide)(branch, channels, method.bits)

    def loss(maps: Tensor, labels: Tensor, step: float) -> Tensor:
        if not how.is_guided:
            return method(network(maps.float()), labels, step)
        hashed = network.network.hash(maps.float())
        guidance = branch.loss(hashed.logits, labels)
        return method(hashed.hash, labels, step) + GUIDANCE_WEIGHT * guidance

    maps = torch.from_numpy(np.ascontiguousarray(data.maps[data.training]))
    labels = torch.from_numpy(data.one_hot[data.training])
    network.train()
    descend([network, method], loss, (maps, labels), epochs, rate, method.seed)
    # Statistics over all training maps, as in fit_layer: those of the last batches would amplify
    # features that are rarely active.
    with torch.no_grad():
        update_bn((part.float() for part in maps.split(_CHUNK)), network)
    network.eval()
    return _in_parts(lambda part, _: network(part), data.maps)


@torch.inference_mode()
def _in_parts(
    function: Callable[[Tensor, Tensor], Tensor],
    maps: NDArray[np.float16],
    rows: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Apply a function to maps and the corresponding rows of another array, in chunks."""
    parts = []
    for start in range(0, len(maps), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part = torch.from_numpy(maps[chunk].astype(np.float32))
        other = torch.empty(0) if rows is None else torch.from_numpy(rows[chunk].copy())
        parts.append(function(part, other).numpy())
    return np.concatenate(parts)
