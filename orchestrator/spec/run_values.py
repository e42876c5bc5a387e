"""Reads what the spec of an earlier run has at a dotted key."""

from collections.abc import Mapping
from typing import Any, Protocol

from pruneyard.orchestrator.spec.renamed_keys import present_key, with_all_present_keys
from pruneyard.workloads.plugins import find_job, kinds

NO_VALUE = object()
"""What a run has at a key that its spec does not have; not None, which a spec may give as a value."""


class Run(Protocol):
    """A run with its spec."""

    @property
    def kind(self) -> str: ...

    @property
    def seed(self) -> int: ...

    @property
    def resolved(self) -> Mapping[str, Any]: ...


def value_at(run: Run, dotted: str) -> Any:
    """Returns what the spec of a run has at a dotted key; `NO_VALUE` where it has no such key."""
    table: Any = {"kind": run.kind, "seed": run.seed, **run.resolved}
    if run.kind in kinds():  # the run, the key or both may be older than a new name
        job_class = find_job(run.kind)
        table, dotted = with_all_present_keys(job_class, table), present_key(job_class, table, dotted)
    for name in dotted.split("."):
        table = table.get(name, NO_VALUE) if isinstance(table, Mapping) else NO_VALUE
    return table
