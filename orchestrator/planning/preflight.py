"""Checks before any job starts what can only be checked with the loaded data."""

import dataclasses
import logging
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pruneyard.orchestrator.artifacts.parents import has_upstream_runs
from pruneyard.orchestrator.errors import Problem, SpecError
from pruneyard.orchestrator.planning.job_problems import job_problems
from pruneyard.orchestrator.spec.codec import split_message
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.orchestrator.spec.problem_log import join_keys
from pruneyard.orchestrator.spec.run_key import has_source
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.duplicates import shared_images
from pruneyard.workloads.data.fingerprints import load
from pruneyard.workloads.training.ood_evaluation import check_ood
from pruneyard.workloads.user_code.error_line import error_line

logger = logging.getLogger(__name__)


def sources_of(job: Job) -> dict[str, Source]:
    """Returns every data set that a job reads, by the key of the spec that names it."""
    found: dict[str, Source] = {}
    for field in dataclasses.fields(job.workload):  # type: ignore[arg-type]
        content = getattr(job.workload, field.name)
        if isinstance(content, Source):
            found[field.name] = content
        elif isinstance(content, tuple):
            found |= {f"{field.name}[{i}]": item for i, item in enumerate(content) if isinstance(item, Source)}
    return found


def load_data(
    jobs: Sequence[Job], spec: Spec, *, into: dict[Source, Dataset] | None = None, with_parents: bool = True
) -> dict[Source, Dataset]:
    """Returns every data set of the jobs of a spec, loaded once. Raises `SpecError` where one cannot be read.

    into: data sets that are loaded already; the others are added to it.
    with_parents: whether to load data sets that earlier runs made; False where those runs may not be finished.
    """
    keys: dict[Source, tuple[str, str | None]] = {}
    for job in jobs:
        for key, source in sources_of(job).items():
            if with_parents or not has_upstream_runs(source):
                keys.setdefault(source, (key, job.stage))
    data = {} if into is None else into
    for source, (key, stage) in keys.items():
        if source in data:
            continue
        try:
            data[source] = load(source)
        except ValueError as error:
            raise spec.error_at(*_place_in_table(key, source, error), stage=stage) from error
        _ = data[source].fingerprint  # computed once here: the cached value is sent to the workers with the data
    return data


def _place_in_table(key: str, source: Source, error: ValueError) -> tuple[str, str]:
    """Returns the key of the spec that an error is about, and what it says about it.

    The source whose files are missing may be the base of another one. Other errors do not tell: they are about the whole table.
    """
    missing = getattr(error, "source", None)
    place = None if missing is None else _key_of(missing, source, key)
    if place is None:
        return key, str(error)
    if str(error).startswith("name is "):  # the name chooses the class, so it is none of its fields
        return join_keys(place, "name"), str(error).removeprefix("name ")
    field, within, message = split_message(type(missing), str(error))
    return join_keys(place, field + within), message


def _key_of(sought: object, table: Any, key: str) -> str | None:
    """Returns the dotted key of a table within another one; None if it is not there."""
    if table is sought:
        return key
    nested = {f.name: getattr(table, f.name) for f in dataclasses.fields(table)} if dataclasses.is_dataclass(table) else {}
    found = (_key_of(sought, content, join_keys(key, name)) for name, content in nested.items())
    return next((place for place in found if place is not None), None)


def check_jobs(
    jobs: Sequence[Job], data: Mapping[Source, Dataset], *, spec: Spec, warned: set[str] | None = None
) -> None:
    """Runs the check of every workload of a spec, once for all seeds; raises `SpecError` with all problems.

    Logs their warnings, and those of images that several splits of a data set share.

    warned: the warnings that were logged before; they are not repeated, and new ones are added.
    """
    warned = set() if warned is None else warned
    problems, warnings = [*_missing_rows(jobs, data, spec), *_ood_problems(jobs, data, spec)], {}
    complaints: list[tuple[Job, str]] = []
    for source in dict.fromkeys(source for job in jobs for source in sources_of(job).values()):
        if isinstance(data[source], Dataset):
            warnings.update(dict.fromkeys(shared_images(data[source])))
    for job in {_without_seed(job): job for job in jobs}.values():
        try:
            warnings.update(dict.fromkeys(job.workload.check(_job_data(job, data))))
        except ValueError as error:
            complaints.append((job, str(error)))
        except Exception:  # whatever the code of a plug-in raises; what our own raises is an error of ours
            if not has_source(job.identity):
                raise
            complaints.append((job, f"cannot be checked, its code raised {error_line(traceback.format_exc())}"))
    problems += job_problems(complaints, spec)
    for warning in warnings:
        if warning not in warned:
            logger.warning("%s", warning)
    warned.update(warnings)
    if problems:
        raise SpecError(spec.origin, problems)


def _job_data(job: Job, data: Mapping[Source, Dataset]) -> Dataset | None:
    source: Source | None = getattr(job.workload, "data", None)
    return None if source is None else data[source]


def _missing_rows(jobs: Sequence[Job], data: Mapping[Source, Dataset], spec: Spec) -> list[Problem]:
    """Returns a problem for each data set that holds test rows only where training or validation rows are needed."""
    found: dict[str, Problem] = {}
    for job in jobs:
        for key, source in sources_of(job).items():
            part, use = ("val", "to choose on") if key.startswith("choose_on") else ("train", "to train on")
            if (key == "data" or part == "val") and isinstance(data[source], Dataset) and not len(getattr(data[source], part)):
                message = f"has no {part} rows {use}; such a set can only hold OOD inputs, in near or far"
                found[key] = spec.problem_at(key, message, stage=job.stage)
    return list(found.values())


def _ood_problems(jobs: Sequence[Job], data: Mapping[Source, Dataset], spec: Spec) -> list[Problem]:
    """Returns the problems of the OOD sets. Each pair of an OOD set and an in-distribution set is checked once."""
    problems: dict[tuple[Source, Source], Problem | None] = {}
    for job in jobs:
        sources = sources_of(job)
        own = sources.pop("data", None)
        if own is None:
            continue
        for key, source in sources.items():
            pair = (source, own)
            if pair in problems:
                continue
            try:
                check_ood(data[source], known=data[own])
                problems[pair] = None
            except ValueError as error:
                problems[pair] = spec.problem_at(key, str(error), stage=job.stage)
    return [problem for problem in problems.values() if problem is not None]


def _without_seed(job: Job) -> object:
    """Returns the job's workload with seed 0, which is equal for all seeds of a configuration."""
    return replace(job.workload, seed=0)  # type: ignore[type-var]
