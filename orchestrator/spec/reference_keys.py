"""Knows the keys of a table that may name earlier runs, as a spec writes them; see `pruneyard.orchestrator.spec.references`."""

from collections.abc import Collection, Iterable

REFERENCE = ("from", "over", "where", "best")
BESIDE_FROM = REFERENCE[1:]
NEEDS_FROM = "needs from, a stage or folder of finished runs"
SOURCES = "data.sources"  # a family of plug-ins in whose place a reference may stand

_RUNS = "runs"
_RESOLVED = (_RUNS, "folder")  # what a reference becomes


def may_refer(fields: Collection[str]) -> bool:
    """Returns whether a table with these fields may name earlier runs."""
    return _RUNS in fields


def written_keys(fields: Iterable[str]) -> list[str]:
    """Returns the keys that a spec may write in a table with these fields."""
    names = list(fields)
    return [*REFERENCE, *(name for name in names if name not in _RESOLVED)] if may_refer(names) else names


def forms(fields: Collection[str]) -> str:
    """Returns in words what to give for a table that must name runs, or a file where it has a path."""
    return "{from: STAGE or FOLDER}" + (" or {path: FILE}" if "path" in fields else "")
