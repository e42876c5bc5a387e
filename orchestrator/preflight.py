"""What can only be checked with the data at hand, before any job starts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.errors import Problem, SpecError, UsageError
from orchestrator.spec import Job
from workloads.data.dataset import Dataset, Source

logger = logging.getLogger(__name__)


def load_data(jobs: Sequence[Job]) -> dict[Source, Dataset]:
    """Every data set of the jobs, read once, its fingerprint computed. Raises `UsageError` where one cannot be read."""
    try:
        data = {source: source.load() for source in dict.fromkeys(job.workload.data for job in jobs)}
    except ValueError as error:
        raise UsageError(f"data: {error}") from error
    for dataset in data.values():
        _ = dataset.fingerprint  # computed here; it travels with the data
    return data


def check_jobs(jobs: Sequence[Job], data: Mapping[Source, Dataset], *, origin: str) -> None:
    """Tries what each job does first, once for all seeds. Raises `SpecError` with all that cannot work; logs warnings."""
    problems, warnings = [], {}
    for job in {replace_seed(job): job for job in jobs}.values():
        try:
            warnings.update(dict.fromkeys(job.workload.check(data[job.workload.data])))
        except ValueError as error:
            problems.append(Problem(0, job.label.rpartition(" seed=")[0], str(error)))
    for warning in warnings:
        logger.warning("%s", warning)
    if problems:
        raise SpecError(origin, problems)


def replace_seed(job: Job) -> object:
    """The job's workload as if its seed were 0: equal for repetitions."""
    return replace(job.workload, seed=0)  # type: ignore[type-var]
