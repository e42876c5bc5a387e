"""Checks names of a model zoo, and suggests the nearest one."""

import difflib
from collections.abc import Sequence


def check_known(field_name: str, given: str, known: Sequence[str], *, most: int | None = None) -> None:
    """Raises `ValueError` for a name that is not among the known ones, of which the message lists the first `most`."""
    if given not in known:
        close = difflib.get_close_matches(given, known, n=1)
        listed = ", ".join(known[:most]) + (", ..." if most is not None and len(known) > most else "")
        hint = f"; did you mean {close[0]}?" if close else ""
        raise ValueError(f"{field_name} is {given!r}; it must be one of {listed or 'none'}{hint}")
