"""Locates the artifacts of the finished runs that a job depends on."""

import dataclasses
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


def has_upstream_runs(value: Any) -> bool:
    """Returns whether a decoded table, or one inside it, names upstream runs."""
    if isinstance(value, tuple):
        return any(has_upstream_runs(item) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return False
    named = bool(getattr(value, "runs", ())) and hasattr(value, "artifacts")
    return named or any(has_upstream_runs(getattr(value, field.name)) for field in dataclasses.fields(value))
