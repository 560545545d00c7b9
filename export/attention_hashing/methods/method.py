"""What every hashing method is: a loss over hash values and labels. Knows no formula."""

from torch import Tensor, nn


class Method(nn.Module):
    """A loss that a network's hash values are trained with; subclasses give `loss`.

    What it learns are parameters, for the optimiser, and what it remembers buffers: both are in its
    `state_dict`. Fixed targets are not, since classes, bits and seed decide them.

    Args:
        classes: number of labels that there are, at least 1.
        bits: length of the code, at least 1; there may be fewer bits than classes.
        seed: of what the method draws; methods that draw nothing are the same for each.

    Raises:
        ValueError: a number below 1, or more classes than codes where each needs its own.
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
            labels: (B, classes), 1 where an image has a label and 0 elsewhere; at least one each.
            step: the share of training that is done, 0..1; the same for runs of any length.
                HashNet and MDSH change with it, the others do not.

        Raises:
            ValueError: another shape, an image without a label, or a step out of range.
        """
        if hash.ndim != 2 or hash.shape[1] != self.bits or not len(hash):
            raise ValueError(f"hash is {tuple(hash.shape)}, expected (B, {self.bits}), B > 0")
        if labels.shape != (len(hash), self.classes):
            raise ValueError(
                f"labels are {tuple(labels.shape)}, expected ({len(hash)}, {self.classes}), "
                "1 for each label of an image and 0 elsewhere"
            )
        labels = labels.to(hash.dtype)
        if not (labels.sum(1) > 0).all():
            raise ValueError("an image has no label; leave it out of the batch")
        if not 0 <= step <= 1:
            raise ValueError(f"step is {step}, expected the share of training done, 0..1")
        return self.loss(hash, labels, step)

    def loss(self, hash: Tensor, labels: Tensor, step: float) -> Tensor:
        """As `forward`, of arguments that are in order."""
        raise NotImplementedError
