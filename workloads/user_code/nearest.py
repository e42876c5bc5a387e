"""Suggests the nearest known name for one that a user wrote."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str:
    """Returns a hint at the most similar known name, which ends a message; empty where none is similar."""
    found = nearest_name(name, known)
    return f"; did you mean {found}?" if found else ""


def nearest_name(name: object, known: Iterable[str]) -> str:
    """Returns the most similar known name; empty where none is similar."""
    return next(iter(difflib.get_close_matches(str(name), list(known), n=1)), "")
