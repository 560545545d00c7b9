"""The cluster: Ray, imported and connected when it is first needed; how many CPUs there are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitgaze.arguments import at_least
from bitgaze.errors import ClusterError

# More threads for one encoder bring little; so it fits on any machine.
_MOST_DEFAULT_CPUS = 4


def connected() -> Any:
    """The module ray, connected.

    To the cluster that the program has connected to with `ray.init`; else to that of RAY_ADDRESS or
    on this machine; else to a new one that is this machine alone.

    Raises:
        ClusterError: ray is not installed.
    """
    # Read when a cluster starts. Who sets it to 1 wants it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise ClusterError(
            f"requires ray, of which {error.name} is not installed: pip install 'bitgaze[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False)
    return ray


@contextmanager
def ray_data(ray: Any) -> Iterator[None]:
    """A context to use Ray Data in: without progress bars; errors are those of the workers."""
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    with ray.data.DataContext.current(context):
        try:
            yield
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None


def node_cpus(ray: Any) -> list[int]:
    """Number of CPUs of each living node that has any, in descending order.

    Raises:
        ClusterError: there is none.
    """
    cpus = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    cpus = sorted((count for count in cpus if count), reverse=True)
    if not cpus:
        raise ClusterError("the cluster has no CPUs: start a node with num_cpus of at least 1")
    return cpus


def cpus_per_worker(nodes: list[int], cpus: int | None) -> int:
    """How many CPUs a worker gets: `cpus` if given, else what fits on each node, at most 4.

    Raises:
        TypeError, ValueError: cpus is no integer of at least 1.
        ClusterError: no node has that many.
    """
    if cpus is None:
        return min(_MOST_DEFAULT_CPUS, nodes[-1])
    cpus = at_least(cpus, "cpus", 1)
    if cpus > nodes[0]:
        raise ClusterError(
            f"a worker of {cpus} CPUs fits on no node: the largest has {nodes[0]}; pass fewer cpus"
        )
    return cpus


def most_workers(nodes: list[int], cpus: int) -> int:
    """How many workers of `cpus` CPUs fit on the nodes at the same time."""
    return sum(count // cpus for count in nodes)
