"""HyperBand: decides which configurations train up to which share of their steps, and which are eliminated.

Configurations are assigned to brackets by their order in the plan. A bracket starts with many configurations that train
briefly, or with few that train long. At each of its rungs it waits for all of them; the best 1 / reduction_factor resume from
their checkpoints. Rungs of all brackets at the same share run together, the lowest first. So no decision depends on which
training was faster or on how many ran at once, and no trial holds resources while it waits. Decisions are written to a journal.

Reference: L. Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18, 2018, algorithm 1.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from pruneyard.orchestrator.coordination.journal import Journal
from pruneyard.orchestrator.early_stopping.asha_median import TOLERANCE, EarlyStopper, scheduler_digest
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import RunRecord, Status
from pruneyard.reports.store import Store

if TYPE_CHECKING:
    from pruneyard.orchestrator.planning.attempt import PlannedAttempt


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """A bracket of HyperBand.

    shares: where its rungs lie, as shares of a job's steps; the last one is 1.
    size: number of configurations, relative to the sizes of the other brackets.
    """

    shares: tuple[float, ...]
    size: int


def brackets_of(scheduler: Scheduler) -> list[Bracket]:
    """Returns the brackets, the most aggressive one (most configurations, lowest first rung) first.

    With s_max = floor(log_factor(1 / grace)), bracket s has n = ceil((s_max + 1) / (s + 1) * factor**s) configurations.
    """
    factor = scheduler.factor
    # Logarithms of powers may fall below the whole number: math.log(1000, 10) is 2.9999999999999996.
    s_max = math.floor(math.log(1 / scheduler.first, factor) + 1e-9)
    return [
        Bracket(
            shares=tuple(factor**-rung for rung in range(s, -1, -1)),
            size=math.ceil((s_max + 1) / (s + 1) * factor**s - 1e-9),
        )
        for s in range(s_max, -1, -1)
    ]


def assign_brackets(number: int, sizes: Sequence[int]) -> list[int]:
    """Returns the index of the bracket of each of `number` configurations: each goes where most are missing for the size.

    The assignment is stable: a larger `number` does not change the brackets of the first configurations.
    """
    assigned: list[int] = []
    counts = [0] * len(sizes)
    for position in range(number):
        missing = [size * (position + 1) / sum(sizes) - count for size, count in zip(sizes, counts, strict=True)]
        # Rounded, so that equal shortages tie and the first of these brackets is chosen.
        chosen = max(range(len(sizes)), key=lambda index: (round(missing[index], 9), -index))
        counts[chosen] += 1
        assigned.append(chosen)
    return assigned


class Brackets:
    """The state of a study under HyperBand: which configurations are in which bracket, and what was decided at each rung.

    Evaluations are read from the early stopper, `judge`. Entries of the journal are `{"bracket", "rung", "kept", "out", "bar"}`:
    the first run key of each configuration that was kept or eliminated, and the cost of the last one kept.
    """

    def __init__(
        self, scheduler: Scheduler, jobs: Sequence[Job], judge: EarlyStopper, journal: Journal
    ) -> None:
        self._judge, self._journal = judge, journal
        self._brackets = brackets_of(scheduler)
        self._members = judge.configurations(jobs)
        assigned = assign_brackets(len(self._members), [bracket.size for bracket in self._brackets])
        self._configurations: list[list[str]] = [[] for _ in self._brackets]
        for group, number in zip(self._members, assigned, strict=True):
            self._configurations[number].append(group)
        self._lost: set[str] = set()  # run keys of runs that will not train further in this call
        self._recorded: dict[str, float] = {}  # by run key: last share in the tables, of runs that reported more
        self._decided: dict[tuple[int, int], Mapping[str, Any]] = {}
        for entry in journal.lines():
            self._decided[entry["bracket"], entry["rung"]] = entry

    @property
    def metric(self) -> str | None:
        """The metric that decides, as `split/name`."""
        return self._judge.scheduler.metric

    def next_budgets(self, statuses: Mapping[str, Status]) -> dict[str, float]:
        """Returns the share up to which each run trains next: the lowest rung that some runs have yet to reach."""
        found: dict[str, float] = {}
        for number, bracket in enumerate(self._brackets):
            for rung, share in enumerate(bracket.shares):
                runs = [key for group in self._remaining(number, rung) for key in self._members[group]]
                due = [key for key in runs if self._is_due(key, share, statuses)]
                found |= {key: share for key in due if key not in found}
                # No run goes beyond a rung that is not decided.
                if due or (number, rung) not in self._decided:
                    break
        # Rungs of all brackets at the same share run together, the lowest first.
        lowest = min(found.values(), default=1.0)
        return {key: share for key, share in found.items() if share == lowest}

    def mark_lost(self, keys: Sequence[str]) -> None:
        """Marks runs that failed or cannot start: their configurations are judged by their other seeds, if there are any."""
        self._lost.update(keys)

    def mark_recorded(self, num_evaluations: Mapping[str, int]) -> None:
        """Compares reports with the number of evaluations of each run in the tables.

        A run that was killed between its report and its record reported more. It is due again where its record is missing.
        """
        for key in (key for keys in self._members.values() for key in keys):
            shares, num = self._judge.shares(key), num_evaluations.get(key, 0)
            if num < len(shares):
                self._recorded[key] = shares[num - 1] if num else 0.0

    def mark_ran(self, keys: Iterable[str]) -> None:
        """Marks runs whose attempts of this call have ended, and are recorded."""
        for key in keys:
            self._recorded.pop(key, None)

    def decide(self, statuses: Mapping[str, Status]) -> None:
        """Decides every rung that all remaining configurations of its bracket have reached, as far as their runs can."""
        for number, bracket in enumerate(self._brackets):
            for rung, share in enumerate(bracket.shares[:-1]):
                alive = self._remaining(number, rung)
                if (number, rung) in self._decided:
                    continue
                if not alive or any(
                    self._is_due(key, share, statuses) for group in alive for key in self._members[group]
                ):
                    break
                self._decide(number, rung, share, alive)

    def _decide(self, number: int, rung: int, share: float, alive: Sequence[str]) -> None:
        costs = {group: cost for group in alive if (cost := self._cost_at(group, share)) is not None}
        if not costs:
            return
        # The sort is stable: of equal costs, the configuration that was planned first wins.
        ranked = sorted(costs, key=lambda group: costs[group])
        kept = ranked[: max(1, math.floor(len(ranked) / self._judge.scheduler.factor + 1e-9))]
        entry = {
            "bracket": number,
            "rung": rung,
            "kept": [self._members[group][0] for group in kept],
            "out": [self._members[group][0] for group in ranked[len(kept) :]],
            "bar": costs[kept[-1]],
        }
        self._journal.append(entry)
        self._decided[number, rung] = entry

    def eliminated(self) -> set[str]:
        """Returns the run keys of all configurations that were eliminated."""
        eliminated = set().union(*(entry["out"] for entry in self._decided.values()))
        late = {
            keys[0]
            for number, bracket in enumerate(self._brackets)
            for rung, share in enumerate(bracket.shares)
            for group in self._configurations[number]
            if (keys := self._members[group]) and self._is_late_and_worse(group, number, rung, share)
        }
        return {key for keys in self._members.values() if keys[0] in eliminated | late for key in keys}

    def _remaining(self, number: int, rung: int) -> list[str]:
        """Returns the configurations of a bracket that were not eliminated at an earlier rung."""
        alive = list(self._configurations[number])
        for earlier, share in enumerate(self._brackets[number].shares[:rung]):
            entry = self._decided.get((number, earlier))
            out = set(entry["out"]) if entry else set()
            alive = [
                group
                for group in alive
                if self._members[group][0] not in out
                and not self._is_late_and_worse(group, number, earlier, share)
            ]
        return alive

    def _is_late_and_worse(self, group: str, number: int, rung: int, share: float) -> bool:
        """Returns whether a configuration that took no part in a rung's decision is worse than the last one kept.

        It took no part if it had failed by then and ran again later.
        """
        entry = self._decided.get((number, rung))
        if entry is None or self._members[group][0] in (*entry["kept"], *entry["out"]):
            return False
        cost = self._cost_at(group, share)
        return cost is not None and cost > entry["bar"]

    def _cost_at(self, group: str, share: float) -> float | None:
        """Returns the mean cost at a share over the seeds that reached it and can train further; None where there is none."""
        return self._judge.cost_at([key for key in self._members[group] if key not in self._lost], share)

    def _is_due(self, key: str, share: float, statuses: Mapping[str, Status]) -> bool:
        """Returns whether a run has yet to reach a share and can do so."""
        if key in self._lost or _is_final(statuses.get(key)):
            return False
        is_recorded = share <= self._recorded.get(key, 1.0) + TOLERANCE
        # At the end only the status counts: a run may report its last evaluation and crash before its record.
        return share == 1.0 or not (self._judge.has_reached(key, share) and is_recorded)

    def check_reported(self, keys: Sequence[str], share: float) -> None:
        """Raises `UsageError` where runs paused at a share without reporting the scheduler's metric."""
        silent = [key for key in keys if not self._judge.has_reached(key, share)]
        if silent:
            raise UsageError(
                f"scheduler.metric: is {self._judge.scheduler.metric}, which run {silent[0]} does not report, so nothing "
                "can be decided; give a metric that it reports"
            )


def run_hyperband(
    brackets: Brackets,
    ready: Sequence["PlannedAttempt"],
    *,
    unready: Sequence[str],
    folder: RunFolder,
    run: Callable[[Sequence["PlannedAttempt"]], None],
    stopped: Callable[[], bool],
    prune: Callable[[str], None],
) -> None:
    """Runs jobs from rung to rung until no rung is left that they can reach. Eliminated runs become PRUNED.

    A run that pauses at a rung is recorded as INTERRUPTED, like one that was stopped. Each rung is an attempt of its own.

    ready: the attempts that can run.
    unready: keys of runs whose parents did not finish; the brackets do not wait for them.
    run: runs attempts until they end or pause.
    stopped: returns whether the study must stop.
    prune: called with the key of each run that was eliminated.
    """
    store = Store(folder)
    brackets.mark_lost(unready)
    brackets.mark_recorded(_num_evaluations(store, brackets.metric))
    while not stopped():
        found = store.statuses()
        statuses = {key: status for key, (status, _) in found.items()}
        brackets.decide(statuses)
        for key in _prune(
            store, [key for key in brackets.eliminated() if statuses.get(key) is Status.INTERRUPTED]
        ):
            statuses[key] = Status.PRUNED
            prune(key)
        due = brackets.next_budgets(statuses)
        attempts = [
            replace(
                planned,
                # `ready` was planned before the first rung, and each rung adds an attempt.
                attempt=found[planned.job.key][1] + 1 if planned.job.key in found else 1,
                until=due[planned.job.key],
            )
            for planned in ready
            if planned.job.key in due
        ]
        if not attempts:
            return
        run(attempts)
        if stopped():
            return
        after = {key: status for key, (status, _) in store.statuses().items()}
        ran = {planned.job.key: planned.until for planned in attempts}
        brackets.mark_ran(ran)
        paused = [key for key in ran if after.get(key) is Status.INTERRUPTED]
        brackets.check_reported(paused, min(ran.values()))
        # Otherwise these runs would stay due, and the loop would run them again and again.
        brackets.mark_lost([key for key in ran if key not in paused and not _is_final(after.get(key))])


def _num_evaluations(store: Store, metric: str | None) -> dict[str, int]:
    """Returns the number of evaluations of a metric, as `split/name`, in the tables, by run key."""
    split, _, name = (metric or "").partition("/")
    table = store.metrics().select(["run_key", "step", "split", "name"])
    wanted = table.filter((pc.field("split") == split) & (pc.field("name") == name)).select(["run_key", "step"])
    # An attempt that resumes has the evaluations before it too.
    counts = wanted.group_by("run_key").aggregate([("step", "count_distinct")])
    return dict(zip(counts.column("run_key").to_pylist(), counts.column("step_count_distinct").to_pylist(), strict=True))


def _is_final(status: Status | None) -> bool:
    return status is not None and status.is_final


def _prune(store: Store, keys: Sequence[str]) -> Sequence[str]:
    """Records a last attempt without training, with status PRUNED, for each of these paused runs. Returns their keys."""
    rows = {row["run_key"]: row for row in store.runs().to_pylist()}
    now = datetime.now(UTC)
    for key in keys:
        # The attempt that paused keeps its row; the decision to end the run is an attempt of its own.
        values = {**rows[key], "attempt": rows[key]["attempt"] + 1, "status": Status.PRUNED}
        store.write(RunRecord(**{**values, "started_at": now, "ended_at": now, "wall_s": 0.0}), [], [])
    return keys


def load_brackets(scheduler: Scheduler, jobs: Sequence[Job], early_stopper: EarlyStopper, folder: RunFolder) -> Brackets:
    """Returns the brackets of a study with all decisions that this folder's journal holds."""
    journal = Journal(folder.path / "decisions" / f"{scheduler_digest(scheduler)}-rungs.jsonl")
    return Brackets(scheduler, jobs, early_stopper, journal)
