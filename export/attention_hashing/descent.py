"""The loop of every training here: a loss, a step down its gradient, a step of the schedule."""

import math
from collections.abc import Iterable

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

# Of the steps: how long the learning rate rises.
WARM_UP = 0.05


def minimise(losses: Iterable[Tensor], optimiser: Optimizer, schedule: LambdaLR) -> None:
    """Take one step for each loss.

    Args:
        losses: computed one by one, as they are drawn, with the weights that the last step left.
        optimiser: of the weights.
        schedule: of its learning rate, by step.
    """
    for loss in losses:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()


def half_cosine(optimiser: Optimizer, steps: int, warm_up: float = WARM_UP) -> LambdaLR:
    """A schedule that falls to 0 as half a cosine, after a linear rise.

    Args:
        optimiser: whose learning rates are factors of the schedule.
        steps: all of them, at least 1; further ones have rate 0.
        warm_up: share of the steps in which the rate rises, on top of the cosine; 0 for none.
    """

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / max(1.0, warm_up * steps))
        return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))

    return LambdaLR(optimiser, factor)
