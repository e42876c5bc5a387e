"""Knows the names of arguments that say how many steps a training has."""

from collections.abc import Mapping
from typing import Any

LENGTHS = (
    "steps",
    "num_steps",
    "max_steps",
    "iterations",
    "num_iterations",
    "epochs",
    "num_epochs",
    "max_epochs",
)


def length_in(arguments: Mapping[str, Any]) -> int | None:
    """Returns the value of the one argument whose name says that it is a number of steps; None where none or several do."""
    found = [arguments[name] for name in LENGTHS if type(arguments.get(name)) is int]
    return found[0] if len(found) == 1 and found[0] > 0 else None
