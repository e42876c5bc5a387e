"""Describes a job for the run table: data, model, method, density and images per class, its own or those of what it consumes."""

from collections.abc import Mapping
from typing import Any

from pruneyard.orchestrator.spec.references import ResolvedTables


def describe_job(workload: Any, resolved: Mapping[str, Any], found: ResolvedTables) -> dict[str, Any]:
    """Returns the job's columns of the run table; where the job has no value of its own, that of its first parent."""
    # A job without parents may describe itself, as one on a file of outputs does.
    first: Mapping[str, Any] = found.parents[0].described if found.parents else getattr(workload, "described", {})

    def named(part: str) -> str:
        table = resolved.get(part)
        return str(table["name"]) if isinstance(table, Mapping) and "name" in table else str(first.get(part) or "")

    numbers = {name: getattr(workload, name, None) for name in ("density", "ipc")}
    return {part: named(part) for part in ("data", "model", "method")} | {
        name: first.get(name) if value is None else value for name, value in numbers.items()
    }
