"""The interface of hashing methods: a loss over hash values and labels."""

from torch import Tensor, nn


class Method(nn.Module):
    """A loss for training a network's hash values; subclasses implement `loss`.

    What a method learns are parameters; what it remembers are buffers. Both are in its
    `state_dict`. Fixed targets are not: they follow from classes, bits and seed.

    Args:
        classes: number of labels, at least 1.
        bits: length of the code, at least 1; may be less than the number of classes.
        seed: of what the method draws at random, if anything.

    Raises:
        ValueError: a number below 1, or more classes than codes where each class needs its own.
    """

    def __init__(self, classes: int, bits: int, seed: int) -> None:
        super().__init__()
        for name, value in (("classes", classes), ("bits", bits)):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        self.classes, self.bits, self.seed = classes, bits, seed

    def forward(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            hash: float, (B, bits), the network's hash values; a bit is set above 0.
            labels: (B, classes), 1 for each label of an image, which has at least one, otherwise 0.
            step: share of the training that is finished, in [0, 1]. HashNet and MDSH depend on it.

        Raises:
            ValueError: a shape or the step is invalid, or an image has no label.
        """
        if hash.ndim != 2 or hash.shape[1] != self.bits or not len(hash):
            raise ValueError(f"hash is {tuple(hash.shape)}, expected (B, {self.bits}), B > 0")
        if labels.shape != (len(hash), self.classes):
            raise ValueError(
                f"labels are {tuple(labels.shape)}, expected ({len(hash)}, {self.classes}), "
                "1 for each label of an image, otherwise 0"
            )
        labels = labels.to(hash.dtype)
        if not (labels.sum(1) > 0).all():
            raise ValueError("an image in the batch has no label")
        if not 0 <= step <= 1:
            raise ValueError(f"step is {step}, expected the finished share of the training, 0..1")
        return self.loss(hash, labels, step)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """As `forward`, with valid arguments."""
        raise NotImplementedError
