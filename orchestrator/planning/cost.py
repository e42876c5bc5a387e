"""Estimates the cost of a plan: counted FLOPs, and the time on this machine's CPU from a short benchmark."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from pruneyard.orchestrator.spec.job import Job
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.training.segment import WHOLE, Segment

STEP_OVERHEAD_S = 4e-4  # overhead of one step without its arithmetic, measured on a small network
START_UP_S = 10.0  # to start Ray on this machine and to import torch in the first trials, measured on two cores
TRAIN_START_UP_S = 11.0  # for each trial of several workers, to its first step
PROBES = 5
MEASURE_S = 5.0  # for how long a plan times steps of networks; a search over widths may have a thousand of them
PROBE_S = 0.02


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of the jobs still to run. `dense_flops` counts what masked dense kernels execute, at any density.

    seconds: of training, with `slots` trials at once. start_up_s: until the first step.
    """

    dense_flops: float
    seconds: float
    slots: int
    start_up_s: float


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """The expected cost of one job alone."""

    dense_flops: float
    seconds: float


def job_costs(
    jobs: Sequence[Job],
    data: Mapping[Source, Dataset],
    *,
    workers: Mapping[str | None, int],
    known: Sequence[Job],
    measures_steps: bool = False,
) -> dict[str, JobCost]:
    """Returns the cost of every job whose data set is in `data`, by run key. Jobs whose data is still to be made have none.

    workers: workers per trial, by stage; they share the arithmetic of a job evenly.
    known: jobs of the spec; for a training that resumes from one of them only the rest counts.
    measures_steps: whether to time a few steps of each network where its kind can, up to a second each and `MEASURE_S` in all.
        Counted FLOPs are far too few for deep networks on small batches.
    """
    measures_until = time.monotonic() + MEASURE_S if measures_steps else -math.inf
    until = {job.key: _segment(job).until for job in known}
    costs: dict[str, JobCost] = {}
    work: dict[object, tuple[float, float]] = {}  # FLOPs and seconds, equal for all seeds of a configuration
    for job in jobs:
        source: Source | None = getattr(job.workload, "data", None)
        if source is None or source not in data:
            continue
        configuration = replace(job.workload, seed=0)  # type: ignore[type-var]
        if configuration not in work:
            is_measured = time.monotonic() < measures_until
            work[configuration] = _work(job.workload, data[source], workers[job.stage], measures_steps=is_measured)
        job_flops, whole_s = work[configuration]
        segment = _segment(job)
        share = max(0.0, segment.until - max((until.get(run, 0.0) for run in segment.runs), default=0.0))
        costs[job.key] = JobCost(dense_flops=share * job_flops, seconds=share * whole_s)
    return costs


def _work(workload: Any, data: Dataset, workers: int, *, measures_steps: bool) -> tuple[float, float]:
    """Returns the FLOPs of a whole job and its seconds."""
    flops, steps = workload.expected_work(data)
    counted = steps * STEP_OVERHEAD_S + flops / _flops_per_s() / workers
    # Of several workers each has a part of the batch, and all of the rest of a step.
    can_measure = measures_steps and workers == 1 and hasattr(workload, "measured_step_s")
    measured: float | None = workload.measured_step_s(data) if can_measure else None
    return flops, counted if measured is None else steps * measured


def estimate(
    jobs: Sequence[Job],
    data: Mapping[Source, Dataset],
    *,
    slots: int,
    workers: Mapping[str | None, int],
    known: Sequence[Job],
) -> Estimate:
    """Returns the cost of all jobs whose data set is in `data`, as `job_costs` does.

    slots: number of trials that run at once.
    """
    costs = job_costs(jobs, data, workers=workers, known=known, measures_steps=True).values()
    num_trains = sum(workers[job.stage] > 1 for job in jobs)
    # Fewer jobs than slots leave slots empty.
    at_once = max(1, min(slots, len(jobs)))
    return Estimate(
        dense_flops=sum((cost.dense_flops for cost in costs), start=0.0),
        seconds=sum((cost.seconds for cost in costs), start=0.0) / at_once,
        slots=slots,
        start_up_s=(START_UP_S if jobs else 0.0) + TRAIN_START_UP_S * num_trains / at_once,
    )


def _segment(job: Job) -> Segment:
    """Returns the part of a training that a job runs; the whole, for kinds without segments."""
    segment: Segment = getattr(job.workload, "segment", WHOLE)
    return segment


@cache
def _flops_per_s() -> float:
    """Returns the FLOPs per second of one thread in a matrix product of a small network's size.

    The best of several short probes after a warm-up: the first products load kernels, and other processes disturb some probes.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.rand(128, 512), torch.rand(512, 512)
    _products_per_s(a, b)
    best = max(_products_per_s(a, b) for _ in range(PROBES))
    torch.set_num_threads(threads)
    return best * 2 * 128 * 512 * 512


def _products_per_s(a: torch.Tensor, b: torch.Tensor) -> float:
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < PROBE_S:
        torch.mm(a, b)
        count += 1
    return count / (time.perf_counter() - started)
