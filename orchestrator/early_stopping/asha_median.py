"""Stops trainings that fall behind: successive halving and the median rule, on configurations, never on one seed alone.
HyperBand, whose trainings pause, is in `pruneyard.orchestrator.early_stopping.hyperband`.

A configuration is the jobs that differ in nothing but their seed. It is judged by the mean over its seeds, once each of them
has come as far, and all of them are stopped together. What was heard is written down before it is acted on, and read again by
a later call, which so decides as this one would have.
"""

import hashlib
import logging
import math
from bisect import insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import TYPE_CHECKING

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status

if TYPE_CHECKING:
    from pruneyard.orchestrator.execution.report import Report
    from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.job import group_of
from pruneyard.orchestrator.spec.scheduler import Scheduler

logger = logging.getLogger(__name__)



WORST = 1e300  # cost of what is no number; JSON has no infinity


class EarlyStopper:
    """Hears evaluations of the jobs of one study, and says which of them are to stop.

    The value of a job at a share is that of its first evaluation at or after it.
    """

    def __init__(self, scheduler: Scheduler, jobs: Iterable["Job"], journal: Journal) -> None:
        self.scheduler, self._journal = scheduler, journal
        self._group_of = {job.key: group_of(job) for job in jobs}
        self._members: dict[str, set[str]] = {}
        for key, group in self._group_of.items():
            self._members.setdefault(group, set()).add(key)
        self._heard: dict[str, dict[float, float]] = {}  # by run: cost at each share, less is better
        self._decided: set[tuple[str, int]] = set()  # configurations that were judged at a rung
        self._at: dict[int, list[float]] = {}  # by rung: mean costs of those, in order
        self._running: dict[tuple[str, float], float] = {}  # by configuration and share: mean of its costs up to there
        self.stopped: set[str] = set()  # configurations
        self._left_out: set[str] = set()  # jobs that failed and were not run again
        self._missed = False
        for entry in journal.lines():
            if "counts" in entry:
                self._count(entry["key"], counts=entry["counts"])
            else:
                self._take(entry["key"], entry["share"], entry["cost"])

    def hear_report(self, report: "Report") -> bool:
        """What a trial reports. Whether it is to stop."""
        metric = self.scheduler.metric
        if report.status is Status.FAILED:
            self.exclude(report.run_key)
        elif metric is not None and report.status in (None, Status.COMPLETED) and report.num_steps:
            if metric in report.metrics:
                return self.on_result(
                    report.run_key, share=report.step / report.num_steps, value=report.metrics[metric]
                )
            self._miss(report)
        return report.status is None and self.is_stopped(report.run_key)

    def _miss(self, report: "Report") -> None:
        """Said once: nothing is stopped by what is not measured."""
        if not self._missed:
            self._missed = True
            listed = ", ".join(report.metrics) or "nothing"
            logger.warning(
                "scheduler.metric is %s, which %s did not report: %s",
                self.scheduler.metric,
                report.run_key,
                listed,
            )

    def on_result(self, key: str, *, share: float, value: float) -> bool:
        """An evaluation of a job at a share of its steps. Whether its configuration is to stop."""
        cost = value if self.scheduler.mode == "min" else -value
        cost = cost if math.isfinite(cost) else WORST
        known = self._heard.get(key, {})
        if self.scheduler.name != "fifo" and share not in known:
            self._journal.append({"key": key, "share": share, "cost": cost})
            self._take(key, share, cost)
        return self.is_stopped(key)

    def is_stopped(self, key: str) -> bool:
        """Whether the configuration of a job was stopped."""
        return self._group_of.get(key) in self.stopped

    def configurations(self, jobs: Iterable["Job"]) -> dict[str, list[str]]:
        """The run keys of each, in the order of the jobs."""
        found: dict[str, list[str]] = {}
        for job in jobs:
            found.setdefault(self._group_of[job.key], []).append(job.key)
        return found

    def has_come(self, key: str, share: float) -> bool:
        """Whether a job was heard at a share or behind it."""
        return max(self._heard.get(key, {0.0: 0.0})) >= share - 1e-9

    def cost_at(self, keys: Iterable[str], share: float) -> float | None:
        """The mean over those of these jobs that have come to a share; None where none has."""
        costs = [
            heard[min(found)]
            for heard in (self._heard.get(key, {}) for key in keys)
            if (found := [at for at in heard if at >= share - 1e-9])
        ]
        return math.fsum(costs) / len(costs) if costs else None

    def exclude(self, key: str) -> None:
        """A job that failed: its configuration is judged by the others until it is run again."""
        if self.scheduler.name != "fifo" and key in self._group_of and key not in self._left_out:
            self._journal.append({"key": key, "counts": False})
            self._count(key, counts=False)

    def include(self, keys: Iterable[str]) -> None:
        """Those of these jobs that were left out count in what is yet to be decided."""
        for key in sorted(self._left_out.intersection(keys)):
            self._journal.append({"key": key, "counts": True})
            self._count(key, counts=True)

    def _count(self, key: str, *, counts: bool) -> None:
        group = self._group_of.setdefault(key, f"earlier {key}")
        (self._left_out.discard if counts else self._left_out.add)(key)
        members = self._members.setdefault(group, set())
        (members.add if counts else members.discard)(key)
        self._running = {at: mean for at, mean in self._running.items() if at[0] != group}
        self._decide(group)

    def _take(self, key: str, share: float, cost: float) -> None:
        group = self._group_of.setdefault(key, f"earlier {key}")
        self._members.setdefault(group, {key})
        self._heard.setdefault(key, {})[share] = cost
        self._decide(group)

    def _decide(self, group: str) -> None:
        if group in self.stopped or not self._members[group]:
            return
        rules = {"asha": self._asha, "median": self._median}
        rule = rules.get(self.scheduler.name)
        if rule is not None and rule(group):
            self.stopped.add(group)

    def _asha(self, group: str) -> bool:
        for place, rung in enumerate(self.scheduler.rungs):
            if (group, place) in self._decided or (mean := self._mean_at(group, rung)) is None:
                continue
            self._decided.add((group, place))
            costs = self._at.setdefault(place, [])
            insort(costs, mean)
            kept = max(1, math.floor(len(costs) / self.scheduler.factor))
            if mean > costs[kept - 1]:
                return True
        return False

    def _median(self, group: str) -> bool:
        share = min(max(self._heard.get(key, {0.0: 0.0})) for key in self._members[group])
        if share < self.scheduler.first - 1e-9 or share >= 1:
            return False
        others = [self._running_mean(other, share) for other in self._members if other != group]
        known = [mean for mean in others if mean is not None]
        if len(known) < self.scheduler.num_others:
            return False
        best = min(self._curve(group, share))
        return best > median(known)

    def _mean_at(self, group: str, rung: float) -> float | None:
        """The mean over seeds at a rung; None until all have come there."""
        reached = [
            [share for share in self._heard.get(key, {}) if share >= rung - 1e-9]
            for key in self._members[group]
        ]
        if not all(reached):
            return None
        costs = [
            self._heard[key][min(shares)] for key, shares in zip(self._members[group], reached, strict=True)
        ]
        return math.fsum(costs) / len(costs)

    def _curve(self, group: str, until: float) -> list[float]:
        """Mean costs over seeds at the shares that all of them have reported, up to one of them."""
        found: Sequence[Mapping[float, float]] = [self._heard.get(key, {}) for key in self._members[group]]
        common = set.intersection(*(set(curve) for curve in found)) if found else set()
        return [
            math.fsum(c[share] for c in found) / len(found)
            for share in sorted(common)
            if share <= until + 1e-9
        ]

    def _running_mean(self, group: str, until: float) -> float | None:
        """It is final once all seeds have come so far; None before."""
        if (group, until) not in self._running:
            members = self._members[group]
            if not members or not all(self.has_come(key, until) for key in members):
                return None
            curve = self._curve(group, until)
            if not curve:
                return None
            self._running[group, until] = math.fsum(curve) / len(curve)
        return self._running[group, until]


def load_early_stopper(scheduler: Scheduler, jobs: Sequence["Job"], folder: RunFolder) -> EarlyStopper:
    """One that remembers what was heard in this folder under the same rules."""
    return EarlyStopper(scheduler, jobs, Journal(folder.path / "decisions" / f"{scheduler_digest(scheduler)}.jsonl"))


def scheduler_digest(scheduler: Scheduler) -> str:
    return hashlib.sha256(canonical(asdict(scheduler)).encode()).hexdigest()[:16]
