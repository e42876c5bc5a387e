"""The command, called in the test's own process as a shell would call it."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """Exit code, stdout and stderr of one call."""

    code: int
    out: str
    err: str


Pruneyard = Callable[..., Answer]
