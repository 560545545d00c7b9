"""What the attention is worth: its map replaced, or its training changed, all else as it was.

Knows kept maps of a backbone, labels, and hash values. Every variant has the same maps, the same
loss, and a hash layer over a global and a second feature; they differ in the second.

    explicit      the mean weighted by the attention of a branch that learned to classify
    joint         so it starts; then branch and hash layer learn together
    implicit      the same branch, never taught to classify: the hash loss alone moves it
    boxes         explicit, with the attention of one who knows where the objects are: what a
                  perfect map would be worth. No method, a bound
    shuffled      explicit, with the attention of another image
    centred       a Gaussian in the middle of the image
    simam         parameter-free attention (Yang et al., ICML 2021)
    untaught      no attention: the mean of the branch's own 3 x 3 convolution, which learned to
                  classify; what teaching it adds without a map
    wide          no attention, no teaching: such a convolution learns with the hash layer. It has
                  at least the parameters of explicit
    global        no second feature

Features come to the hash layer with mean 0 and variance 1, as in heads.fit_layer: over the training
images, or, while the branch or a convolution learns along (joint, implicit, wide), over a batch.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from attention_hashing.attention import GUIDANCE_WEIGHT, AttentionBranch, classification_loss
from attention_hashing.bfloat16 import multiplies_bfloat16
from attention_hashing.heads import descend, fit_layer
from attention_hashing.methods import Method
from attention_hashing.network import AttentionHashing, pooled

_CHUNK = 256
_SPREAD = 0.25  # of the Gaussian, as a share of the side
_SIMAM_LAMBDA = 1e-4  # the paper's
_VARIANCE_ADDED = 1e-6  # of features, before they are divided by their deviation


class Data(NamedTuple):
    """Kept maps, and what to train on.

    Attributes:
        maps: float16, (n, channels, h, w): the backbone's, of all images.
        one_hot: float32, (n, classes), 1 for each label of an image.
        training: positions among the n.
        inside: (n, h, w): share of each cell's area that objects cover.
    """

    maps: NDArray[np.float16]
    one_hot: NDArray[np.float32]
    training: NDArray[np.intp]
    inside: NDArray[np.float32]


class Learner(Protocol):
    """Trains one variant, and gives the hash values that it gives all images: (n, bits)."""

    def __call__(self, method: Method, epochs: int, rate: float) -> NDArray[np.float32]:
        """Train anew.

        Args:
            method: the loss, not trained yet, and the seed of whatever is drawn.
            epochs: of the hash layer.
            rate: of learning, at the start.
        """
        ...


def learner(variant: str, data: Data, branch: AttentionBranch, seed: int) -> Learner:
    """What trains a variant, as often as there are rates to try; features are made once.

    Args:
        variant: one of VARIANTS.
        data: to train on.
        branch: taught to classify; it is left as it is.
        seed: of the features, where chance makes them.
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
    """(n, h, w), in [0, 1]."""
    return _in_parts(lambda part, _: branch(part).attention, maps)


def _explicit(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    return _attended(data.maps, attention_of(data.maps, branch))


def _boxes(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    return _attended(data.maps, data.inside)


def _shuffled(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    attention = attention_of(data.maps, branch)
    turned = np.random.default_rng(seed).permutation(len(attention))
    other = np.empty_like(turned)
    other[turned] = np.roll(turned, 1)  # one round through all: nobody keeps their own
    return _attended(data.maps, attention[other])


def _centred(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    y, x = ((np.arange(side) + 0.5) / side - 0.5 for side in data.maps.shape[2:])
    one = np.exp(-(x**2 + y[:, None] ** 2) / (2 * _SPREAD**2)).astype(np.float32)
    return _attended(data.maps, np.broadcast_to(one / one.max(), (len(data.maps), *one.shape)))


def _attended(maps: NDArray[np.float16], attention: NDArray[np.float32]) -> NDArray[np.float32]:
    return _in_parts(pooled, maps, attention)


def _simam(data: Data, branch: AttentionBranch, seed: int) -> NDArray[np.float32]:
    """Weights sigmoid((x - mean)^2 / (4 (variance + lambda)) + 0.5), channel by channel."""

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
    """Stands where a network has its backbone: maps are kept already."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels


class _Quick(nn.Module):
    """The 3 x 3 convolution, in bfloat16 where the processor multiplies such numbers itself.

    Nearly all of the arithmetic of what learns here is in it. Forward and backward of 64 maps, 1280
    channels to 64 over 8 x 8, two cores with amx_bf16: 0.19 s in float32, 0.05 s so.
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
    """The network after its backbone, with scaled features: maps to hash values (B, bits)."""

    def __init__(self, branch: AttentionBranch, channels: int, bits: int) -> None:
        super().__init__()
        self.network = AttentionHashing(_Kept(channels), branch, bits)
        self.network.project = _scaled(self.network.project)

    def forward(self, maps: Tensor) -> Tensor:
        return self.network.hash(maps).hash


class Wide(nn.Module):
    """Global feature, and the mean of a 3 x 3 convolution; then a hash layer.

    Args:
        branch: what it has at least as many parameters as, with the hash layer over two features.
        channels: of the maps.
        bits: length of the code.
    """

    def __init__(self, branch: AttentionBranch, channels: int, bits: int) -> None:
        super().__init__()
        guided = sum(one.numel() for one in branch.parameters()) + 2 * channels * bits
        each = 9 * channels + 2 + bits  # what one channel of the convolution takes
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
    """Of a variant whose branch learns with the hash layer."""

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
        guidance = classification_loss(hashed.logits, labels)
        return method(hashed.hash, labels, step) + GUIDANCE_WEIGHT * guidance

    maps = torch.from_numpy(np.ascontiguousarray(data.maps[data.training]))
    labels = torch.from_numpy(data.one_hot[data.training])
    network.train()
    descend([network, method], loss, (maps, labels), epochs, rate, method.seed)
    # Over all training maps, as fit_layer has them: those of the last batches would scale up what
    # is rarely active.
    with torch.no_grad():
        update_bn((part.float() for part in maps.split(_CHUNK)), network)
    network.eval()
    return _in_parts(lambda part, _: network(part), data.maps)


@torch.inference_mode()
def _in_parts(
    function: Callable[[Tensor, Tensor], Tensor],
    maps: NDArray[np.float16],
    beside: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """The function of so many maps at a time, and of what stands beside them."""
    parts = []
    for start in range(0, len(maps), _CHUNK):
        rows = slice(start, start + _CHUNK)
        part = torch.from_numpy(maps[rows].astype(np.float32))
        other = torch.empty(0) if beside is None else torch.from_numpy(beside[rows].copy())
        parts.append(function(part, other).numpy())
    return np.concatenate(parts)
