"""Stops unpromising trainings early: asynchronous successive halving (ASHA) and the median rule.

HyperBand, whose trainings pause, is in `pruneyard.orchestrator.early_stopping.hyperband`.

The unit of a decision is a configuration: the jobs that differ only in their seed. A configuration is judged by the mean over
its seeds once all of them have reached a rung, and all of them are stopped together. Every result is written to a journal
before a decision is made. A later call reads the journal again, so it makes the same decisions.
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
from pruneyard.orchestrator.spec.job import Job, group_of
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.workloads.user_code.nearest import nearest

if TYPE_CHECKING:
    from pruneyard.orchestrator.execution.report import Report

logger = logging.getLogger(__name__)


WORST = 1e300  # cost of a NaN or infinite value; the journal is JSON, which has no infinity
TOLERANCE = 1e-9  # of shares: step / num_steps and the products of a reduction factor are rounded


class EarlyStopper:
    """Receives the evaluations of the jobs of one study and decides which jobs stop.

    Progress is a share of a job's steps in [0, 1]. The value of a job at a share is that of its first evaluation at or after
    this share. Values are turned into costs, of which less is better.
    """

    def __init__(self, scheduler: Scheduler, jobs: Iterable[Job], journal: Journal) -> None:
        self.scheduler, self._journal = scheduler, journal
        self._group_of = {job.key: group_of(job) for job in jobs}
        self._members: dict[str, set[str]] = {}
        for key, group in self._group_of.items():
            self._members.setdefault(group, set()).add(key)
        self._costs: dict[str, dict[float, float]] = {}  # by run key: cost at each share
        self._decided: set[tuple[str, int]] = set()  # configuration and rung of every decision made
        self._rung_costs: dict[int, list[float]] = {}  # by rung: sorted mean costs of the configurations judged there
        self._running_means: dict[tuple[str, float], float] = {}  # by configuration and share: mean cost up to that share
        self.stopped: set[str] = set()  # configurations, as `group_of` names them
        self._excluded: set[str] = set()  # run keys of jobs that failed and did not run again since
        self._warned_of_missing_metric = False
        for entry in journal.lines():
            if "counts" in entry:
                self._set_counts(entry["key"], counts=entry["counts"])
            else:
                self._add_cost(entry["key"], entry["share"], entry["cost"])

    def knows(self, key: str) -> bool:
        """Returns whether a job is one of the study, or of the journal."""
        return key in self._group_of

    def on_report(self, report: "Report") -> bool:
        """Handles the report of a trial and returns whether the trial must stop."""
        metric = self.scheduler.metric
        if report.status is Status.FAILED:
            self.exclude(report.run_key)
        elif metric is not None and report.status in (None, Status.COMPLETED) and report.num_steps:
            if metric in report.metrics:
                return self.on_result(
                    report.run_key, share=report.step / report.num_steps, value=report.metrics[metric]
                )
            self._warn_of_missing_metric(report)
        return report.status is None and self.is_stopped(report.run_key)

    def _warn_of_missing_metric(self, report: "Report") -> None:
        """Logs once that jobs do not report the scheduler's metric, so that nothing will be stopped."""
        if not self._warned_of_missing_metric:
            self._warned_of_missing_metric = True
            listed = ", ".join(report.metrics) or "nothing"
            logger.warning(
                "scheduler.metric is %s, which run %s did not report; it reported %s%s; nothing is stopped without it",
                self.scheduler.metric,
                report.run_key,
                listed,
                nearest(self.scheduler.metric, report.metrics),
            )

    def on_result(self, key: str, *, share: float, value: float) -> bool:
        """Handles an evaluation of a job at a share of its steps and returns whether its configuration must stop."""
        cost = value if self.scheduler.mode == "min" else -value
        cost = cost if math.isfinite(cost) else WORST
        known = self._costs.get(key, {})
        # A training that resumes after a crash reports some evaluations again; the first report counts.
        if self.scheduler.name != "fifo" and share not in known:
            # The journal first: after a crash, a decision that only this process knew might be made otherwise.
            self._journal.append({"key": key, "share": share, "cost": cost})
            self._add_cost(key, share, cost)
        return self.is_stopped(key)

    def is_stopped(self, key: str) -> bool:
        """Returns whether the configuration of a job was stopped."""
        return self._group_of.get(key) in self.stopped

    def configurations(self, jobs: Iterable[Job]) -> dict[str, list[str]]:
        """Returns the run keys of each configuration, in the order of the jobs."""
        found: dict[str, list[str]] = {}
        for job in jobs:
            found.setdefault(self._group_of[job.key], []).append(job.key)
        return found

    def has_reached(self, key: str, share: float) -> bool:
        """Returns whether a job reported an evaluation at or after this share."""
        # The keys are shares: a job without a report stands at 0.
        return max(self._costs.get(key, {0.0: 0.0})) >= share - TOLERANCE

    def shares(self, key: str) -> list[float]:
        """Returns the shares at which a job reported an evaluation, in ascending order."""
        return sorted(self._costs.get(key, {}))

    def cost_at(self, keys: Iterable[str], share: float) -> float | None:
        """Returns the mean cost at a share over those of the jobs that have reached it; None where none has."""
        costs = [
            reported[min(reached)]
            for reported in (self._costs.get(key, {}) for key in keys)
            if (reached := [at for at in reported if at >= share - TOLERANCE])
        ]
        return math.fsum(costs) / len(costs) if costs else None

    def exclude(self, key: str) -> None:
        """Leaves out a job that failed: its configuration is judged by the other seeds until the job runs again."""
        if self.scheduler.name != "fifo" and key in self._group_of and key not in self._excluded:
            self._journal.append({"key": key, "counts": False})
            self._set_counts(key, counts=False)

    def include(self, keys: Iterable[str]) -> None:
        """Lets jobs that were left out count again, in all decisions still to be made."""
        for key in sorted(self._excluded.intersection(keys)):
            self._journal.append({"key": key, "counts": True})
            self._set_counts(key, counts=True)

    def _set_counts(self, key: str, *, counts: bool) -> None:
        # A job of the journal that this spec does not have is a configuration of its own.
        group = self._group_of.setdefault(key, f"earlier {key}")
        (self._excluded.discard if counts else self._excluded.add)(key)
        members = self._members.setdefault(group, set())
        (members.add if counts else members.discard)(key)
        # The cached means were those of other members.
        self._running_means = {at: mean for at, mean in self._running_means.items() if at[0] != group}
        # Without this job, all others of the configuration may have reached a rung.
        self._decide(group)

    def _add_cost(self, key: str, share: float, cost: float) -> None:
        group = self._group_of.setdefault(key, f"earlier {key}")
        self._members.setdefault(group, {key})
        self._costs.setdefault(key, {})[share] = cost
        self._decide(group)

    def _decide(self, group: str) -> None:
        if group in self.stopped or not self._members[group]:
            return
        rules = {"asha": self._asha, "median": self._median}
        rule = rules.get(self.scheduler.name)
        if rule is not None and rule(group):
            self.stopped.add(group)

    def _asha(self, group: str) -> bool:
        """Returns whether a configuration is among the worse ones at a rung that all its seeds have reached by now.

        It is judged once, when it arrives, against those that arrived before, and trains on meanwhile: the variant that stops.
        The published one pauses at every rung and promotes, which would keep many checkpoints and start processes anew.
        Reference: L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, algorithm 2.
        """
        for number, rung in enumerate(self.scheduler.rungs):
            if (group, number) in self._decided or (mean := self._mean_at(group, rung)) is None:
                continue
            self._decided.add((group, number))
            costs = self._rung_costs.setdefault(number, [])
            insort(costs, mean)
            # At least one: the first configuration at a rung continues, since asynchronous halving waits for nobody.
            num_kept = max(1, math.floor(len(costs) / self.scheduler.factor))
            # A tie with the last one kept continues.
            if mean > costs[num_kept - 1]:
                return True
        return False

    def _median(self, group: str) -> bool:
        """Returns whether the best cost of a configuration so far is above the median of the others' mean costs up to here.

        Reference: Golovin et al., "Google Vizier: A Service for Black-Box Optimization", KDD 2017, section 3.2.2.
        """
        share = min(max(self._costs.get(key, {0.0: 0.0})) for key in self._members[group])
        # At the end there is nothing left to stop.
        if share < self.scheduler.first - TOLERANCE or share >= 1:
            return False
        others = [self._running_mean(other, share) for other in self._members if other != group]
        known = [mean for mean in others if mean is not None]
        if len(known) < self.scheduler.num_others:
            return False
        # Empty where seeds reported at different steps, as after a change of `evaluate_every`.
        curve = self._curve(group, share)
        return bool(curve) and min(curve) > median(known)

    def _mean_at(self, group: str, rung: float) -> float | None:
        """Returns the mean cost over the seeds at a rung; None until all of them have reached it."""
        reached = [
            [share for share in self._costs.get(key, {}) if share >= rung - TOLERANCE]
            for key in self._members[group]
        ]
        if not all(reached):
            return None
        costs = [
            self._costs[key][min(shares)] for key, shares in zip(self._members[group], reached, strict=True)
        ]
        # The members are a set, whose order differs between processes; `fsum` is exact, so the mean does not.
        return math.fsum(costs) / len(costs)

    def _curve(self, group: str, until: float) -> list[float]:
        """Returns the mean costs over the seeds, at the shares up to `until` that all of them have reported."""
        found: Sequence[Mapping[float, float]] = [self._costs.get(key, {}) for key in self._members[group]]
        common = set.intersection(*(set(curve) for curve in found)) if found else set()
        return [
            math.fsum(c[share] for c in found) / len(found)
            for share in sorted(common)
            if share <= until + TOLERANCE
        ]

    def _running_mean(self, group: str, until: float) -> float | None:
        """Returns the mean cost up to a share, which no longer changes once all seeds have reached it; None before."""
        if (group, until) not in self._running_means:
            members = self._members[group]
            if not members or not all(self.has_reached(key, until) for key in members):
                return None
            curve = self._curve(group, until)
            if not curve:
                return None
            self._running_means[group, until] = math.fsum(curve) / len(curve)
        return self._running_means[group, until]


def load_early_stopper(scheduler: Scheduler, jobs: Sequence[Job], folder: RunFolder) -> EarlyStopper:
    """Returns an early stopper that knows all results that this folder's journal holds for the same scheduler."""
    return EarlyStopper(scheduler, jobs, Journal(folder.path / "decisions" / f"{scheduler_digest(scheduler)}.jsonl"))


def scheduler_digest(scheduler: Scheduler) -> str:
    """Returns 16 hexadecimal digits that name the scheduler's journals; other settings start a new journal."""
    return hashlib.sha256(canonical(asdict(scheduler)).encode()).hexdigest()[:16]
