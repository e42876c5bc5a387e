"""Checks jobs against the jobs of their upstream runs, and that finished upstream runs have artifacts."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.artifacts.parents import upstream_runs
from pruneyard.orchestrator.artifacts.writer import MANIFEST
from pruneyard.orchestrator.errors import Problem
from pruneyard.orchestrator.planning.job_problems import job_problems
from pruneyard.orchestrator.spec.job import Job, group_of
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.parent_kinds import references_in
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.sources.synthetic import Synthetic
from pruneyard.workloads.parents import PlannedParent


def parent_problems(jobs: Sequence[Job], spec: Spec, data: Mapping[Source, Dataset]) -> list[Problem]:
    """Returns a problem for each job of a spec that cannot take what its upstream runs in this study leave, or will leave.

    data: the data sets loaded so far; a job is judged only if its own is among them.
    """
    known = {job.key: job for job in spec.jobs}
    complaints: list[tuple[Job, str]] = []
    parents: dict[str, PlannedParent[Any] | None] = {}
    for job in {group_of(job): job for job in jobs}.values():
        own = _similar_data(job, data)
        checks = [table.check_parents for _, table in references_in(job.workload) if hasattr(table, "check_parents")]
        if not checks or own is None:
            continue
        for run in job.parents:
            if run in known and run not in parents:
                similar = _similar_data(known[run], data)
                parents[run] = None if similar is None else PlannedParent(workload=known[run].workload, data=similar)
        of_job = {run: parent for run in job.parents if (parent := parents.get(run)) is not None}
        try:
            for check in checks:
                check(job.workload, own, of_job)
        except ValueError as error:
            complaints.append((job, str(error)))
    return job_problems(complaints, spec)


def missing_artifacts(jobs: Sequence[Job], folder: RunFolder) -> list[Problem]:
    """Returns a problem for each finished upstream run whose artifacts are not there; `folder` is that of the study."""
    runs = dict.fromkeys(pair for job in jobs if job.parents for pair in upstream_runs(job.workload))
    problems = []
    for elsewhere, run in runs:
        home = RunFolder(located(elsewhere).expanduser()) if elsewhere else folder
        if not (home.artifact(run) / MANIFEST).is_file():
            remedy = "restore them from a copy, or move its rows away as well and run the study again"
            problems.append(Problem(0, run, f"is finished, but its artifacts are missing in {home.artifact(run)}; {remedy}"))
    return problems


def _similar_data(job: Job, data: Mapping[Source, Dataset]) -> Dataset | None:
    """Returns the data set of a job, or the one that it was distilled from, with the same shape and classes; None if unknown."""
    return next((data[source] for source in _made_from(getattr(job.workload, "data", None)) if source in data), None)


def _made_from(source: Any) -> Iterator[Source]:
    while isinstance(source, Source):
        yield source
        source = source.base if isinstance(source, Synthetic) else None
