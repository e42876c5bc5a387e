"""Decides what each trial requests from the cluster: CPUs, GPUs, and as much memory as similar trials took before."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ray import tune

from pruneyard.cluster.session import Session
from pruneyard.orchestrator.execution.capacity import Room, workers_per_node
from pruneyard.orchestrator.execution.crash_reason import is_oom_kill
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.live_function import live
from pruneyard.orchestrator.ray_backend.memory_requests import (
    DRIVER_BYTES,
    GIB,
    SAFETY_FACTOR,
    MemoryHistory,
    memory_key,
)
from pruneyard.orchestrator.ray_backend.tune_patches import placement_group_factory
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status

GPU_CONTEXT_BYTES = GIB  # for the CUDA context and the allocator's reserve, which the measured peak does not include
GPU_SHARE_STEPS = 20  # shares of a GPU are rounded up to 1/20, so that actors can be reused among few different shares


class Placement:
    """Computes the resources of a trial when Tune asks for them, just before the trial starts, from all trials until then."""

    def __init__(self, folder: RunFolder, *, shapes: Sequence[Resources], session: Session) -> None:
        """Raises `UsageError` if not one trial of one of the shapes fits."""
        self._history = MemoryHistory.from_folder(folder)
        self.room = Room(session.nodes)
        self._memory_of = {shape: self._node_memory(shape, session) for shape in shapes if self.room.num_slots(shape)}
        self._memory_keys: dict[str, str] = {}
        self._uses_gpu: dict[str, bool] = {}
        self._gpu_shares: dict[str, float] = {}  # by memory key: the share of a GPU's memory that a trial needs

    @staticmethod
    def _node_memory(resources: Resources, session: Session) -> tuple[int, int]:
        """Returns the share of a trial in the memory of its node, where that is least, and the memory of the largest node."""
        places = [workers_per_node(resources, cpus=cpus, gpus=gpus) for cpus, gpus in session.nodes]
        # A node on which no worker fits has no share.
        usable = [(memory, count) for memory, count in zip(session.memory, places, strict=True) if count]
        return min(memory // count for memory, count in usable), max(memory for memory, _ in usable)

    def expect(self, attempts: Sequence[PlannedAttempt]) -> None:
        """Adds attempts that are about to run, before resources are computed for them."""
        for planned in attempts:
            self._memory_keys[planned.job.key] = memory_key(planned.job.kind, planned.job.identity)
            self._uses_gpu[planned.job.key] = planned.resources.gpus > 0

    def record_crash(self, key: str, error: str) -> None:
        """Learns that a trial was killed because its node ran out of memory, if that is what the error says."""
        if is_oom_kill(error):
            self._history.record_oom_kill(self._memory_keys[key])

    def record(self, report: Report) -> None:
        """Learns the memory of a completed trial."""
        if report.status is not Status.COMPLETED:
            return
        key, peak = self._memory_keys[report.run_key], report.peak_memory_bytes
        if not self._uses_gpu[report.run_key]:
            self._history.record(key, peak)
        elif peak is not None and report.gpu_memory_bytes is not None:
            taken = (peak * SAFETY_FACTOR + GPU_CONTEXT_BYTES) / report.gpu_memory_bytes
            self._gpu_shares[key] = max(taken, self._gpu_shares.get(key, 0.0))

    def resources_for(self, bundle: Sequence[PlannedAttempt]) -> dict[str, float]:
        """Returns the resources of a bundle, whose jobs run one after the other in one process, by Ray's names.

        If Ray Train places the ranks of a trial, the trial itself requests no CPUs or GPUs: waiting trials would hold what the
        ranks of others need.
        """
        resources = bundle[0].resources
        if resources.workers > 1:
            return {"memory": DRIVER_BYTES}
        keys = {self._memory_keys[planned.job.key] for planned in bundle}
        share, largest = self._memory_of[resources]
        memory = max(self._history.request(key, share=share, node=largest) for key in keys)
        cores = {"cpu": resources.cpus, "gpu": self._gpus(resources.gpus, keys)}
        return {**cores, "memory": memory} if memory else cores

    def _gpus(self, requested: float, keys: Collection[str]) -> float:
        """Returns the GPUs of the spec, or a larger share of a GPU if similar trials took more of its memory."""
        # Whole GPUs are shared with no other trial, however little of their memory is used.
        if not 0 < requested < 1:
            return requested
        parts = max(math.ceil(self._gpu_shares.get(key, 0.0) * GPU_SHARE_STEPS) for key in keys)
        return max(requested, min(parts, GPU_SHARE_STEPS) / GPU_SHARE_STEPS)


@contextmanager
def resources_per_trial(
    placement: Placement, bundles: Sequence[Sequence[PlannedAttempt]]
) -> Iterator[Callable[[Mapping[str, Any]], tune.PlacementGroupFactory]]:
    """Yields the function for `tune.with_resources`; it works inside the block only."""

    def placement_group(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        return placement_group_factory(placement.resources_for(bundles[config["index"]]))

    with live(placement_group) as function:
        yield function
