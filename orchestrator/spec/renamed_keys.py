"""Translates renamed keys of whole specs, dotted keys and recorded jobs; the codec does so for single tables."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pruneyard.orchestrator.spec.codec import (
    class_of_field,
    hints_of,
    old_keys_of,
    plugin_of,
    with_present_keys,
)
from pruneyard.workloads.plugins import find, find_job, kinds, names


def present_key(cls: type[Any], tables: Any, key: str) -> str:
    """Returns a dotted key with its renamed parts under their present names, as far as `tables` say which classes it concerns."""
    return ".".join(present for _, present in _parts(cls, tables, key))


def first_key(cls: type[Any], tables: Any, key: str) -> str:
    """Returns a dotted key with its renamed parts under their first names."""
    return ".".join(first for first, _ in _parts(cls, tables, key))


def _parts(cls: type[Any], tables: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yields the first and the present name of every part of a dotted key."""
    head, _, rest = key.partition(".")
    name, index = re.fullmatch(r"([^\[]*)(.*)", head, flags=re.DOTALL).groups()  # type: ignore[union-attr]
    present = old_keys_of(cls).get(name, name)
    first = next((old for old, new in old_keys_of(cls).items() if new == present), present)
    yield first + index, present + index
    if not rest:
        return
    content = with_present_keys(cls, tables).get(present) if isinstance(tables, Mapping) else None
    if index and isinstance(content, list):
        place = index[1:-1]
        content = content[int(place)] if place.isdigit() and int(place) < len(content) else None
    inner = class_of_field(cls, present + index, content)
    if inner is not None:
        yield from _parts(inner, content, rest)
    elif content is None and (marker := plugin_of(hints_of(cls).get(present))) is not None:
        # An axis chooses the plug-in. The names are known where all plug-ins that have the key agree.
        choices, known = [find(marker.family, name) for name in names(marker.family)], rest.partition(".")[0]
        having = [choice for choice in choices if known in hints_of(choice) or known in old_keys_of(choice)]
        found = {tuple(_parts(choice, None, rest)) for choice in having}
        yield from found.pop() if len(found) == 1 else [(rest, rest)]
    else:
        yield rest, rest


def with_all_present_keys(cls: type[Any], table: Any) -> Any:
    """Returns a recorded job or table with every renamed key, at any depth, under its present name."""
    table = with_present_keys(cls, table)
    if not isinstance(table, Mapping):
        return table
    return {key: _with_present_keys_inside(cls, key, value) for key, value in table.items()}


def _with_present_keys_inside(cls: type[Any], field: str, value: Any) -> Any:
    if not isinstance(value, dict | list):
        return value
    if field == "runs":  # an identity describes the runs that a job consumes
        return [_described_run(run) for run in value] if isinstance(value, list) else _described_run(value)
    if isinstance(value, list):
        return [_with_present_keys_inside(cls, f"{field}[{place}]", item) for place, item in enumerate(value)]
    inner = class_of_field(cls, field, value)
    return value if inner is None else with_all_present_keys(inner, value)


def _described_run(run: Any) -> Any:
    known = isinstance(run, Mapping) and run.get("kind") in kinds()
    return with_all_present_keys(find_job(run["kind"]), run) if known else run


def spec_with_present_keys(cls: type[Any], tables: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tables of a spec, their variants and their axes with renamed keys under their present names.

    Keys of a search's space get their first names instead: its random numbers and its journal are found by them.
    """
    found: dict[str, Any] = with_present_keys(cls, tables)
    if isinstance(variants := found.get("variants"), list):
        found["variants"] = [with_present_keys(cls, variant) for variant in variants]
    if isinstance(grid := found.get("grid"), Mapping):
        found["grid"] = {present_key(cls, tables, str(key)): values for key, values in grid.items()}
    if isinstance(search := found.get("search"), Mapping) and isinstance(space := search.get("space"), Mapping):
        found["search"] = {**search, "space": {first_key(cls, tables, str(key)): values for key, values in space.items()}}
    return found


def axes_given_twice(cls: type[Any], tables: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the place of every axis or searched key that is given under both names, and its present name."""
    search = tables.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    for place, keys in (("grid", tables.get("grid")), ("search.space", space)):
        if not isinstance(keys, Mapping):
            continue
        for key in keys:
            present = present_key(cls, tables, str(key))
            if present != key and present in keys:
                yield f"{place}.{key}", present
