"""Losses over pairs and triplets of a batch: DSH, DPSH, DTSH, HashNet, DCH.

Two images are alike (s = 1) if they share a label. An image is never paired with itself; u_i are
hash values, and a mean over no pairs is 0. Some of the papers pair a batch with all images of the
training set; here pairs are within the batch.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu, softplus

from attention_hashing.methods.method import Method

_DSH_QUANTISATION = 0.01  # alpha, the paper's
# The papers' eta and lambda weigh sums over the training set, and depend on its size. These weigh
# means over bits, and come from DeepHash-pytorch (swuxyj), which reaches the papers' mAP.
_DPSH_QUANTISATION = 0.1
_DTSH_QUANTISATION = 1.0
_DTSH_MARGIN = 5.0  # alpha, likewise
_HASHNET_SCALE = 10.0  # alpha = 10 / bits, as in the authors' code
# Their beta = sqrt(1 + 0.005 iteration), over their 10,000 iterations.
_HASHNET_GROWTH = 0.005 * 10_000
_DCH_GAMMA = (
    20.0  # of the authors' script; one of them also mentions 30 (thulab/DeepHash, issue 38)
)
_DCH_QUANTISATION = 0.1  # lambda
_EPSILON = 1e-6


class DSH(Method):
    """Close if alike, otherwise a margin apart (Liu et al., CVPR 2016).

    L = mean over pairs of [ s d / 2 + (1 - s) max(0, m - d) / 2 + alpha (q_i + q_j) ],
    d = ||u_i - u_j||^2, q_i = sum over bits of | |u_i| - 1 |, m = 2 bits.
    """

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        alike, unlike = _pairs(labels)
        squares = hash.square().sum(1)
        distance = squares[:, None] + squares[None] - 2 * hash @ hash.T  # (B, B)
        apart = alike * distance + unlike * relu(2 * self.bits - distance)
        quantisation = (hash.abs() - 1).abs().sum(1).mean()
        return _mean(apart, alike | unlike) / 2 + 2 * _DSH_QUANTISATION * quantisation


class DPSH(Method):
    """The likelihood of pairs being alike (Li, Wang and Kang, IJCAI 2016).

    L = mean over pairs of [ log(1 + e^t) - s t ] + alpha mean over bits of (u - sign u)^2,
    t = u_i . u_j / 2.
    """

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        alike, unlike = _pairs(labels)
        products = hash @ hash.T / 2  # (B, B)
        likelihood = _mean(softplus(products) - alike * products, alike | unlike)
        return likelihood + _DPSH_QUANTISATION * _to_sign(hash)


class DTSH(Method):
    """Closer to an image that is alike than to one that is not (Wang, Shi and Kitani, ACCV 2016).

    L = mean over triplets of log(1 + e^(alpha - t_ap + t_an)) + lambda mean over bits of
    (u - sign u)^2, t_ij = u_i . u_j / 2, p alike to a and n not.
    """

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        alike, unlike = _pairs(labels)
        products = hash @ hash.T / 2
        short = _DTSH_MARGIN - products[:, :, None] + products[:, None, :]  # (a, p, n)
        triplets = alike[:, :, None] & unlike[:, None, :]
        return _mean(softplus(short), triplets) + _DTSH_QUANTISATION * _to_sign(hash)


class HashNet(Method):
    """A balanced likelihood of a tanh that becomes a sign (Cao et al., ICCV 2017).

    L = mean over alike pairs + mean over others of [ log(1 + e^z) - s z ], z = alpha h_i . h_j,
    h = tanh(beta u), beta = sqrt(1 + 50 step). The two means are the paper's weights |S| / |S_1|
    and |S| / |S_0| written out, for the pairs of the batch. The paper also weighs by the share of
    common labels; the authors' code does not, nor does this.
    """

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        alike, unlike = _pairs(labels)
        soft = torch.tanh((1 + _HASHNET_GROWTH * step) ** 0.5 * hash)
        products = _HASHNET_SCALE / self.bits * soft @ soft.T
        return _mean(softplus(-products), alike) + _mean(softplus(products), unlike)


class DCH(Method):
    """A Cauchy likelihood, steep at small distances (Cao, Long, Liu and Wang, CVPR 2018).

    L = mean over alike pairs of log(1 + d / gamma) + mean over others of log(1 + gamma / d)
    + lambda mean of log(1 + d(|u_i|, 1) / gamma), d(a, b) = bits (1 - cos(a, b)) / 2.
    This is the paper's s log(d / gamma) + log(1 + gamma / d) with its two weights written out.
    """

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """See the class."""
        alike, unlike = _pairs(labels)
        unit = normalize(hash)
        distance = self.bits * (1 - unit @ unit.T).clamp(min=0) / 2
        near = _mean(torch.log1p(distance / _DCH_GAMMA), alike)
        far = _mean(torch.log1p(_DCH_GAMMA / (distance + _EPSILON)), unlike)
        to_code = self.bits * (1 - unit.abs().sum(1) / self.bits**0.5).clamp(min=0) / 2
        return near + far + _DCH_QUANTISATION * torch.log1p(to_code / _DCH_GAMMA).mean()


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs that are alike, and pairs that are not: bool (B, B) each, False on the diagonal."""
    alike = labels @ labels.T > 0
    others = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    return alike & others, ~alike & others


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the selected values; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def _to_sign(hash: Tensor) -> Tensor:
    return (hash.abs() - 1).square().mean()  # |u - sign u| = ||u| - 1|, and smooth where u is not 0
