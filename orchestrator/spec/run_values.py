"""Reads what the specs of earlier runs have at dotted keys."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from pruneyard.orchestrator.spec.problem_log import join_keys
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


AnyRun = TypeVar("AnyRun", bound=Run)


def value_at(run: Run, dotted: str) -> Any:
    """Returns what the spec of a run has at a dotted key; `NO_VALUE` where it has no such key."""
    table: Any = _present_table(run)
    if run.kind in kinds():  # the key may be older than a new name
        dotted = present_key(find_job(run.kind), table, dotted)
    for name in dotted.split("."):
        table = table.get(name, NO_VALUE) if isinstance(table, Mapping) else NO_VALUE
    return table


def keys_of_runs(runs: Iterable[Run]) -> list[str]:
    """Returns the dotted keys of the specs of runs, each once and under its present name."""
    return list(dict.fromkeys(key for run in runs for key in _keys_in(_present_table(run), "")))


def _present_table(run: Run) -> Any:
    """Returns the spec of a run, which may be older than a new name, with its keys under their present names."""
    table = {"kind": run.kind, "seed": run.seed, **run.resolved}
    return with_all_present_keys(find_job(run.kind), table) if run.kind in kinds() else table


def _keys_in(table: Mapping[str, Any], key: str) -> Iterator[str]:
    for name, value in table.items():
        at = join_keys(key, str(name))
        yield at
        if isinstance(value, Mapping):
            yield from _keys_in(value, at)
