"""How many trials fit at once into what a machine or the nodes of a cluster have."""

import math
from collections import Counter
from collections.abc import Sequence

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.job import Resources


def max_concurrent_trials(resources: Resources, nodes: Sequence[tuple[float, float]]) -> int:
    """Trials at once, each with all of its workers; a worker is on one node. nodes: CPUs and GPUs of each.

    Raises `UsageError` with the numbers where not even one trial fits.
    """
    places = sum(workers_per_node(resources, cpus=cpus, gpus=gpus) for cpus, gpus in nodes)
    if places >= resources.workers:
        return places // resources.workers
    wanted = _amount(resources.cpus, resources.gpus)
    if resources.workers > 1:
        wanted = f"{resources.workers} workers, each with {wanted}"
    room = f"; there is room for {places} of them" if places else ""
    raise UsageError(f"resources: one trial wants {wanted}; there are {_listed(nodes)}{room}")


def workers_per_node(resources: Resources, *, cpus: float, gpus: float) -> int:
    """Workers that fit on one node."""
    by_cpus = math.floor(cpus / resources.cpus)
    if not resources.gpus:
        return by_cpus
    per_gpu = math.floor(1 / resources.gpus) if resources.gpus < 1 else 1 / resources.gpus
    return min(by_cpus, math.floor(gpus * per_gpu))


def _listed(nodes: Sequence[tuple[float, float]]) -> str:
    """Nodes that have the same are told of together."""
    if len(nodes) == 1:
        return _amount(*nodes[0])
    alike = [
        (f"{count} nodes" if count > 1 else "1 node", node) for node, count in sorted(Counter(nodes).items())
    ]
    return ", ".join(f"{many} with {_amount(*node)}" for many, node in alike) or "no nodes"


def _amount(cpus: float, gpus: float) -> str:
    return f"{cpus:g} CPUs and {gpus:g} GPUs"
