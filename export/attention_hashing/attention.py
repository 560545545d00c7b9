"""The attention branch: class maps of a classification task, and the spatial attention they give.

Knows channels and classes only, so any convolutional backbone can take it. It does not know what
the attention is used for.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# Below this peak a map says nothing; keeps the division finite where no class has positive
# evidence.
_EPSILON = 1e-4
# Of the branch's loss while the hash layer learns: it holds the backbone's maps in place.
GUIDANCE_WEIGHT = 0.5


class Guided(NamedTuple):
    """What the branch says of a batch: logits (B, classes), attention (B, h, w) in [0, 1]."""

    logits: Tensor
    attention: Tensor


class AttentionBranch(nn.Module):
    """A classifier whose evidence stays spatial.

    The class maps are A = conv1x1(conv3x3(F)); the logits their spatial means. Training the logits
    on a classification task therefore gives each map a meaning: where the evidence for its class
    lies (class activation maps; Zhou et al., CVPR 2016). The attention is the map expected under
    the branch's own prediction, sum_c p_c A_c with p = softmax(logits), its negative part dropped
    and its peak scaled to one. An expectation instead of the winning class's map: when two classes
    are close, a tiny change of the input cannot switch the whole map.

    Args:
        channels: of the feature map.
        classes: of the task that guides the attention.
        hidden: channels of the 3 x 3 convolution; 0 leaves it out, which makes the branch exactly
            the classifier of a network that ends in "global mean, linear".
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
        """The branch that a trained "global mean, linear" classifier already is.

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
        """A, one map a class: (B, channels, h, w) to (B, classes, h, w)."""
        return self.classify(self.context(features))

    def forward(self, features: Tensor) -> Guided:
        """features: (B, channels, h, w)."""
        context = self.context(features)  # (B, hidden, h, w)
        weight = self.classify.weight.flatten(1)  # (classes, hidden)
        # The 1 x 1 convolution is linear, so mean and expectation move inside it: the classes' maps
        # (1000 of them for ImageNet, 15 % of the network's arithmetic) are never formed.
        logits = context.mean((2, 3)) @ weight.T + self.classify.bias  # (B, classes)
        p = logits.softmax(1)
        expected = torch.einsum("bd,bdhw->bhw", p @ weight, context)
        expected = expected + (p @ self.classify.bias)[:, None, None]
        return Guided(logits, _normalise(expected))


def classification_loss(logits: Tensor, one_hot: Tensor) -> Tensor:
    """Cross-entropy of the branch; an image's labels weigh alike.

    Args:
        logits: (B, classes).
        one_hot: (B, classes), 1 for each label of an image, at least one, and 0 elsewhere.
    """
    return cross_entropy(logits, one_hot / one_hot.sum(1, keepdim=True))


def _normalise(evidence: Tensor) -> Tensor:
    positive = evidence.relu()
    return positive / (positive.amax((1, 2), keepdim=True) + _EPSILON)
