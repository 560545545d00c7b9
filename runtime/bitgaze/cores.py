"""How many cores this process may use: what `threads=None` means everywhere."""

import functools
import os
from pathlib import Path


def available_cores() -> int:
    """Cores this process may run on, by its affinity; a container's CPU quota caps it."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


@functools.cache  # reading it takes as long as a small search
def _quota(cores: int) -> int:
    """Of the control group (version 2), in whole cores; or else as many as there are."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else round(int(quota) / int(period))
