"""The number of cores this process may use: the default of every `threads` argument."""

import functools
import os
from pathlib import Path


def available_cores() -> int:
    """Cores this process may run on: its CPU affinity, capped by a container's CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min(cores, _quota(cores)))


@functools.cache  # reading the file takes as long as a small search
def _quota(cores: int) -> int:
    """Quota of the control group (cgroup v2) in whole cores; `cores` if it sets none."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else round(int(quota) / int(period))
