"""Estimates the cost of a plan: counted FLOPs, and the time on this machine's CPU from a short benchmark."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch

from pruneyard.orchestrator.spec.job import Job
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.training.segment import WHOLE, Segment

STEP_OVERHEAD_S = 4e-4  # overhead of one step without its arithmetic, measured on a small network


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of the jobs still to run. `dense_flops` counts what masked dense kernels execute, at any density."""

    dense_flops: float
    seconds: float  # with `slots` trials at once
    slots: int


def estimate(
    jobs: Sequence[Job],
    data: Mapping[Source, Dataset],
    *,
    slots: int,
    workers: Mapping[str | None, int],
    known: Sequence[Job],
) -> Estimate:
    """Returns the cost of all jobs whose data set is in `data`. Jobs whose data is still to be made are not counted.

    slots: number of trials that run at once.
    workers: workers per trial, by stage; they share the arithmetic of a job evenly.
    known: jobs of the spec; for a training that resumes from one of them only the rest counts.
    """
    until = {job.key: _segment(job).until for job in known}
    flops = seconds = 0.0
    for job in jobs:
        source: Source | None = getattr(job.workload, "data", None)
        if source is None or source not in data:
            continue
        job_flops, steps = job.workload.expected_work(data[source])
        segment = _segment(job)
        share = max(0.0, segment.until - max((until.get(run, 0.0) for run in segment.runs), default=0.0))
        flops += share * job_flops
        seconds += share * (steps * STEP_OVERHEAD_S + job_flops / _flops_per_s() / workers[job.stage])
    # Fewer jobs than slots leave slots empty.
    return Estimate(dense_flops=flops, seconds=seconds / max(1, min(slots, len(jobs))), slots=slots)


def _segment(job: Job) -> Segment:
    """Returns the part of a training that a job runs; the whole, for kinds without segments."""
    segment: Segment = getattr(job.workload, "segment", WHOLE)
    return segment


@cache
def _flops_per_s() -> float:
    """Returns the FLOPs per second of one thread in a matrix product of a small network's size, measured for 0.1 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = torch.rand(128, 512), torch.rand(512, 512)
    count, started = 0, time.perf_counter()
    while time.perf_counter() - started < 0.1:
        torch.mm(a, b)
        count += 1
    elapsed = time.perf_counter() - started
    torch.set_num_threads(threads)
    return count * 2 * 128 * 512 * 512 / elapsed
