"""Locates the artifacts of the finished runs that a job depends on."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import located


def locate_upstream(workload: Any, folder: RunFolder) -> Any:
    """Returns the workload with the artifact folders of its upstream runs filled in; runs of this study are in `folder`."""
    if isinstance(workload, tuple):
        return tuple(locate_upstream(item, folder) for item in workload)
    if not dataclasses.is_dataclass(workload) or isinstance(workload, type):
        return workload
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(workload):
        if field.init:
            content = getattr(workload, field.name)
            new = locate_upstream(content, folder)
            if new != content:
                changed[field.name] = new
    runs: tuple[str, ...] = getattr(workload, "runs", ())
    if runs and hasattr(workload, "artifacts"):
        elsewhere = str(getattr(workload, "folder", ""))
        home = RunFolder(located(elsewhere).expanduser()) if elsewhere else folder
        # Absolute, because the workload may be read by a process with another working directory.
        changed["artifacts"] = tuple(str(home.artifact(run).resolve()) for run in runs)
    return dataclasses.replace(workload, **changed) if changed else workload


def upstream_runs(value: Any) -> Iterator[tuple[str, str]]:
    """Yields folder and run key of every upstream run of a decoded table or one inside it; the folder of this study is empty."""
    if isinstance(value, tuple):
        for item in value:
            yield from upstream_runs(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if hasattr(value, "artifacts"):
            yield from ((str(getattr(value, "folder", "")), run) for run in getattr(value, "runs", ()))
        for field in dataclasses.fields(value):
            yield from upstream_runs(getattr(value, field.name))


def has_upstream_runs(value: Any) -> bool:
    """Returns whether a decoded table, or one inside it, names upstream runs."""
    return any(True for _ in upstream_runs(value))
