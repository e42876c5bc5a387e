"""Writes out a spec with every default, so that it means the same jobs after a default has changed."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any

from pruneyard.orchestrator.spec.codec import (
    class_of_field,
    defaults_of,
    encode,
    encode_field,
    hints_of,
    is_free_table,
    plugin_of,
    plugins_of,
    with_present_keys,
)
from pruneyard.orchestrator.spec.grid import as_table
from pruneyard.orchestrator.spec.renamed_keys import present_key
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.search import Choices, encode_search
from pruneyard.orchestrator.spec.stage import AdaptiveSearch, Header, Stage
from pruneyard.workloads.plugins import find, find_job, name_of


@dataclass(frozen=True, kw_only=True)
class WrittenOut:
    """The tables, variants and grid of a spec with every default filled in."""

    tables: Mapping[str, Any]
    variants: Sequence[Mapping[str, Any]]
    grid: Mapping[str, Sequence[Any]]


def write_out(
    job_class: type[Any],
    tables: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    resolved: Sequence[Mapping[str, Any]],
    variants: Sequence[Mapping[str, Any]] = (),
) -> WrittenOut:
    """Returns tables, grid and variants with every default filled in.

    Axes over plain values stay. Where an axis over a key inside a table chooses a table itself, the defaults depend on both
    choices; there the resulting tables are listed instead.

    resolved: the tables of the jobs that tables, variants and grid make.
    """
    varied = _complete_variants(job_class, tables, grid, resolved, variants)
    complete: dict[str, Any] = {}
    kept = dict(varied.grid)
    for name in dict.fromkeys([*(name for name in tables if name in hints_of(job_class)), *hints_of(job_class)]):
        if name == "seed" or name in varied.tables:
            continue
        below = _axes_below(name, grid)
        given = grid.get(name) or [tables.get(name, MISSING)]
        if _is_entangled(job_class, name, given, below):
            choices = _distinct_tables(job[name] for job in resolved)
        else:
            choices = [
                _complete_field(job_class, name, table, name, _present_axes(job_class, name, table, below))
                for table in given
            ]
            kept |= {key: list(grid[key]) for key in below}
        if len(choices) == 1:
            complete[name] = choices[0]
        else:
            kept[name] = choices
    # The order of axes decides the order of jobs, so the axes of the spec come first and in their own order.
    in_order = {key: kept[key] for key in (*grid, *kept) if key in kept}
    return WrittenOut(tables=complete, variants=varied.variants, grid=in_order)


def as_variants(resolved: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns every job without its seed as a variant that gives all tables; for jobs that a search sampled."""
    return _distinct_tables({name: table for name, table in job.items() if name != "seed"} for job in resolved)


def _complete_variants(
    job_class: type[Any],
    tables: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    resolved: Sequence[Mapping[str, Any]],
    variants: Sequence[Mapping[str, Any]],
) -> WrittenOut:
    """Returns the complete variants, the tables that any of them gives (as keys of `tables`), and the axes in them that stay."""
    names = dict.fromkeys(name for variant in variants for name in variant)
    below = {name: _axes_below(name, grid) for name in names}
    choices = {name: [variant.get(name, tables.get(name, MISSING)) for variant in variants] for name in names}
    if any(name in grid or _is_entangled(job_class, name, choices[name], below[name]) for name in names):
        return WrittenOut(tables=names, variants=_distinct_tables({n: job[n] for n in names} for job in resolved), grid={})
    complete = {
        n: [_complete_field(job_class, n, table, n, _present_axes(job_class, n, table, below[n])) for table in choices[n]]
        for n in names
    }
    return WrittenOut(
        tables=names,
        variants=[{name: complete[name][number] for name in names} for number in range(len(variants))],
        grid={key: list(grid[key]) for keys in below.values() for key in keys},
    )


def _axes_below(name: str, grid: Mapping[str, Sequence[Any]]) -> list[str]:
    return [key for key in grid if key.startswith(f"{name}.")]


def _is_entangled(job_class: type[Any], name: str, given: Sequence[Any], below: Sequence[str]) -> bool:
    """Returns whether an axis over a key inside one of the given tables chooses a table itself."""
    return any(
        _chooses_table(job_class, {name: table}, key.split("."))
        for table in given
        for key in _present_axes(job_class, name, table, below)
    )


def _present_axes(job_class: type[Any], name: str, table: Any, axes: Sequence[str]) -> list[str]:
    """Returns the keys of axes over the content of a field with renamed parts under their present names in this table."""
    tables = {} if table is MISSING else {name: table}
    return [present_key(job_class, tables, key) for key in axes]


def _chooses_table(cls: type[Any], table: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Returns whether a dotted key of this table stands for a table or for the name of a plug-in."""
    head, *rest = path
    hint = hints_of(cls).get(head)
    if hint is None:
        return False
    if not rest or (rest == ["name"] and plugin_of(hint) is not None):
        return dataclasses.is_dataclass(hint) or plugin_of(hint) is not None or plugins_of(hint) is not None
    inner = class_of_field(cls, head, table.get(head))
    return inner is not None and _chooses_table(inner, as_table(table.get(head)), rest)


def _distinct_tables(tables: Iterable[Mapping[str, Any]]) -> list[Any]:
    return list({canonical(table): table for table in tables}.values())


def _complete_field(cls: type[Any], name: str, value: Any, key: str, axes: Sequence[str]) -> Any:
    """Returns the complete content of a field. `value` is MISSING where the spec does not give the field."""
    hint, default = hints_of(cls)[name], defaults_of(cls).get(name, MISSING)
    named = {"name": name_of(default)} if plugin_of(hint) and default is not MISSING else {}
    is_set_by_axis = any(axis.startswith(f"{key}.") for axis in axes)
    if value is MISSING and default is not MISSING and (is_free_table(hint) or not is_set_by_axis):
        return encode_field(hint, default)
    if (marker := plugins_of(hint)) is not None:
        return [_complete_table(find(marker.family, as_table(item)["name"]), as_table(item), key, axes) for item in value]
    inner = class_of_field(cls, name, as_table(value))
    return value if inner is None else _complete_table(inner, {**named, **as_table(value)}, key, axes)


def _complete_table(cls: type[Any], table: Mapping[str, Any], key: str, axes: Sequence[str]) -> dict[str, Any]:
    """Returns a complete table, its own keys first. Keys that an axis sets are left to the axis."""
    complete = dict(with_present_keys(cls, table))
    for name in hints_of(cls):
        at = f"{key}.{name}"
        if name in complete or (name in defaults_of(cls) and at not in axes):
            complete[name] = _complete_field(cls, name, complete.get(name, MISSING), at, axes)
    return complete


def stage_tables(stage: Stage) -> dict[str, Any]:
    """Returns the tables of a stage as they are written to `spec.yaml`, with every default."""
    header, tables = stage.header, stage.tables
    jobs = stage.candidates or stage.jobs
    resolved = [job.resolved for job in jobs]
    if header.search and stage.learning is None:
        # A search that is planned as a whole is written as the jobs that it proposed.
        tables = {name: value for name, value in tables.items() if name in hints_of(Header) and name != "grid"}
        tables["variants"] = as_variants(resolved)
    if stage.learning is not None:
        return _search_tables(stage, stage.learning)
    if header.settings:  # the stage that it refers to is written out
        kept = ("name", "kind", "settings", "seeds", *_scheduler_key(header), "resources")
        return {name: encode(getattr(header, name)) for name in kept}
    written = write_out(find_job(header.kind), tables, tables.get("grid") or {}, resolved, tables.get("variants") or [])
    # A job with parents takes their seeds unless the spec gives `seeds`; a default written out would change that.
    inherited = {"seeds"} if "seeds" not in tables and any(job.parents for job in jobs) else set()
    names = [name for name in ("name", "kind", "seeds", *_scheduler_key(header), "resources") if name not in inherited]
    varied = {"variants": written.variants} if written.variants else {}
    encoded = {name: encode(getattr(header, name)) for name in names}
    # A table without default that is not given either follows from the runs that the jobs take.
    tables = {name: table for name, table in written.tables.items() if table is not MISSING}
    # None is replaced by `encoded`; it only puts these keys first.
    return {"name": None, "kind": None, **tables, **encoded, **varied, "grid": written.grid}


def _scheduler_key(header: Header) -> list[str]:
    """Returns the key `scheduler` in a list; an empty list where the scheduler has its defaults and stops nothing."""
    return [] if header.scheduler == Scheduler() else ["scheduler"]


def _search_tables(stage: Stage, learning: AdaptiveSearch) -> dict[str, Any]:
    """Returns the tables of a stage with an adaptive search, which stays a search.

    The tables that it chooses from stay as given. Those of a population are completed, since it chooses only plain values.
    """
    header, tables = stage.header, stage.tables
    if learning.search.is_population:
        tables = {**tables, **_population_tables(stage, learning)}
    encoded = {name: encode(getattr(header, name)) for name in ("name", "kind", *_scheduler_key(header), "resources")}
    seeds = {"seeds": encode(header.seeds)} if "seeds" in tables else {}
    plain_tables = {name: value for name, value in tables.items() if name not in hints_of(Header)}
    axes = {name: tables[name] for name in ("variants", "grid") if tables.get(name)}
    return {**encoded, **plain_tables, **seeds, **axes, "search": encode_search(learning.search)}


def _population_tables(stage: Stage, learning: AdaptiveSearch) -> dict[str, Any]:
    """Returns complete tables, variants and grid of a population's jobs, without the values that the search chooses."""
    tables, search = stage.tables, learning.search
    searched = {
        key: list(values.choices) if isinstance(values, Choices) else [values.low] for key, values in search.space.items()
    }
    # Any proposal serves: the values that the search chooses are removed again below.
    (corner, *_), _ = search.corners()
    resolved = [job.resolved for jobs in learning.propose([corner]) for job in jobs]
    axes = {**(tables.get("grid") or {}), **searched}
    written = write_out(find_job(stage.header.kind), tables, axes, resolved, tables.get("variants") or [])
    grid = {key: values for key, values in written.grid.items() if key not in searched}
    return {**written.tables, "variants": written.variants, "grid": grid}
