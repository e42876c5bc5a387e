"""Knows which changes of the command line a stage takes: those with its name, and those that apply to several stages."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.grid import with_free_value
from pruneyard.orchestrator.spec.reference_places import find_references
from pruneyard.orchestrator.spec.renamed_keys import present_key, spec_with_present_keys
from pruneyard.workloads.plugins import find_job
from pruneyard.workloads.user_code.nearest import nearest


def refuse_bare_stages(keys: Sequence[str], stages: Collection[str]) -> None:
    """Raises `UsageError` for a change of a whole stage."""
    for key in keys:
        if key in stages:
            raise UsageError(f"{key}: is a stage; give {key}.KEY, such as {key}.seeds (from an override)")


def changes_of_stage(
    name: str, overrides: Mapping[str, Any], axes: Mapping[str, Sequence[Any]], shares: Sequence[str]
) -> tuple[dict[str, Any], dict[str, Sequence[Any]]]:
    """Returns the overrides and axes of a stage: those with its name, before those in `shares`, which several stages take."""
    own_overrides, own_axes = (
        {key.removeprefix(f"{name}."): value for key, value in changes.items() if key.startswith(f"{name}.")}
        for changes in (overrides, axes)
    )
    others = [key for key in shares if key not in own_overrides and key not in own_axes]
    return (
        {key: overrides[key] for key in others if key in overrides} | own_overrides,
        {key: axes[key] for key in others if key in axes} | own_axes,
    )


def unused_change(key: str, known: Sequence[str], *, is_kept: bool) -> UsageError:
    """Returns the error for a change that no stage takes. is_kept: whether stages have the key, all from another stage."""
    if is_kept:
        rule = f"every stage that has it takes it from another stage; give STAGE.{key} to replace that"
    else:
        head = key.partition(".")[0]
        hint = "" if head in known else nearest(head, known)
        rule = f"names no stage and applies to no job of any; with stages it may start with one of {', '.join(known)}{hint}"
    return UsageError(f"{key}: {rule} (from an override)")


def comes_from_a_stage(key: str, table: Mapping[str, Any], stages: Collection[str]) -> bool:
    """Returns whether a stage takes what it has at a dotted key from another stage; a change for all stages then leaves it.

    table: the stage as written, of a known kind.
    """
    job_class = find_job(table["kind"])
    key = present_key(job_class, table, key).removesuffix(".name")
    tables = spec_with_present_keys(job_class, table)
    variants, grid = tables.get("variants"), tables.get("grid")
    choices = [tables, *(variants if isinstance(variants, list) else [])]
    for axis, values in grid.items() if isinstance(grid, Mapping) else ():
        choices += [with_free_value({}, axis.split("."), value) for value in (values if isinstance(values, list) else [])]
    return any(
        reference.get("from") in stages and (place == key or place.startswith((f"{key}.", f"{key}[")))
        for choice in choices
        for place, reference in find_references(job_class, choice)
    )
