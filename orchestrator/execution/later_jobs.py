"""Knows which attempts can start once a run has completed: those that waited for it, and for no other run any more."""

from collections.abc import Callable, Sequence

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.reports.records import Status


class LaterJobs:
    """The attempts that wait for runs of the same call.

    waiting: the attempts, each with the run keys that have to complete before it can start.
    prepare: returns those of some attempts that can start, with what is known of their inputs by now.
    """

    def __init__(
        self,
        waiting: Sequence[tuple[PlannedAttempt, frozenset[str]]],
        prepare: Callable[[Sequence[PlannedAttempt]], list[PlannedAttempt]],
    ) -> None:
        self._prepare = prepare
        self._waiting = {planned.job.key: planned for planned, _ in waiting}
        self._missing = {planned.job.key: set(runs) for planned, runs in waiting}
        self._dependants: dict[str, list[str]] = {}
        for planned, runs in waiting:
            for run in runs:
                self._dependants.setdefault(run, []).append(planned.job.key)
        self.started: list[PlannedAttempt] = []

    @property
    def waiting(self) -> list[PlannedAttempt]:
        """Returns the attempts that still wait, in the order of the spec."""
        return list(self._waiting.values())

    def depends_on(self, report: Report) -> bool:
        """Returns whether attempts wait for the run of this report, and the report says that it has completed."""
        return report.status is Status.COMPLETED and report.run_key in self._dependants

    def after(self, report: Report) -> list[PlannedAttempt]:
        """Returns the attempts that can start now, those with the same parents next to each other."""
        if not self.depends_on(report):
            return []
        ready = []
        for key in self._dependants.pop(report.run_key):
            self._missing[key].discard(report.run_key)
            if not self._missing[key]:
                ready.append(self._waiting.pop(key))
        prepared = self._prepare(order_by_parents(ready)) if ready else []
        self.started += prepared
        return prepared

