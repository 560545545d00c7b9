"""Losses towards one fixed target per class: OrthoHash, CSQ, splits, DPN, MDSH.

u are hash values, t is the target of an image, which `targets` makes.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, log_softmax, normalize, relu

from attention_hashing.methods import targets
from attention_hashing.methods.method import Method

_ORTHOHASH_MARGIN = 0.2  # m, the paper's, with its s = sqrt(bits)
_SUPPLEMENT_MARGIN = 0.4  # the best of the supplement's sweep
_CSQ_QUANTISATION = 1e-4  # lambda, as in DeepHash-pytorch
_DPN_MARGIN = 1.0  # m
_MDSH_PAIRS = 1.0  # beta, as lambda in the authors' code
_MDSH_QUANTISATION = 1e-4
_MDSH_WARM_UP = 0.1
_MDSH_BANK = 4096


class OrthoHash(Method):
    """Cosine to the target of the class, with a margin (Hoe et al., NeurIPS 2021).

    L = - sum_c w_c log softmax_c( s (cos(u, t_c) - m y_c) ), with targets of fair coins; y is 1 for
    the labels of an image, w = y / (number of its labels), s = sqrt(bits), m = 0.2. No quantisation
    term is needed: a large cosine to a vector of -1 and 1 serves as one. For several labels this is
    the best of the three losses that the supplement compares.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.register_buffer("targets", targets.coins(classes, bits, seed), persistent=False)
        self.margin = _ORTHOHASH_MARGIN
        self.scale = math.sqrt(bits)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        cosine = normalize(hash) @ self.targets.T / math.sqrt(self.bits)  # (B, classes)
        scores = log_softmax(self.scale * (cosine - self.margin * labels), 1)
        weights = labels / labels.sum(1, keepdim=True)
        return -(weights * scores).sum(1).mean()


class OrthoHashSupplement(OrthoHash):
    """OrthoHash's loss at the settings that its supplement found better.

    s = sqrt(2) log(classes - 1), at least 4, and m = 0.4.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.margin = _SUPPLEMENT_MARGIN
        self.scale = max(4.0, math.sqrt(2) * math.log(max(classes - 1, 1)))


class CSQ(Method):
    """Bit by bit towards Hadamard centres (Yuan et al., CVPR 2020).

    L = mean over bits of BCE(p, (t + 1) / 2) + lambda mean (|tanh u| - 1)^2, p = (tanh u + 1) / 2.
    The centre of an image with several labels is their majority, bit by bit; ties take the bit of a
    random vector.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.register_buffer("targets", targets.hadamard(classes, bits, seed), persistent=False)
        self.register_buffer("ties", targets.coins(1, bits, seed)[0], persistent=False)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        centre = targets.of_images(labels, self.targets, self.ties)
        # (tanh u + 1) / 2 is the sigmoid of 2 u, for which torch has an exact cross-entropy.
        error = binary_cross_entropy_with_logits(2 * hash, (centre + 1) / 2)
        return error + _CSQ_QUANTISATION * (torch.tanh(hash).abs() - 1).square().mean()


class Splits(Method):
    """Bit by bit as CSQ, towards targets that split the classes another way in each bit.

    The default. L = mean over bits of BCE(p, (t + 1) / 2), p = sigmoid(2 u), several labels as in
    CSQ; there is no quantisation term, which in CSQ weighs next to nothing.

    CSQ's own targets have few different bits where classes are few: of 64 bits for 10 classes, 16.
    Copies of a bit say the same of an image in doubt; different bits are further votes, as in
    error-correcting output codes (Dietterich and Bakiri, JAIR 1995).
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.register_buffer("targets", targets.splits(classes, bits, seed), persistent=False)
        self.register_buffer("ties", targets.coins(1, bits, seed + 1)[0], persistent=False)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        target = targets.of_images(labels, self.targets, self.ties)
        return binary_cross_entropy_with_logits(2 * hash, (target + 1) / 2)


class DPN(Method):
    """Each bit on its side of a margin (Fan et al., IJCAI 2020).

    L = mean over bits of max(0, m - u t), with targets of fair coins that are never re-estimated.
    Several labels as in CSQ.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.register_buffer("targets", targets.coins(classes, bits, seed), persistent=False)
        # With the seed of the targets, the vector for ties would be their first row.
        self.register_buffer("ties", targets.coins(1, bits, seed + 1)[0], persistent=False)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        target = targets.of_images(labels, self.targets, self.ties)
        return relu(_DPN_MARGIN - hash * target).mean()


class MDSH(Method):
    """Centres a minimal distance apart, and later pairs as well (Wang et al., CVPR 2023).

    L = - mean over images and classes of [ y log p + (1 - y) log(1 - p) ]
    + beta mean over alike pairs of log(1 + e^((1 - cos(u, v)) / 2)) + lambda mean (|u| - 1)^2,
    p = softmax_c( sqrt(bits) cos(u, t_c) ), v hash values of earlier images.

    Differences from the authors' recipe:
    - They derive the centres from CSQ's by lp-box ADMM; these are drawn to meet the same two
      conditions (`targets.separated`), so they differ.
    - Their bank has values of a momentum copy of the network for all images of the training set;
      this one has the last 4,096 of the network itself. It is filled during training only.
    - They add the pairs after 9 epochs, in runs that end when nothing improves; here pairs are
      added after a tenth of the training, a share chosen here.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__(classes, bits, seed)
        self.register_buffer("targets", targets.separated(classes, bits, seed), persistent=False)
        # Empty rows have no label, and form no pair.
        self.register_buffer("bank", torch.zeros(_MDSH_BANK, bits))
        self.register_buffer("bank_labels", torch.zeros(_MDSH_BANK, classes))

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        unit = normalize(hash)
        cosine = unit @ self.targets.T / math.sqrt(self.bits)  # (B, classes)
        scores = log_softmax(math.sqrt(self.bits) * cosine, 1)
        # log(1 - p), clamped because it would be minus infinity where p rounds to 1.
        others = torch.log(-torch.expm1(scores.clamp(max=-1e-6)))
        loss = -(labels * scores + (1 - labels) * others).mean()
        loss = loss + _MDSH_QUANTISATION * (hash.abs() - 1).square().mean()
        if step >= _MDSH_WARM_UP:
            alike = (labels @ self.bank_labels.T > 0).to(hash.dtype)  # (B, bank)
            far = torch.log1p(torch.exp((1 - unit @ normalize(self.bank).T) / 2))
            loss = loss + _MDSH_PAIRS * (alike * far).sum() / alike.sum().clamp(min=1)
        if self.training:
            self._remember(hash.detach(), labels)
        return loss

    def _remember(self, hash: Tensor, labels: Tensor) -> None:
        """Put the newest values first, and drop the oldest."""
        self.bank = torch.cat([hash.to(self.bank.dtype), self.bank])[:_MDSH_BANK]
        self.bank_labels = torch.cat([labels, self.bank_labels])[:_MDSH_BANK]
