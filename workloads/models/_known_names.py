"""Checks names of a model zoo, and suggests the nearest one."""

from collections.abc import Sequence

from pruneyard.workloads.user_code.nearest import nearest


def check_known(field_name: str, given: str, known: Sequence[str], *, most: int | None = None) -> None:
    """Raises `ValueError` for a name that is not among the known ones, of which the message lists the first `most`."""
    if given not in known:
        listed = ", ".join(known[:most]) + (", ..." if most is not None and len(known) > most else "")
        raise ValueError(f"{field_name} is {given!r}; it must be one of {listed or 'none'}{nearest(given, known)}")
