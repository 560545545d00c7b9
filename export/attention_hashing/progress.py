"""What a run reports while it trains: its log, and how long it will take.

The log is a CSV with a line per epoch. Knows no network and no images.
"""

import csv
import sys
import time
from pathlib import Path
from typing import TypedDict

import torch
from tqdm import tqdm

try:
    import resource
except ImportError:  # on Windows
    resource = None  # type: ignore[assignment]

LOG = "log.csv"
# A run estimates its end after STEPS steps; the first few also start workers and fill caches.
STEPS = 100
WARM_UP = 3


class Epoch(TypedDict):
    """A line of the log.

    Attributes:
        epoch: its number, from 1, over both stages.
        stage: branch or hash.
        loss: mean over its batches.
        validation: the figure of the held-out images, in [0, 1]; None if there are none.
        seconds: that it took, validation included.
    """

    epoch: int
    stage: str
    loss: float
    validation: float | None
    seconds: float


def write_log(run: Path, history: list[Epoch]) -> None:
    """Write the log of a run's folder: replaced after each epoch, so it never has half a line."""
    draft = run / f"{LOG}.part"
    with draft.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(Epoch.__annotations__))
        table.writeheader()
        for row in history:
            figure = row["validation"]
            rounded = {
                "loss": round(row["loss"], 4),
                "validation": None if figure is None else round(figure, 4),
                "seconds": round(row["seconds"], 1),
            }
            table.writerow({**row, **rounded})
    draft.replace(run / LOG)


def described(epoch: Epoch) -> str:
    """Such as "(hash): loss 2.027, held-out images 0.478"."""
    figure = epoch["validation"]
    of_held_out = "" if figure is None else f", held-out images {figure:.3f}"
    return f"({epoch['stage']}): loss {epoch['loss']:.3f}{of_held_out}"


def memory_used(device: torch.device) -> str:
    """The most memory that this process has used, such as "1.2 GB of memory"; on a GPU, there."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
    elif resource is None:
        return "memory unknown on this system"
    else:
        kilobytes = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobytes
    return f"{peak / 1e9:.1f} GB of memory"


def as_time(seconds: float) -> str:
    """Such as "40 s", "12 min" or "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Forecast:
    """Prints once, after the first steps of a run, how long the others will take.

    Args:
        steps: that are to come.
        device: that they run on.
        is_bound: whether there may be fewer.
    """

    def __init__(self, steps: int, device: torch.device, *, is_bound: bool = False) -> None:
        self._steps = steps
        self._is_bound = is_bound
        self._device = device
        self._done = 0
        self._start = 0.0

    def step(self) -> None:
        """Count a step that has ended."""
        self._done += 1
        if self._done == WARM_UP:
            self._start = time.monotonic()
        if self._done == STEPS < self._steps:
            each = (time.monotonic() - self._start) / (STEPS - WARM_UP)
            left = self._steps - self._done
            tqdm.write(
                f"{STEPS} steps: {each:.2f} s each, {'up to' if self._is_bound else 'about'} "
                f"{as_time(each * left)} for the other {left}; {memory_used(self._device)}",
                file=sys.stderr,
            )
