"""What can be wrong with what a user gave, and the exit code each means."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


class ExitCode(IntEnum):
    """The contract of the command."""

    FINISHED = 0
    FAILED = 1  # some job failed; the others ran on
    USAGE = 2  # bad usage, spec or data
    PARTIAL = 3  # stopped or interrupted
    UNREACHABLE = 4  # no cluster, or it refused us
    TIMED_OUT = 124  # `wait`, or what waits for an end in order
    INTERRUPTED = 130


class UsageError(ValueError):
    """Something the user can put right; the message says what and how."""


class ClusterError(RuntimeError):
    """The cluster cannot be reached or refused us."""


@dataclass(frozen=True, order=True)
class Problem:
    """One thing wrong with a spec: where, and what is allowed there."""

    line: int  # 1-based; 0 where there is none, as for the command line
    key: str  # dotted
    message: str


class SpecError(UsageError):
    """Everything that is wrong with a spec, at once."""

    def __init__(self, origin: str, problems: Sequence[Problem]) -> None:
        self.origin = origin
        self.problems = sorted(set(problems))
        super().__init__("\n".join(self._line(problem) for problem in self.problems))

    def _line(self, problem: Problem) -> str:
        place = f"{self.origin}:{problem.line}" if problem.line else self.origin
        return f"{place}: {problem.key}: {problem.message}" if problem.key else f"{place}: {problem.message}"


class RankFailedError(RuntimeError):
    """What a rank raised, with the traceback from its process."""


class RankDiedError(RuntimeError):
    """A process of a trial of several is gone: the attempt ends as one does whose only process died."""
