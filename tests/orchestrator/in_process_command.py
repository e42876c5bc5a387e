"""Calls the command in the process of the test as a shell would."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    """Exit code, stdout and stderr of one call."""

    code: int
    out: str
    err: str


Pruneyard = Callable[..., CommandResult]
