"""Checks that the runs to which a job refers leave what the job reads of them.

The class of a job lists in `leaves` what its finished runs leave; a table that refers to runs names in `reads` what it needs.
Nothing is checked of a class without `leaves`, or of a table without `reads`.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pruneyard.orchestrator.spec.problem_log import join_keys
from pruneyard.workloads.plugins import find_job, kinds


def kind_problems(workload: Any, kinds_of_runs: Mapping[str, str]) -> dict[str, str]:
    """Returns a problem by dotted key for each reference to a run of a kind that does not leave what is read.

    kinds_of_runs: the kind of each upstream run, by run key.
    """
    problems: dict[str, str] = {}
    for key, table in references_in(workload):
        reads = getattr(table, "reads", None)
        for kind in dict.fromkeys(kinds_of_runs[run] for run in table.runs if run in kinds_of_runs):
            leaves = _leaves(kind)
            if reads is not None and leaves is not None and reads not in leaves:
                able = ", ".join(name for name in kinds() if reads in (_leaves(name) or ()))
                problems[key] = f"refers to a run of kind {kind}, which leaves no {reads}; runs of kind {able} do"
    return problems


def _leaves(kind: str) -> tuple[str, ...] | None:
    return getattr(find_job(kind), "leaves", None) if kind in kinds() else None


def references_in(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yields dotted key and table of every reference to upstream runs in a decoded table."""
    if isinstance(value, tuple):
        for place, item in enumerate(value):
            yield from references_in(item, f"{key}[{place}]")
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if getattr(value, "runs", ()) and hasattr(value, "artifacts"):
            yield key, value
        for field in dataclasses.fields(value):
            yield from references_in(getattr(value, field.name), join_keys(key, field.name))
