"""Parses `--set` and `--axis` of the command line and applies them to the tables of a spec."""

from collections.abc import Mapping, Sequence
from typing import Any

from ruamel.yaml.error import YAMLError

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.codec import hints_of, short_json
from pruneyard.orchestrator.spec.stage import Header
from pruneyard.orchestrator.spec.yaml_document import (
    describe_yaml_error,
    parse_value,
)


def parse_assignment(text: str, *, option: str) -> tuple[str, Any]:
    """Returns key and value of an assignment such as `method.density=0.05`. Raises `UsageError`."""
    key, value = _split_assignment(text, f"{option} {text}: must have the form KEY=VALUE, as in method.density=0.05")
    return key, _parse_yaml_value(value, f"{option} {text}")


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Returns key and values of an axis such as `method.density=0.1,0.05`. Raises `UsageError`."""
    form = "KEY=VALUE,VALUE, as in method.density=0.1,0.05"
    key, values = _split_assignment(text, f"--axis {text}: must have the form {form}")
    return key, _parse_yaml_value(f"[{values}]", f"--axis {text}")


def _split_assignment(text: str, message: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(message)
    return key.strip(), value


def _parse_yaml_value(text: str, place: str) -> Any:
    try:
        return parse_value(text)
    except (YAMLError, RecursionError) as error:
        words = describe_yaml_error(error) if isinstance(error, YAMLError) else "it is nested too deeply"
        raise UsageError(f"{place}: the value is not valid YAML: {words}") from error


def apply_overrides(
    tables: Mapping[str, Any], overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]]
) -> tuple[dict[str, Any], frozenset[str]]:
    """Returns the tables with the changes of the command line, and the keys that they set.

    An override of a key of the job becomes an axis with one value, so that it also replaces the values of an axis in the spec.
    Raises `UsageError` for a key that is both set and an axis, and for an axis that is no list.
    """
    for key, values in axes.items():
        if not isinstance(values, list | tuple):
            raise UsageError(f"axes.{key} is {short_json(values)}; it must be a list, such as [{short_json(values)}]")
    for key in overrides.keys() & axes.keys():
        raise UsageError(f"{key}: is both set and an axis on the command line; give one of the two")
    header = set(hints_of(Header))
    grid = dict(tables.get("grid") or {}) if isinstance(tables.get("grid") or {}, Mapping) else {}
    changed = dict(tables)
    # A whole grid comes first, so that overrides of single axes apply to it.
    for key, value in sorted(overrides.items(), key=lambda item: item[0] != "grid"):
        head = key.split(".")[0]
        if key == "grid":
            if not isinstance(value, Mapping):
                raise UsageError(f"grid: is {short_json(value)}; it must be a table of axes (from an override)")
            grid = dict(value)
        elif head == "grid":
            grid[key.removeprefix("grid.")] = value
        elif head in header:
            changed = _with_path(changed, _path(changed, key), value)
        else:
            grid[key] = [value]
    grid |= {key: list(values) for key, values in axes.items()}
    if overrides or axes:
        changed["grid"] = grid
    return changed, frozenset(key.removeprefix("grid.") for key in (*overrides, *axes))


def _path(tables: Mapping[str, Any], key: str) -> list[str]:
    """Returns the keys that lead to a value in nested tables. Keys of `search.space` hold dots themselves, as `optimizer.lr`."""
    if not key.startswith("search.space."):
        return key.split(".")
    inner = key.removeprefix("search.space.")
    search = tables.get("search")
    space = search.get("space") if isinstance(search, Mapping) else None
    known = space if isinstance(space, Mapping) else {}
    first = max((name for name in known if f"{inner}.".startswith(f"{name}.")), key=len, default=inner)
    return ["search", "space", first, *inner.removeprefix(first).split(".")[1:]]


def _with_path(tables: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    inner = tables.get(head)
    return {**tables, head: _with_path(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}
