"""Attention branches and hash layers, trained over stored maps of a frozen backbone.

That takes seconds where training a whole network takes hours, so methods can be compared with each
other over several seeds, each at its own best learning rate.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from attention_hashing.attention import AttentionBranch
from attention_hashing.config import Config
from attention_hashing.descent import half_cosine, minimise
from attention_hashing.methods import Method
from attention_hashing.network import HashLayer, pooled

_BATCH = 64
_WEIGHT_DECAY = 1e-2
_BRANCH_RATE = 1e-3
_CHUNK = 256  # images per batch where nothing is trained


class Described(NamedTuple):
    """Output of the branch for n maps.

    Attributes:
        features: (n, 2 * channels), global, then local; float16 as stored.
        logits: float32, (n, classes).
    """

    features: NDArray[np.floating]
    logits: NDArray[np.float32]


def fit_branch(
    maps: NDArray[np.float16],
    one_hot: NDArray[np.float32],
    epochs: int,
    seed: int,
    hidden: int = Config.hidden,
) -> AttentionBranch:
    """Stage 1: train a branch to classify.

    Args:
        maps: (n, channels, h, w).
        one_hot: (n, classes), 1 for each label of an image, otherwise 0. If an image has several,
            each label is learned by itself.
        epochs: at least 1.
        seed: of initial weights and order.
        hidden: channels of the 3 x 3 convolution.
    """
    has_several = bool((one_hot.sum(1) > 1).any())
    torch.manual_seed(seed)
    branch = AttentionBranch(maps.shape[1], one_hot.shape[1], hidden, has_several).train()
    data = torch.from_numpy(np.ascontiguousarray(maps)), torch.from_numpy(one_hot)

    def loss(features: Tensor, labels: Tensor, step: float) -> Tensor:
        return branch.loss(branch(features.float()).logits, labels)

    descend([branch], loss, data, epochs, _BRANCH_RATE, seed)
    return branch.eval()


@torch.inference_mode()
def describe(maps: NDArray[np.float16], branch: AttentionBranch) -> Described:
    """Global and local features, and logits, of maps (n, channels, h, w)."""
    features, logits = [], []
    for start in range(0, len(maps), _CHUNK):
        part = torch.from_numpy(maps[start : start + _CHUNK].astype(np.float32))
        guided = branch(part)
        features.append(pooled(part, guided.attention).half().numpy())
        logits.append(guided.logits.numpy())
    return Described(np.concatenate(features), np.concatenate(logits))


def fit_layer(
    features: NDArray[np.floating],
    one_hot: NDArray[np.float32],
    method: Method,
    epochs: int,
    rate: float,
) -> HashLayer:
    """Stage 2: train a linear layer followed by batch normalisation, as at the end of the network.

    Features are first scaled to mean 0 and variance 1. A linear layer can undo that, so the model
    is the same, but it learns faster.

    Args:
        features: (n, d).
        one_hot: (n, classes), 1 for each label of an image, otherwise 0.
        method: the loss; its own parameters are trained as well.
        epochs: at least 1.
        rate: learning rate at the start.
    """
    x = torch.from_numpy(features.astype(np.float32))
    mean, deviation = x.mean(0), x.std(0) + 1e-3
    x = (x - mean) / deviation
    torch.manual_seed(method.seed)
    project = nn.Linear(x.shape[1], method.bits, bias=False)
    normalise = nn.BatchNorm1d(method.bits)

    def loss(features: Tensor, labels: Tensor, step: float) -> Tensor:
        return method(normalise(project(features)), labels, step)

    method.train()
    descend(
        [project, normalise, method],
        loss,
        (x, torch.from_numpy(one_hot)),
        epochs,
        rate,
        method.seed,
    )
    with torch.inference_mode():
        scale = normalise.weight / (normalise.running_var + normalise.eps).sqrt()
        weight = (project.weight / deviation * scale[:, None]).T
        threshold = mean @ weight + normalise.running_mean * scale - normalise.bias
    return HashLayer(weight.contiguous().numpy(), threshold.numpy())


def epochs_of(images: int, epochs: int, least_steps: int) -> int:
    """A number of epochs: `epochs`, or more where these would be fewer than `least_steps` steps."""
    return max(epochs, -(-least_steps // (images // min(_BATCH, images))))


def descend(
    modules: list[nn.Module],
    loss: Callable[[Tensor, Tensor, float], Tensor],
    data: tuple[Tensor, Tensor],
    epochs: int,
    rate: float,
    seed: int,
) -> None:
    """Train modules over fixed features: AdamW, a warm-up, then half a cosine.

    Args:
        modules: whose parameters learn.
        loss: called with a batch of features, its labels, and the share of finished steps.
        data: features (n, ...) and labels (n, ...).
        epochs: at least 1.
        rate: learning rate at the start.
        seed: of the order.
    """
    features, labels = data
    batch = min(_BATCH, len(features))
    steps_of_epoch = len(features) // batch
    steps = epochs * steps_of_epoch
    parameters = [one for module in modules for one in module.parameters()]
    optimiser = torch.optim.AdamW(parameters, rate, weight_decay=_WEIGHT_DECAY, fused=True)
    order = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[Tensor]:
        for epoch in range(epochs):
            shuffled = torch.randperm(len(features), generator=order)
            for place in range(steps_of_epoch):
                chosen = shuffled[place * batch : (place + 1) * batch]
                step = (epoch * steps_of_epoch + place) / steps
                yield loss(features[chosen], labels[chosen], step)

    minimise(losses(), optimiser, half_cosine(optimiser, steps))
