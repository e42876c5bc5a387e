"""Fills in the data of a job that works on the data of the runs it consumes, where its spec gives none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pruneyard.orchestrator.spec.reference_places import find_references, is_reference
from pruneyard.orchestrator.spec.references import ChainError, ResolvedTables, UpstreamRuns
from pruneyard.orchestrator.spec.run_key import canonical


def with_data_of_runs(
    job_class: type[Any], found: ResolvedTables, written: Mapping[str, Any], key: str, earlier: UpstreamRuns
) -> ResolvedTables:
    """Returns tables in which `data` is that of the runs at `key`, unless the spec gives it.

    The runs that the data rests on become parents too, such as that of a synthetic set. Raises `ChainError` for runs on
    different data.

    written: the tables before references were resolved.
    """
    if "data" in found.tables or not is_reference(found.tables.get(key)):
        return found
    runs = [parent for parent in found.parents if parent.run_key in found.tables[key]["runs"]]
    by_data = {canonical(parent.resolved.get("data")): parent for parent in runs}
    if len(by_data) > 1 or "data" not in runs[0].resolved:
        names = " and ".join(parent.run_key for parent in by_data.values())
        raise ChainError("data", f"is missing; {key} names {names}, which share no data, so it must be given")
    folder = earlier.folder(written[key]) or written[key].get("folder") or ""
    data = _in_results(runs[0].resolved["data"], folder)
    named = [earlier.runs_by_key(reference, at) for at, reference in find_references(job_class, {"data": data})]
    parents = {parent.run_key: parent for parent in (*found.parents, *(run for group in named for run in group))}
    return replace(found, tables={**found.tables, "data": data}, parents=tuple(parents.values()))


def _in_results(table: Any, folder: str) -> Any:
    """Returns a data source whose references to runs of the same results name their folder."""
    if not isinstance(table, Mapping):
        return table
    inner = {name: _in_results(item, folder) for name, item in table.items()}
    return {**inner, "folder": folder} if is_reference(table) and folder and not table.get("folder") else inner
