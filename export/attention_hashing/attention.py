"""The attention branch: class maps of a classification task, and the attention derived from them.

It depends on channels and classes alone, so it fits any convolutional backbone.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# Keeps the division finite where no class has positive evidence; smaller peaks mean nothing.
_EPSILON = 1e-4
# Classes that a model file has maps of. Among a thousand, the tenth likeliest rarely matters.
LIKELY_CLASSES = 16
# Weight of the branch's loss while the hash layer learns; it stabilises the backbone's maps.
GUIDANCE_WEIGHT = 0.5


class Guided(NamedTuple):
    """Output of the branch: logits (B, classes), attention (B, h, w) in [0, 1]."""

    logits: Tensor
    attention: Tensor


class Places(NamedTuple):
    """Evidence for the likeliest classes, in descending order of probability.

    Attributes:
        maps: (B, k, h, w), their class maps.
        probability: (B, k), in [0, 1].
        number: int64, (B, k), their numbers.
    """

    maps: Tensor
    probability: Tensor
    number: Tensor


class AttentionBranch(nn.Module):
    """A classifier whose evidence stays spatial.

    The class maps are A = conv1x1(conv3x3(F)), the logits their spatial means. Training the logits
    on a classification task therefore gives each map a meaning: where the evidence for its class
    lies (class activation maps; Zhou et al., CVPR 2016). The attention is the expected map under
    the branch's own prediction, sum_c p_c A_c with p = softmax(logits), with its negative part
    dropped and its peak scaled to 1. Unlike the map of the winning class, an expectation cannot
    change completely when a tiny change of the input swaps two close classes.

    Args:
        channels: of the feature map.
        classes: of the task that guides the attention.
        hidden: channels of the 3 x 3 convolution; 0 omits it, which makes the branch exactly the
            classifier of a network that ends in "global mean, linear".
    """

    def __init__(self, channels: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.channels = channels
        self.hidden = hidden
        if hidden:
            self.context: nn.Module = nn.Sequential(
                nn.Conv2d(channels, hidden, 3, padding=1, bias=False),
                nn.BatchNorm2d(hidden),
                nn.ReLU(inplace=True),
            )
        else:
            self.context = nn.Identity()
        self.classify = nn.Conv2d(hidden or channels, classes, 1)

    @classmethod
    def from_classifier(cls, weight: Tensor, bias: Tensor) -> "AttentionBranch":
        """Use a trained "global mean, linear" classifier as a branch.

        Args:
            weight: (classes, channels).
            bias: (classes,).
        """
        classes, channels = weight.shape
        branch = cls(channels, classes, hidden=0)
        with torch.no_grad():
            branch.classify.weight.copy_(weight[:, :, None, None])
            branch.classify.bias.copy_(bias)
        return branch

    def class_maps(self, features: Tensor) -> Tensor:
        """The class maps A, (B, classes, h, w), of features (B, channels, h, w)."""
        return self.classify(self.context(features))

    def places(self, features: Tensor, logits: Tensor) -> Places:
        """The maps of the likeliest classes, up to LIKELY_CLASSES; the others are never computed.

        Args:
            features: (B, channels, h, w).
            logits: (B, classes), as `forward` computes them.
        """
        context = self.context(features)
        count = min(LIKELY_CLASSES, logits.shape[1])
        probability, number = logits.softmax(1).topk(count)  # (B, k)
        weight = self.classify.weight.flatten(1)[number]  # (B, k, hidden)
        maps = torch.einsum("bkd,bdhw->bkhw", weight, context)
        return Places(maps + self.classify.bias[number][..., None, None], probability, number)

    def forward(self, features: Tensor) -> Guided:
        """Logits and attention of features (B, channels, h, w)."""
        context = self.context(features)  # (B, hidden, h, w)
        weight = self.classify.weight.flatten(1)  # (classes, hidden)
        # The 1 x 1 convolution is linear, so mean and expectation can be taken before it. The class
        # maps (1000 for ImageNet, 15 % of the network's arithmetic) are never computed.
        logits = context.mean((2, 3)) @ weight.T + self.classify.bias  # (B, classes)
        p = logits.softmax(1)
        expected = torch.einsum("bd,bdhw->bhw", p @ weight, context)
        expected = expected + (p @ self.classify.bias)[:, None, None]
        return Guided(logits, _normalise(expected))


def classification_loss(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Cross-entropy of the branch; all labels of an image have equal weight.

    Args:
        logits: (B, classes).
        one_hot: (B, classes), 1 for the labels of an image, which has at least one, otherwise 0.
    """
    return cross_entropy(logits, one_hot / one_hot.sum(1, keepdim=True))


def _normalise(evidence: Tensor) -> Tensor:
    positive = evidence.relu()
    return positive / (positive.amax((1, 2), keepdim=True) + _EPSILON)
