"""Metadata of spec fields: what enters the identity of a job, and under which name."""

from collections.abc import Mapping
from typing import Any

NEUTRAL_BY_DEFAULT = {"identity": "unless_default"}  # as NEUTRAL_BY_DEFAULT of the recipe, which rests on this file


FILLED_IN = {"identity": False, "given": False}  # fields that say where things lie, known only when a job is run


def check_runs(runs: tuple[str, ...], *, num: int | None = None) -> None:
    """Raises `ValueError` where runs are missing or named twice, or are not as many as `num`."""
    if not runs or len(set(runs)) < len(runs):
        raise ValueError(f"runs is {list(runs)}; it must name at least one run, none of them twice")
    if num is not None and len(runs) != num:
        raise ValueError(f"runs is {list(runs)}; it must name {num}")


NOT_IDENTITY = {"identity": False}  # fields that change no number of the finished network


NEUTRAL_BY_DEFAULT = {
    "identity": "unless_default"
}  # later fields whose default means what was done before them


SET_BY_RESOURCES = {**NEUTRAL_BY_DEFAULT, "given": False}  # known from a spec's `resources`, not a key of its job


def renamed(was: str, metadata: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the metadata of a field whose spec key was once called `was`.

    Specs may still use the old key, and identities keep it, so that the run keys of existing results stay valid.
    """
    return {**(metadata or {}), "was": was}
