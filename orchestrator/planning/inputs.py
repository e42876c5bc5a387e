"""Lists the files that the jobs of a spec read, without those that their own study writes, and the source of their plug-ins."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located
from pruneyard.reports.objects import ObjectPath
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.parents import Runs
from pruneyard.workloads.user_code.identity import source_files


def input_paths(jobs: Sequence[Job]) -> list[str] | None:
    """Returns absolute paths of files and folders; None where a job reads what has no path here, or a source does not tell."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    try:
        for job in jobs:
            if hasattr(job.workload, "code_files"):
                found |= dict.fromkeys(job.workload.code_files())
            for field in dataclasses.fields(job.workload):  # type: ignore[arg-type]
                table = getattr(job.workload, field.name)
                # By identity, which is fast for the many jobs that share their tables.
                if id(table) not in seen:
                    seen.add(id(table))
                    found |= dict.fromkeys(_paths_of(table))
    except _UnknownInputError:
        return None
    return sorted(found)


class _UnknownInputError(Exception):
    """A job reads something that is not known, or that is no local file."""


def _paths_of(table: Any) -> list[str]:
    if isinstance(table, tuple):
        return [path for item in table for path in _paths_of(item)]
    if not dataclasses.is_dataclass(table) or isinstance(table, type):
        return []
    found = [str(file.absolute()) for file in source_files(type(table))]
    if isinstance(table, Source):
        inputs = table.inputs()
        if inputs is None:
            raise _UnknownInputError
        found += [str(path.absolute()) for path in inputs]
    if isinstance(table, Runs) or hasattr(table, "runs"):
        # Which runs a job refers to depends on what the other folder holds.
        found += _results_of(getattr(table, "folder", ""))
    for field in dataclasses.fields(table):
        content = getattr(table, field.name)
        if field.name == "path" and content and hasattr(table, "digest"):
            found += _local(content)
        found += _paths_of(content)
    return found


def _results_of(folder: str) -> list[str]:
    return _local(str(RunFolder(located(folder)).table("runs"))) if folder else []


def _local(path: str) -> list[str]:
    place = located(path)
    if isinstance(place, ObjectPath):
        raise _UnknownInputError
    return [str(place.absolute())]
