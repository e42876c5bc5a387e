"""Advises what to write in place of a key that jobs of this kind do not have, but others do."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pruneyard.orchestrator.spec.codec import hints_of, plugin_class, plugin_of
from pruneyard.workloads.plugins import find_job, kinds

LENGTHS = ("iterations", "steps", "epochs", "max_steps")  # keys by which tables set how long they train


def advice(job_class: type[Any] | None, tables: Mapping[str, Any], name: str) -> str:
    """Returns a hint that follows the message about an unknown key; empty for a key that no kind has."""
    if job_class is None or name in hints_of(job_class):
        return ""
    others = [kind for kind in kinds() if name in hints_of(find_job(kind))]
    if not others:
        return ""
    keys = list(_length_keys(job_class, tables)) if name == "budget" else []
    instead = f"; here {', '.join(keys)} set how long is trained" if keys else ""
    return f"; {name} is a key of kind {' and '.join(others)}{instead}"


def _length_keys(job_class: type[Any], tables: Mapping[str, Any]) -> Iterator[str]:
    """Yields the dotted keys of the tables chosen that set a number of steps."""
    for field, hint in hints_of(job_class).items():
        table = plugin_class(job_class, field, tables.get(field)) if plugin_of(hint) else hint
        if table is not None and dataclasses.is_dataclass(table) and isinstance(table, type):
            yield from (f"{field}.{key}" for key in LENGTHS if key in hints_of(table))
