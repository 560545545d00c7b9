"""The configuration of a training run, and the untrained network that it describes."""

from dataclasses import dataclass

import torch

from attention_hashing import backbones
from attention_hashing.attention import AttentionBranch
from attention_hashing.methods import DEFAULT, METHODS
from attention_hashing.network import AttentionHashing
from bitgaze.arguments import code_length
from bitgaze.encoding.images import Preprocess

PRECISIONS = ("float32", "bfloat16")
MOST_LOOKS = 3


@dataclass(frozen=True)
class Config:
    """Everything that determines the weights; stored with them.

    Attributes:
        bits: length of the code, a multiple of 8 from 8 to 1024.
        size: side of the input in pixels, a multiple of the stride.
        branch_epochs: of stage 1; 0 if and only if a stored branch is used.
        hash_epochs: of stage 2; 0 to train the branch alone.
        batch_size: images per step.
        learning_rate: of the new layers at the start of each stage; it falls to 0 as a half
            cosine.
        weight_decay: of AdamW.
        hidden: channels of the branch's 3 x 3 convolution; 0 for a branch without it.
        seed: of everything random, in 0..2^32 - 1.
        method: the loss of stage 2, a name in methods.METHODS.
        backbone: a name that backbones.backbone accepts.
        stride: of the backbone, one of backbones.strides.
        backbone_rate: learning rate of the backbone, as a factor of that of the new layers; a
            backbone without pretrained weights needs 1.
        precision: of the backbone's arithmetic in training, float32 or bfloat16; branch, hash
            layer, loss and all weights are float32.
        branch: digest of the stored branch that stage 2 starts from; empty if stage 1 trains one.
        frozen_blocks: number of blocks of an EfficientNet-Lite, from the first, that keep their
            published weights and statistics, as does the stem if there are any. Nothing is
            propagated back through them, which saves more than half of a step.
        looks: largest number of looks at an image that stage 2 learns from, beside the image
            itself: parts of it where the branch finds its labels.
        several_labels: whether an image may have several, each of which the branch learns by
            itself.
    """

    bits: int = 64
    size: int = 128
    branch_epochs: int = 3
    hash_epochs: int = 7
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    hidden: int = 256
    seed: int = 0
    method: str = DEFAULT
    backbone: str = backbones.DEFAULT
    stride: int = 32
    backbone_rate: float = 0.1
    precision: str = "float32"
    branch: str = ""
    frozen_blocks: int = 0
    looks: int = 0
    several_labels: bool = False

    def __post_init__(self) -> None:
        backbones.check_stride(self.backbone, self.stride)
        if self.size % self.stride or self.size < self.stride:
            raise ValueError(
                f"size is {self.size}, expected a multiple of {self.stride}, the stride of "
                f"{self.backbone}"
            )
        # Batch normalisation cannot train on a single image.
        minimums = {
            "batch_size": 2,
            "branch_epochs": 0 if self.branch else 1,
            "hash_epochs": 1 if self.branch else 0,
            "hidden": 0,
        }
        for name, minimum in minimums.items():
            if (value := getattr(self, name)) < minimum:
                raise ValueError(f"{name} is {value}, expected at least {minimum}")
        if self.branch and self.branch_epochs:
            raise ValueError(
                f"branch_epochs is {self.branch_epochs}, expected 0 with a stored branch"
            )
        if self.frozen_blocks < 0:
            raise ValueError(f"frozen_blocks is {self.frozen_blocks}, expected at least 0")
        if not 0 <= self.looks <= MOST_LOOKS:
            raise ValueError(f"looks is {self.looks}, expected 0 to {MOST_LOOKS}")
        for name in ("learning_rate", "backbone_rate"):
            if not 0 < (rate := getattr(self, name)) < float("inf"):
                raise ValueError(f"{name} is {rate}, expected a number above 0")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}, expected 0..{2**32 - 1}")
        code_length(self.bits)
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}, expected one of {', '.join(METHODS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}, expected {' or '.join(PRECISIONS)}")

    @property
    def preprocess(self) -> Preprocess:
        """How images are prepared for the network."""
        return Preprocess(self.size)


def new_network(config: Config, classes: int, pretrained: bool = True) -> AttentionHashing:
    """Put a new branch and a new hash layer on a backbone.

    Args:
        config: of the run.
        classes: number of classes of the branch.
        pretrained: whether to load the backbone's published weights; False if other weights will
            be loaded anyway.

    Raises:
        ValueError: a package that the backbone needs is not installed, or the backbone has fewer
            blocks than are to be frozen.
    """
    torch.manual_seed(config.seed)
    backbone = backbones.backbone(config.backbone, pretrained, config.stride)
    blocks = getattr(backbone, "blocks", 0)  # only an EfficientNet-Lite has any
    if config.frozen_blocks > blocks:
        raise ValueError(
            f"frozen_blocks is {config.frozen_blocks}, expected at most {blocks} for "
            f"{config.backbone}"
        )
    branch = AttentionBranch(backbone.channels, classes, config.hidden, config.several_labels)
    return AttentionHashing(backbone, branch, config.bits)
