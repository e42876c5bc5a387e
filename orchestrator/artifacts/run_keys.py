"""Finds a run by its key or by the first digits of it, as displays show them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.store import Store

if TYPE_CHECKING:
    import pandas as pd

RunChoice: TypeAlias = "str | Mapping[str, Any] | pd.Series[Any]"
"""A run key or the beginning of one, or a row of a table that has it as `run_key`."""

SHORTEST_KEY = 8  # digits, as the live table shows


def looks_like_key(text: str) -> bool:
    """Returns whether a text can be a run key or the beginning of one."""
    return SHORTEST_KEY <= len(text) <= 16 and all(letter in "0123456789abcdef" for letter in text)


def full_run_key(folder: RunFolder, chosen: RunChoice, *, option: str) -> str:
    """Returns the only run key in the folder that starts with the chosen one. Raises `UsageError` for none or several.

    option: names the place of the key on the command line, or the argument.
    """
    key = chosen if isinstance(chosen, str) else _key_in(chosen, option=option)
    found = [known for known in Store(folder).statuses() if known.startswith(key)] if len(key) >= SHORTEST_KEY else []
    if len(found) > 1:
        raise UsageError(f"{option} {key}: is the beginning of several run keys: {', '.join(sorted(found))}")
    if not found:
        rule = f"; give at least {SHORTEST_KEY} digits" if len(key) < SHORTEST_KEY else ""
        raise UsageError(f"{option} {key}: is no run in {folder.path}{rule}")
    return found[0]


def _key_in(row: Any, *, option: str) -> str:
    key = row["run_key"] if hasattr(row, "keys") and "run_key" in row else row
    if not isinstance(key, str):
        raise UsageError(f"{option}: is a {type(row).__name__}; it must be a run key, as text, or one row with run_key")
    return key
