"""Keeps the state of a running study from the reports of its trials, for displays to read."""

import time
from dataclasses import dataclass, field

from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.progress.time_left import TimeLeft
from pruneyard.reports.records import Status

BEST_METRIC = "val/accuracy"  # the metric that displays show; larger is better


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failed trial, for the messages at the end of a study."""

    run_key: str
    label: str
    error: str


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """The nodes that a trial runs on, and its peak of GPU memory.

    Args:
        nodes: the shortened ids of its nodes, that of rank 0 first; empty without Ray.
        gpu_bytes: the peak of rank 0; None if it uses no GPU.
    """

    nodes: tuple[str, ...]
    gpu_bytes: int | None


@dataclass
class Monitor:
    """The counts of a study and the newest report of every running trial.

    Args:
        total: the number of jobs, those finished by earlier calls included.
        num_already_done: the jobs that earlier calls finished.
        running: the newest report by run key.
        ended: how the trials of this call ended, by run key.
        paused: the run keys of trials that wait to be continued.
        labels: the labels of the jobs of this call, by run key.
        nodes: the nodes on which a trial of this call ran.
        stopping: whether the study was asked to stop.
        phase: what is done while no trial runs yet, such as `starting Ray`.
        time_left: the estimate of the remaining time.
    """

    total: int
    num_already_done: int
    running: dict[str, Report] = field(default_factory=dict)
    ended: dict[str, Status] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)
    _places: dict[str, TrialPlace] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    best: tuple[float, str] | None = None
    stopping: bool = False
    phase: str = ""
    time_left: TimeLeft = field(default_factory=TimeLeft)
    started: float = field(default_factory=time.monotonic)

    def expect(self, attempts: list[PlannedAttempt]) -> None:
        """Adds attempts that are about to run; some of their jobs may have ended before."""
        for planned in attempts:
            self.labels[planned.job.key] = planned.job.label
            self.ended.pop(planned.job.key, None)
            self.time_left.expect(planned.job.key, planned.job.stage)

    def start(self, key: str) -> None:
        """Marks a trial as running."""
        self.paused.discard(key)
        self.running[key] = Report(run_key=key)
        self.time_left.start(key)
        self.phase = ""

    def set_place(self, key: str, place: TrialPlace) -> None:
        """Stores where a trial runs."""
        self._places[key] = place
        self.nodes.update(place.nodes)

    def record(self, report: Report) -> None:
        """Stores the newest report of a trial, which may be its last."""
        key = report.run_key
        value = report.metrics.get(BEST_METRIC)
        if value is not None and (self.best is None or value > self.best[0]):
            self.best = (value, self.labels[key])
        if report.num_steps:
            self.time_left.report(key, min(1.0, report.step / report.num_steps))
        if report.status is None:
            self.running[key] = report
        elif report.paused:
            self.running.pop(key, None)
            self.paused.add(key)
        else:
            self.end(key, report.status, report.error)

    def end(self, key: str, status: Status, error: str | None = None) -> None:
        """Marks a trial as ended."""
        self.running.pop(key, None)
        self._places.pop(key, None)
        self.paused.discard(key)
        self.ended[key] = status
        self.time_left.end(key)
        if status is Status.FAILED:
            self.failures.append(Failure(run_key=key, label=self.labels[key], error=error or "unknown"))

    def count(self, status: Status) -> int:
        """Returns how many trials of this call ended with this status."""
        return sum(found is status for found in self.ended.values())

    @property
    def places(self) -> dict[str, TrialPlace]:
        """Returns the places of running trials; a trial has one from its first evaluation on."""
        return {key: place for key, place in list(self._places.items()) if key in self.running}

    @property
    def waiting(self) -> int:
        """Returns how many jobs have not started yet, or wait for another attempt."""
        return max(0, self.total - self.num_already_done - len(self.ended) - len(self.running) - len(self.paused))

    @property
    def done(self) -> int:
        """Returns how many jobs are completed or pruned, those of earlier calls included."""
        return self.num_already_done + self.count(Status.COMPLETED) + self.count(Status.PRUNED)

    def elapsed_s(self) -> float:
        return time.monotonic() - self.started
