"""What each trial asks a cluster for: cores, GPUs, and as much memory as trials of its shape were seen to take."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from uuid import uuid4

from ray import tune
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory

from pruneyard.cluster.session import Session
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials, workers_per_node
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.memory_requests import (
    DRIVER_BYTES,
    GIB,
    SAFETY_FACTOR,
    MemoryHistory,
    memory_key,
)
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status

GPU_CONTEXT_BYTES = GIB  # beside its tensors a process holds a context, and what its allocator keeps in reserve: not measured


GPU_SHARE_STEPS = 20  # a share of a GPU is raised to whole parts, so that few different ones are asked for


class Placement:
    """Tune asks for a trial's resources when its turn has come, so it is told what was learned until then."""

    def __init__(self, orders: Sequence[PlannedAttempt], folder: RunFolder, *, resources: Resources, session: Session) -> None:
        self.slots = max_concurrent_trials(resources, session.nodes)
        self._resources, self._needs = resources, MemoryHistory.seen_in(folder)
        self._shapes = {order.job.key: memory_key(order.job.kind, order.job.identity) for order in orders}
        places = [workers_per_node(resources, cpus=cpus, gpus=gpus) for cpus, gpus in session.nodes]
        usable = [(memory, count) for memory, count in zip(session.memory, places, strict=True) if count]
        self._share = min(memory // count for memory, count in usable)
        self._largest = max(memory for memory, _ in usable)
        self._of_gpu: dict[str, float] = {}  # by shape: the share of a GPU's memory that was taken

    def record(self, report: Report) -> None:
        """How a trial stands."""
        if report.status is not Status.COMPLETED:
            return
        shape, peak = self._shapes[report.run_key], report.peak_memory_bytes
        if not self._resources.gpus:
            self._needs.record(shape, peak)
        elif peak is not None and report.gpu_memory_bytes is not None:
            taken = (peak * SAFETY_FACTOR + GPU_CONTEXT_BYTES) / report.gpu_memory_bytes
            self._of_gpu[shape] = max(taken, self._of_gpu.get(shape, 0.0))

    def wanted(self, bundle: Sequence[PlannedAttempt]) -> dict[str, float]:
        """By Ray's names, for jobs that run one after the other in one process.

        Of a trial whose ranks Ray Train is to place it is nothing that they want: waiting trials would take it from them.
        """
        if self._resources.workers > 1:
            return {"memory": DRIVER_BYTES}
        shapes = {self._shapes[order.job.key] for order in bundle}
        memory = max(self._needs.request(shape, share=self._share, node=self._largest) for shape in shapes)
        cores = {"cpu": self._resources.cpus, "gpu": self._gpus(shapes)}
        return {**cores, "memory": memory} if memory else cores


    def _gpus(self, shapes: Collection[str]) -> float:
        """What was asked for; of a share of a GPU more where trials of a shape were seen to take more of its memory."""
        asked = self._resources.gpus
        if not 0 < asked < 1:
            return asked
        parts = max(math.ceil(self._of_gpu.get(shape, 0.0) * GPU_SHARE_STEPS) for shape in shapes)
        return max(asked, min(parts, GPU_SHARE_STEPS) / GPU_SHARE_STEPS)


_PLACEMENTS: dict[str, tuple[Placement, Sequence[Sequence[PlannedAttempt]]]] = {}


"""Tune asks a pickled copy of what it is given; this is what the copy finds again."""


@contextmanager
def resources_per_trial(
    placement: Placement, bundles: Sequence[Sequence[PlannedAttempt]]
) -> Iterator[Callable[[Mapping[str, Any]], tune.PlacementGroupFactory]]:
    """For `tune.with_resources`, as long as the block lasts."""
    name = uuid4().hex
    _PLACEMENTS[name] = (placement, bundles)
    try:
        yield partial(_ask, name)
    finally:
        del _PLACEMENTS[name]


def _ask(name: str, config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
    placement, bundles = _PLACEMENTS[name]
    asked: tune.PlacementGroupFactory = resource_dict_to_pg_factory(placement.wanted(bundles[config["index"]]))
    return asked
