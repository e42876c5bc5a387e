"""Expands the grid of a spec: the cross product of its axes over dotted keys, before tables are decoded."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.spec.codec import (
    class_of_field,
    defaults_of,
    hints_of,
    is_free_table,
    old_keys_of,
    plugin_of,
    with_present_keys,
)
from pruneyard.orchestrator.spec.reference_keys import REFERENCE, may_refer, written_keys
from pruneyard.workloads.plugins import name_of


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The values that one dotted key takes. `origin` is the key at which they stand in the spec, for messages."""

    key: str
    values: tuple[Any, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One point of the grid: the tables of a job, not yet decoded. `origins` maps a key to the place its value comes from."""

    tables: Mapping[str, Any]
    origins: Mapping[str, str]
    applied: frozenset[str]  # keys of the axes that had an effect


def expand(
    job_class: type[Any],
    tables: Mapping[str, Any],
    axes: Sequence[Axis],
    variants: Sequence[Mapping[str, Any]] = (),
) -> Iterator[Point]:
    """Yields every combination of the values of the axes, for every variant.

    Axes over whole tables are applied first and axes over their names next, whatever their order in the spec. So a dotted key
    applies to the table that was chosen; where that table has no such field, the axis has no effect.

    variants: tables that replace those of the spec, several at once.
    """
    ordered = sorted(axes, key=_depth)
    choices = [range(len(axis.values)) for axis in ordered]
    # Without variants there is one pass, in which none applies.
    for number, *choice in itertools.product(range(len(variants) or 1), *choices):
        variant = variants[number] if variants else {}
        point_tables: dict[str, Any] = {**tables, **variant}
        origins: dict[str, str] = {name: f"variants[{number}].{name}" for name in variant}
        applied = set()
        for axis, index in zip(ordered, choice, strict=True):
            if _has_key(job_class, point_tables, axis.key.split(".")):
                point_tables = _with_value(job_class, point_tables, axis.key.split("."), axis.values[index])
                origins[axis.key] = f"{axis.origin}[{index}]" if len(axis.values) > 1 else axis.origin
                applied.add(axis.key)
        yield Point(tables=point_tables, origins=origins, applied=frozenset(applied))


def known_keys(job_class: type[Any], tables: Mapping[str, Any], key: str) -> list[str]:
    """Returns the dotted keys next to `key` in the chosen tables, of which it may be a misspelling."""
    cls, prefix = job_class, ""
    for head in key.split("."):
        head, tables = old_keys_of(cls).get(head, head), with_present_keys(cls, tables)
        beside = [f"{prefix}{name}" for name in written_keys(hints_of(cls))]
        inner = class_of_field(cls, head, tables.get(head))
        if inner is None:
            return beside
        cls, prefix, tables = inner, f"{prefix}{head}.", as_table(tables.get(head))
    return []


def _depth(axis: Axis) -> tuple[int, bool]:
    table = axis.key.removesuffix(".name")
    # An axis over `x.name` comes right after one over the table `x`, and before those over its other keys.
    return table.count("."), table != axis.key


def _has_key(cls: type[Any], tables: Any, path: Sequence[str]) -> bool:
    head, *rest = path
    head, tables = old_keys_of(cls).get(head, head), with_present_keys(cls, tables)
    if head in REFERENCE and not rest:
        return may_refer(hints_of(cls))
    if head not in hints_of(cls):
        return False
    table = tables.get(head) if isinstance(tables, Mapping) else None
    if not rest or is_free_table(hints_of(cls)[head]):
        return True
    if rest == ["name"] and plugin_of(hints_of(cls)[head]) is not None:
        return True
    inner = class_of_field(cls, head, table)
    return inner is not None and _has_key(inner, as_table(table), rest)


def _with_value(cls: type[Any], tables: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """Returns a copy of `tables` with one dotted key set. Missing tables on its path are created with the default plug-in."""
    head, *rest = path
    head, tables = old_keys_of(cls).get(head, head), with_present_keys(cls, tables)
    if not rest:
        return {**tables, head: value}
    if is_free_table(hints_of(cls)[head]):
        return {**tables, head: with_free_value(tables.get(head), rest, value)}
    table = as_table(tables.get(head))
    if plugin_of(hints_of(cls)[head]) is not None and "name" not in table and head in defaults_of(cls):
        table = {"name": name_of(defaults_of(cls)[head]), **table}
    if rest == ["name"]:
        return {**tables, head: {**table, "name": value}}
    inner = class_of_field(cls, head, table)
    assert inner is not None
    return {**tables, head: _with_value(inner, table, rest, value)}


def with_free_value(table: Any, path: Sequence[str], value: Any) -> dict[str, Any]:
    """Returns a copy of a table with any keys in which the value at a path is set; missing tables on the path are created."""
    head, *rest = path
    inner = dict(table) if isinstance(table, Mapping) else {}
    return {**inner, head: with_free_value(inner.get(head), rest, value) if rest else value}


def as_table(table: Any) -> dict[str, Any]:
    """Returns a plug-in's table, also where the spec gives only its name; empty for any other value."""
    if isinstance(table, str):
        return {"name": table}
    return dict(table) if isinstance(table, Mapping) else {}
