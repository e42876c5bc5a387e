"""Finds jobs that compute the same although their settings differ, so that a search trains one of them.

Two jobs are equal if all their tables are, where some are compared by what they compute in the whole training instead of by
their fields: a workload names them in `computed_tables`. Equal outputs of two networks, or equal first epochs of two trainings,
would not do: dropout and later milestones show in neither.

Reference for the aim: Gillard et al. 2023, Unified Functional Hashing in Automatic Machine Learning (arXiv:2302.05433)
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.workloads.data.dataset import Dataset, Source


def equal_jobs(jobs: Sequence[Job]) -> dict[str, str]:
    """Returns the run key of the first job by that of each later one that computes the same. Loads their data."""
    loaded: dict[Source, Dataset] = {}
    firsts: dict[str, str] = {}
    found: dict[str, str] = {}
    for job in {job.key: job for job in jobs}.values():
        first = firsts.setdefault(_computation(job, loaded), job.key)
        if first != job.key:
            found[job.key] = first
    return found


def _computation(job: Job, loaded: dict[Source, Dataset]) -> str:
    """Returns a digest of what a job computes; its run key where nothing is known but its settings."""
    workload: Any = job.workload
    if job.parents or not hasattr(workload, "computed_tables"):
        return job.key
    if workload.data not in loaded:
        loaded[workload.data] = workload.data.load()
    identity = {"kind": job.kind, **job.identity, **workload.computed_tables(loaded[workload.data])}
    return hashlib.sha256(canonical(identity).encode()).hexdigest()
