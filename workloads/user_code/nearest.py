"""Suggests the nearest known name for one that a user wrote."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns a hint at the most similar known name, which ends a message; empty where none is similar."""
    found = nearest_name(name, known)
    return f"; did you mean {found}?" if found else ""


def nearest_name(name: object, known: Iterable[str]) -> str:
    """Returns the most similar known name, or the shortest that begins with this one; empty where there is none."""
    names = list(known)
    longer = sorted((each for each in names if len(str(name)) > 2 and each.startswith(str(name))), key=len)
    return next(iter(difflib.get_close_matches(str(name), names, n=1) or longer), "")
