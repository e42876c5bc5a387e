"""Keeps the runs whose spec has given values: the key `where` of a reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.run_values import NO_VALUE, AnyRun, keys_of_runs, value_at
from pruneyard.workloads.user_code.nearest import nearest

MAX_VALUES = 12  # that a message lists


def runs_with(runs: Sequence[AnyRun], where: Mapping[str, Any]) -> list[AnyRun]:
    """Returns the runs whose spec has these values at these dotted keys."""
    return [run for run in runs if all(value_at(run, name) == value for name, value in where.items())]


def why_none(runs: Sequence[AnyRun], where: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a key of `where` that keeps no run, and why it does not; the key is empty where only all keys together do not."""
    for name, value in where.items():
        found = [value_at(run, name) for run in runs]
        if value in found:
            continue
        came = f"is {short_json(value)}; none of the {len(runs)} runs has"
        if all(each is NO_VALUE for each in found):
            return name, f"{came} this key{nearest(name, keys_of_runs(runs))}"
        known = list(dict.fromkeys(_as_written(each) for each in found if each is not NO_VALUE))
        listed = ", ".join(known[:MAX_VALUES]) + (", ..." if len(known) > MAX_VALUES else "")
        return name, f"{came} this value; they have {listed}{nearest(value, known) if isinstance(value, str) else ''}"
    return "", f"is {short_json(where)}; none of the {len(runs)} runs has these values together"


def _as_written(value: Any) -> str:
    return value if isinstance(value, str) else short_json(value)
