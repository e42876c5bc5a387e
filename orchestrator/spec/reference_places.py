"""Finds the references to earlier runs in the tables of a job, see `pruneyard.orchestrator.spec.references`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pruneyard.orchestrator.spec.codec import (
    class_of_field,
    hints_of,
    old_keys_of,
    takes_any_table,
    with_present_keys,
)
from pruneyard.orchestrator.spec.problem_log import join_keys


def is_reference(table: Any) -> bool:
    """Returns whether a table names earlier runs. A table that may name runs and does not has an empty list `runs`."""
    return isinstance(table, Mapping) and ("from" in table or (isinstance(table.get("runs"), list) and bool(table["runs"])))


def find_references(job_class: type[Any], tables: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields dotted key and table of every reference to earlier runs.

    Tables with any keys, such as the arguments of a function, hold none: what they have under `from` or `runs` is the user's.
    """
    for key, table in _like_references(tables, ""):
        if not _is_in_any_table(job_class, tables, key):
            yield key, table


def _like_references(value: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if is_reference(value):
        yield key, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _like_references(item, join_keys(key, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from _like_references(item, f"{key}[{place}]")


def _is_in_any_table(cls: type[Any], tables: Mapping[str, Any], key: str) -> bool:
    """Returns whether a dotted key of tables of a class lies in a field that takes a table with any keys."""
    head, _, rest = key.partition(".")
    name, bracket, place = head.partition("[")
    name = old_keys_of(cls).get(name, name)
    if takes_any_table(hints_of(cls).get(name)):
        return True
    content = with_present_keys(cls, tables).get(name)
    for index in re.findall(r"\d+", place):
        content = content[int(index)]
    inner = class_of_field(cls, name + bracket, content)
    return bool(rest) and inner is not None and _is_in_any_table(inner, content, rest)
