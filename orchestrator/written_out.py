"""A spec with every default written out, so that it means the same jobs after a default has changed."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from orchestrator.decode import defaults_of, encode_field, hints_of, plugin_of, plugins_of
from orchestrator.fingerprint import canonical
from orchestrator.space import as_table, field_class
from workloads.plugins import find, name_of


def written_out(
    job_class: type[Any],
    tables: Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    resolved: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The job's tables and the grid, complete. `resolved` are the tables of the jobs that they make.

    Axes over plain values stay. Where an axis below a table chooses a table itself, the defaults depend on both
    choices: there the tables that come out are listed instead.
    """
    complete: dict[str, Any] = {}
    kept: dict[str, list[Any]] = {}
    for name in dict.fromkeys([*(name for name in tables if name in hints_of(job_class)), *hints_of(job_class)]):
        if name == "seed":
            continue
        below = [key for key in grid if key.startswith(f"{name}.")]
        given = grid.get(name) or [tables.get(name, MISSING)]
        if any(_chooses_table(job_class, {name: table}, key.split(".")) for table in given for key in below):
            choices = _distinct(job[name] for job in resolved)
        else:
            choices = [_field(job_class, name, table, name, below) for table in given]
            kept |= {key: list(grid[key]) for key in below}
        if len(choices) == 1:
            complete[name] = choices[0]
        else:
            kept[name] = choices
    return complete, {key: kept[key] for key in (*grid, *kept) if key in kept}


def _chooses_table(cls: type[Any], table: Mapping[str, Any], path: Sequence[str]) -> bool:
    """Whether a dotted key of this table stands for a table or for the name of one."""
    head, *rest = path
    hint = hints_of(cls).get(head)
    if hint is None:
        return False
    if not rest or (rest == ["name"] and plugin_of(hint) is not None):
        return dataclasses.is_dataclass(hint) or plugin_of(hint) is not None or plugins_of(hint) is not None
    inner = field_class(cls, head, table.get(head))
    return inner is not None and _chooses_table(inner, as_table(table.get(head)), rest)


def _distinct(tables: Iterable[Mapping[str, Any]]) -> list[Any]:
    return list({canonical(table): table for table in tables}.values())


def _field(cls: type[Any], name: str, value: Any, key: str, axes: Sequence[str]) -> Any:
    """What a field holds, complete; `value` is MISSING where the spec leaves the whole field out."""
    hint, default = hints_of(cls)[name], defaults_of(cls).get(name, MISSING)
    named = {"name": name_of(default)} if plugin_of(hint) and default is not MISSING else {}
    if value is MISSING and default is not MISSING and not any(axis.startswith(f"{key}.") for axis in axes):
        return encode_field(hint, default)
    if (marker := plugins_of(hint)) is not None:
        return [_table(find(marker.family, as_table(item)["name"]), as_table(item), key, axes) for item in value]
    inner = field_class(cls, name, as_table(value))
    return value if inner is None else _table(inner, {**named, **as_table(value)}, key, axes)


def _table(cls: type[Any], table: Mapping[str, Any], key: str, axes: Sequence[str]) -> dict[str, Any]:
    """The table's own keys first; what an axis always sets is left to it."""
    complete = dict(table)
    for name in hints_of(cls):
        at = f"{key}.{name}"
        if name in table or (name in defaults_of(cls) and at not in axes):
            complete[name] = _field(cls, name, table.get(name, MISSING), at, axes)
    return complete
