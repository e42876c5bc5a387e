"""What is going on in a study, kept from the reports of its trials; displays read it."""

import time
from dataclasses import dataclass, field

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.reports.records import Status

BEST_METRIC = "val/accuracy"  # shown as the best so far; largest is best


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A trial that failed, for the closing words."""

    run_key: str
    label: str
    error: str


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """Where a trial runs, and the most of a GPU's memory that it has held; None where it has none.

    nodes: of a cluster, that of its rank 0 first. Memory, too, is that of rank 0.
    """

    nodes: tuple[str, ...]
    gpu_bytes: int | None


@dataclass
class Monitor:
    """Counts and the newest report of every running trial. `total` includes the jobs `already` finished.

    `stopping` is set from when the study was asked to end.
    """

    total: int
    already: int
    running: dict[str, Report] = field(default_factory=dict)
    ended: dict[str, Status] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    _places: dict[str, TrialPlace] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)  # on which a trial of this call was seen
    failures: list[Failure] = field(default_factory=list)
    best: tuple[float, str] | None = None
    stopping: bool = False
    started: float = field(default_factory=time.monotonic)

    def expect(self, orders: list[PlannedAttempt]) -> None:
        """Trials about to be run, some of them perhaps again."""
        for order in orders:
            self.labels[order.job.key] = order.job.label
            self.ended.pop(order.job.key, None)

    def start(self, key: str) -> None:
        """A trial has a process."""
        self.paused.discard(key)
        self.running[key] = Report(run_key=key)

    def place(self, key: str, place: TrialPlace) -> None:
        """A trial that reports says where it is."""
        self._places[key] = place
        self.nodes.update(place.nodes)

    def record(self, report: Report) -> None:
        """A trial's report, or its end."""
        key = report.run_key
        value = report.metrics.get(BEST_METRIC)
        if value is not None and (self.best is None or value > self.best[0]):
            self.best = (value, self.labels[key])
        if report.status is None:
            self.running[key] = report
        elif report.paused:
            self.running.pop(key, None)
            self.paused.add(key)
        else:
            self.end(key, report.status, report.error)

    def end(self, key: str, status: Status, error: str | None = None) -> None:
        """A trial is over."""
        self.running.pop(key, None)
        self._places.pop(key, None)
        self.paused.discard(key)
        self.ended[key] = status
        if status is Status.FAILED:
            self.failures.append(Failure(run_key=key, label=self.labels[key], error=error or "unknown"))

    def count(self, status: Status) -> int:
        """Trials of this call that ended so."""
        return sum(found is status for found in self.ended.values())

    @property
    def places(self) -> dict[str, TrialPlace]:
        """Of trials that run, from their first evaluation on."""
        return {key: place for key, place in list(self._places.items()) if key in self.running}

    @property
    def waiting(self) -> int:
        """Jobs that have yet to begin, or to begin again."""
        return max(0, self.total - self.already - len(self.ended) - len(self.running) - len(self.paused))

    @property
    def done(self) -> int:
        """Jobs that are finished or were stopped early, those of earlier calls included."""
        return self.already + self.count(Status.COMPLETED) + self.count(Status.PRUNED)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started

    def seconds_left(self) -> float | None:
        """By the pace of the trials that ended and the running ones' share; None before the first evaluation."""
        shares = [r.step / r.num_steps for r in list(self.running.values()) if r.num_steps]
        worked = len(self.ended) + sum(shares)
        return None if worked <= 0 else self.elapsed_s() * (len(self.labels) - worked) / worked
