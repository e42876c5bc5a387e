"""Metadata of spec fields: which of them belong to the identity of a job, and under which name."""

from collections.abc import Mapping
from typing import Any

NOT_IDENTITY = {"identity": False}
"""Metadata of a field that changes no number of the finished network."""

NEUTRAL_BY_DEFAULT = {"identity": "unless_default"}
"""Metadata of a field added later, whose default keeps the earlier behaviour; run keys of older specs stay valid."""

SET_BY_RESOURCES = {**NEUTRAL_BY_DEFAULT, "given": False}
"""Metadata of a field that is set from a spec's `resources` and is not a key of its job."""

FILLED_IN = {"identity": False, "given": False}
"""Metadata of a field with locations of files, which are known only when the job runs."""


def check_runs(runs: tuple[str, ...], *, num: int | None = None) -> None:
    """Raises `ValueError` if `runs` is empty, contains a run twice, or does not contain exactly `num` runs."""
    if not runs or len(set(runs)) < len(runs):
        raise ValueError(f"runs is {list(runs)}; it must name at least one run, none of them twice")
    if num is not None and len(runs) != num:
        raise ValueError(f"runs is {list(runs)}; it must name {num}")


def renamed(was: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the metadata of a field whose spec key was once called `was`.

    Specs may still use the old key, and identities keep it, so that the run keys of existing results stay valid.
    """
    return {**(metadata or {}), "was": was}


def in_place_of(other: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metadata of a field that is given instead of another one, which is not missing where this one is wrong."""
    return {**metadata, "in_place_of": other}
