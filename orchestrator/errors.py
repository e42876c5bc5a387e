"""Defines the errors that users see and the exit codes of the command."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of the command; scripts rely on them."""

    FINISHED = 0
    FAILED = 1  # at least one job failed; the others ran to their end
    USAGE = 2  # invalid usage, spec or data
    PARTIAL = 3  # the study was stopped or interrupted
    UNREACHABLE = 4  # the cluster cannot be reached or refused the connection
    GATE = 5  # a gate of `compare` failed
    TIMED_OUT = 124  # `wait`, or a command that waits for a graceful stop
    INTERRUPTED = 130  # Ctrl-C; 128 + SIGINT, as shells do


class UsageError(ValueError):
    """An error that the user can fix; the message says what is wrong and how to fix it."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached or refused the connection."""


@dataclass(frozen=True, order=True)
class Problem:
    """One problem of a spec: where it is, what came and what is allowed."""

    line: int  # 1-based; 0 where the value has no line, as on the command line
    key: str  # dotted
    message: str


class SpecError(UsageError):
    """All problems of a spec, one line of the message for each."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin = origin
        self.problems = sorted(set(problems))
        super().__init__("\n".join(self._format(problem) for problem in self.problems))

    def _format(self, problem: Problem) -> str:
        place = f"{self.origin}:{problem.line}" if problem.line else self.origin
        return f"{place}: {problem.key}: {problem.message}" if problem.key else f"{place}: {problem.message}"


class RankFailedError(RuntimeError):
    """An exception that a rank raised, with the traceback from its process."""


class RankDiedError(RuntimeError):
    """One process of a trial with several workers crashed. The attempt ends as if its only process had crashed."""
