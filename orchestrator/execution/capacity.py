"""Computes how many trials fit at once on a machine or on the nodes of a cluster."""

import math
from collections import Counter
from collections.abc import Collection, Sequence

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.job import Resources

ROUNDING = 1e-6  # of sums of fractions of a GPU


def max_concurrent_trials(resources: Resources, nodes: Sequence[tuple[float, float]]) -> int:
    """Returns how many trials, each with all of its workers, can run at once.

    A worker runs on one node. nodes: CPUs and GPUs of each node. Raises `UsageError` with the numbers if not one trial fits.
    """
    places = sum(workers_per_node(resources, cpus=cpus, gpus=gpus) for cpus, gpus in nodes)
    if places >= resources.workers:
        return places // resources.workers
    requested = _amounts(resources.cpus, resources.gpus)
    if resources.workers > 1:
        requested = f"{resources.workers} workers, each with {requested}"
    room = f", enough for {places} of them" if places else ""
    raise UsageError(f"resources: one trial needs {requested}; available are {_describe_nodes(nodes)}{room}")


def workers_per_node(resources: Resources, *, cpus: float, gpus: float) -> int:
    """Returns how many workers fit on a node with these CPUs and GPUs; a share of a GPU never spans two GPUs."""
    by_cpus = math.floor(cpus / resources.cpus)
    if not resources.gpus:
        return by_cpus
    # Shares are rounded down per GPU, not over all GPUs: what is left of two GPUs serves no worker.
    per_gpu = math.floor(1 / resources.gpus) if resources.gpus < 1 else 1 / resources.gpus
    return min(by_cpus, math.floor(gpus * per_gpu))


class Room:
    """Tells which trials fit into a cluster next to those that are live. nodes: CPUs and GPUs of each node."""

    def __init__(self, nodes: Sequence[tuple[float, float]]) -> None:
        self._nodes = nodes
        self._slots: dict[Resources, int] = {}

    def num_slots(self, resources: Resources) -> int:
        """Returns how many such trials can run at once. Raises `UsageError` if not one fits."""
        if resources not in self._slots:
            self._slots[resources] = max_concurrent_trials(resources, self._nodes)
        return self._slots[resources]

    def fits(self, resources: Resources, live: Collection[Resources]) -> bool:
        """Returns whether such a trial fits next to live ones: by its own slots, and by the CPUs and GPUs of all."""
        if sum(other == resources for other in live) >= self.num_slots(resources):
            return False
        every = [*live, resources]
        return all(
            sum(each.workers * getattr(each, name) for each in every) <= sum(node[place] for node in self._nodes) + ROUNDING
            for place, name in enumerate(("cpus", "gpus"))
        )


def _describe_nodes(nodes: Sequence[tuple[float, float]]) -> str:
    """Returns what the nodes offer, equal nodes counted together."""
    if len(nodes) == 1:
        return _amounts(*nodes[0])
    equal = [
        (f"{count} nodes" if count > 1 else "1 node", node) for node, count in sorted(Counter(nodes).items())
    ]
    return ", ".join(f"{number} with {_amounts(*node)}" for number, node in equal) or "no nodes"


def _amounts(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs and {gpus:g} GPUs"
