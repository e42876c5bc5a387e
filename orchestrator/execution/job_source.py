"""Answers a backend that runs attempts: which trials are to stop, and which attempts can start by now."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt


class JobSource(Protocol):
    """Receives the reports of trials, and names the attempts that can start after them.

    A backend calls it in one thread: `must_stop` for each report, then `after` for the last one of an attempt.
    """

    def must_stop(self, report: Report) -> bool:
        """Returns whether the trial of this report is to stop early."""
        ...

    def is_stopped(self, key: str) -> bool:
        """Returns whether the run with this key is to stop early."""
        ...

    def may_stop_early(self, key: str) -> bool:
        """Returns whether a scheduler decides from the reports of this run whether it stops early."""
        ...

    def awaits(self, report: Report) -> bool:
        """Returns whether anything waits for the end of this run; then its rows and files must be written before `after`."""
        ...

    def after(self, report: Report) -> list[PlannedAttempt]:
        """Returns the attempts that can start now, in the order in which they are to start, before those that wait."""
        ...

    def after_crash(self, attempts: Sequence[PlannedAttempt], errors: Mapping[str, str]) -> list[PlannedAttempt]:
        """Returns the attempts that run again after the process of these attempts crashed.

        errors: by run key, of the attempt that ran at that time.
        """
        ...


class FixedJobs:
    """The source of a fixed list of attempts: nothing follows, nothing stops early, and a crash is an error."""

    def must_stop(self, report: Report) -> bool:
        """Returns False."""
        return False

    def is_stopped(self, key: str) -> bool:
        """Returns False."""
        return False

    def may_stop_early(self, key: str) -> bool:
        """Returns False."""
        return False

    def awaits(self, report: Report) -> bool:
        """Returns False."""
        return False

    def after(self, report: Report) -> list[PlannedAttempt]:
        """Returns no attempt."""
        return []

    def after_crash(self, attempts: Sequence[PlannedAttempt], errors: Mapping[str, str]) -> list[PlannedAttempt]:
        """Raises `RuntimeError` with the error of the process."""
        raise RuntimeError("\n".join(errors.values()))
