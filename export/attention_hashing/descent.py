"""The training loop and the learning rate schedule that all trainings share."""

import math
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Share of the steps in which the learning rate rises.
WARM_UP = 0.05


def minimise(losses: Iterable[Tensor], optimiser: Optimizer, schedule: LambdaLR) -> None:
    """Take one step for each loss.

    Args:
        losses: computed lazily, each with the weights after the previous step.
        optimiser: of the weights.
        schedule: of the learning rate, advanced after each step.
    """
    for loss in losses:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


def half_cosine(optimiser: Optimizer, steps: int, warm_up: float = WARM_UP) -> LambdaLR:
    """A learning rate that rises linearly, then falls to 0 as half a cosine.

    Args:
        optimiser: whose learning rates the schedule multiplies.
        steps: total number, at least 1; the rate stays 0 afterwards.
        warm_up: share of the steps in which the rate rises; 0 for none.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1.0, warm_up * steps))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return LambdaLR(optimiser, factor)
