"""How many trials fit at once into what a machine or a cluster has."""

import math

from orchestrator.errors import UsageError
from orchestrator.job import Resources


def num_slots(resources: Resources, *, cpus: float, gpus: float) -> int:
    """Trials at once. Raises `UsageError` with the numbers where not even one fits."""
    if resources.cpus > cpus or resources.gpus > gpus:
        wanted = f"{resources.cpus} CPUs and {resources.gpus:g} GPUs"
        raise UsageError(f"resources: one trial wants {wanted}; there are {cpus:g} CPUs and {gpus:g} GPUs")
    by_cpus = math.floor(cpus / resources.cpus)
    if not resources.gpus:
        return by_cpus
    per_gpu = math.floor(1 / resources.gpus) if resources.gpus < 1 else 1 / resources.gpus
    return min(by_cpus, math.floor(gpus * per_gpu))
