"""GreedyHash: a classifier of codes, with a straight-through gradient of the sign."""

import torch
from torch import Tensor, nn

from attention_hashing.methods.method import Method

# alpha, the paper's for CIFAR-10; for ImageNet it is 1.
_QUANTISATION = 0.1


class GreedyHash(Method):
    """Cross-entropy of a linear classifier of the code (Su et al., NeurIPS 2018).

    L = CE(W b, y) + alpha mean over bits of | |u| - 1 |^3, b = sign u (-1 at 0). In the backward
    pass b is treated as u: the gradient of u is that of b, plus that of the second term. The paper
    has one label per image; with several the target is spread evenly over them, as in OrthoHash.

    `classify` (W) is a parameter, which is not needed once the network is trained.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        generator = torch.Generator().manual_seed(seed)
        bound = bits**-0.5  # as torch initialises linear layers
        start = (2 * torch.rand(classes, bits, generator=generator) - 1) * bound
        self.classify = nn.Parameter(start)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        signs = torch.where(hash > 0, 1.0, -1.0).to(hash.dtype)
        code = hash + (signs - hash).detach()  # (B, bits): the signs; gradients are of hash
        target = labels / labels.sum(1, keepdim=True)
        error = nn.functional.cross_entropy(code @ self.classify.T, target)
        return error + _QUANTISATION * (hash.abs() - 1).abs().pow(3).mean()
