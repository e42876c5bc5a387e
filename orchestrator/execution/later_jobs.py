"""Knows which attempts can start once a run has completed, and which never can once it has failed."""

from pruneyard.orchestrator.planning.attempt import PlannedAttempt


class LaterJobs:
    """The attempts that wait for runs of the same call."""

    def __init__(self) -> None:
        self._waiting: dict[str, PlannedAttempt] = {}
        self._missing: dict[str, set[str]] = {}
        self._dependants: dict[str, list[str]] = {}

    @property
    def waiting(self) -> list[PlannedAttempt]:
        """Returns the attempts that still wait, in the order in which they were added."""
        return list(self._waiting.values())

    def depend_on(self, run: str) -> bool:
        """Returns whether attempts have been added that wait for this run."""
        return run in self._dependants

    def add(self, planned: PlannedAttempt, runs: frozenset[str]) -> None:
        """Adds an attempt that can start once these runs have completed."""
        self._waiting[planned.job.key] = planned
        self._missing[planned.job.key] = set(runs)
        for run in runs:
            self._dependants.setdefault(run, []).append(planned.job.key)

    def completed(self, run: str) -> list[PlannedAttempt]:
        """Returns the attempts that can start now that this run has completed, each once."""
        ready = []
        for key in self._dependants.pop(run, ()):
            self._missing[key].discard(run)
            if key in self._waiting and not self._missing[key]:
                ready.append(self._waiting.pop(key))
        return ready

    def failed(self, run: str) -> list[PlannedAttempt]:
        """Returns the attempts that waited for this run, which has failed; they wait no more."""
        keys = self._dependants.pop(run, ())
        return [self._waiting.pop(key) for key in keys if key in self._waiting]
