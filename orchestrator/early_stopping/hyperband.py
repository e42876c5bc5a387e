"""HyperBand: which configurations go on to which share of their steps, and which of them are out.

Configurations are dealt to brackets by their place in the plan. A bracket begins with many that train little, or with few
that train long; at each of its rungs all of them come together, and the best 1 / reduction_factor go on from their
checkpoints. Rungs of all brackets that lie at one share are climbed together, the lowest first, so no decision rests on which
training was faster or on how many ran at once, and none waits for a place. What was decided is written down.

Reference: L. Li et al., "Hyperband: A Novel Bandit-Based Approach to Hyperparameter Optimization", JMLR 18, 2018, algorithm 1.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pruneyard.orchestrator.errors import UsageError
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import RunRecord, Status
from pruneyard.reports.store import Store

if TYPE_CHECKING:
    from pruneyard.orchestrator.coordination.journal import Journal
    from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper, scheduler_digest
    from pruneyard.orchestrator.planning.attempt import PlannedAttempt
    from pruneyard.orchestrator.spec.job import Job
    from pruneyard.orchestrator.spec.scheduler import Scheduler
from typing import TYPE_CHECKING

from pruneyard.orchestrator.coordination.journal import Journal

if TYPE_CHECKING:
    from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper, scheduler_digest
from pruneyard.orchestrator.spec.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """shares: of its rungs, the last one 1. size: configurations in it, in proportion to those of the others."""

    shares: tuple[float, ...]
    size: int


def brackets_of(scheduler: "Scheduler") -> list[Bracket]:
    """The most hasty one first: with s_max = floor(log(1 / grace)), bracket s has n = ceil((s_max + 1) / (s + 1) * factor**s)."""
    factor = scheduler.factor
    most = math.floor(math.log(1 / scheduler.first, factor) + 1e-9)
    return [
        Bracket(
            shares=tuple(factor**-rung for rung in range(s, -1, -1)),
            size=math.ceil((most + 1) / (s + 1) * factor**s - 1e-9),
        )
        for s in range(most, -1, -1)
    ]


def assign_brackets(number: int, sizes: Sequence[int]) -> list[int]:
    """The bracket of each of so many configurations: at any time the one that lags behind its size the most.

    More configurations leave those before them where they were.
    """
    found: list[int] = []
    held = [0] * len(sizes)
    for place in range(number):
        due = [size * (place + 1) / sum(sizes) - have for size, have in zip(sizes, held, strict=True)]
        chosen = max(range(len(sizes)), key=lambda index: (round(due[index], 9), -index))
        held[chosen] += 1
        found.append(chosen)
    return found


class Brackets:
    """Where the configurations of a study stand; the judge hears their evaluations.

    Entries of the journal are `{"bracket", "rung", "kept", "out", "bar"}`: one run key of each configuration, and the cost of
    the last one kept.
    """

    def __init__(
        self, scheduler: "Scheduler", jobs: Sequence["Job"], judge: "EarlyStopper", journal: "Journal"
    ) -> None:
        self._judge, self._journal = judge, journal
        self._brackets = brackets_of(scheduler)
        self._members = judge.configurations(jobs)
        places = assign_brackets(len(self._members), [bracket.size for bracket in self._brackets])
        self._in: list[list[str]] = [[] for _ in self._brackets]
        for group, place in zip(self._members, places, strict=True):
            self._in[place].append(group)
        self._lost: set[str] = set()  # runs that will not come further in this call
        self._decided: dict[tuple[int, int], Mapping[str, Any]] = {}
        for entry in journal.lines():
            self._decided[entry["bracket"], entry["rung"]] = entry

    def next_budgets(self, statuses: Mapping[str, Status]) -> dict[str, float]:
        """The share up to which each run is to be trained now: those of the lowest rung that some have yet to reach."""
        found: dict[str, float] = {}
        for number, bracket in enumerate(self._brackets):
            for rung, share in enumerate(bracket.shares):
                runs = [key for group in self._alive(number, rung) for key in self._members[group]]
                waiting = [key for key in runs if self._waits(key, share, statuses)]
                found |= {key: share for key in waiting if key not in found}
                if waiting or (number, rung) not in self._decided:
                    break
        lowest = min(found.values(), default=1.0)
        return {key: share for key, share in found.items() if share == lowest}

    def lose(self, keys: Sequence[str]) -> None:
        """Runs that failed or cannot start: their configurations are judged by the others' means, if there are any."""
        self._lost.update(keys)

    def decide(self, statuses: Mapping[str, Status]) -> None:
        """Who goes on, at every rung to which all of its bracket that can have come."""
        for number, bracket in enumerate(self._brackets):
            for rung, share in enumerate(bracket.shares[:-1]):
                alive = self._alive(number, rung)
                if (number, rung) in self._decided:
                    continue
                if not alive or any(
                    self._waits(key, share, statuses) for group in alive for key in self._members[group]
                ):
                    break
                self._decide(number, rung, share, alive)

    def _decide(self, number: int, rung: int, share: float, alive: Sequence[str]) -> None:
        costs = {group: cost for group in alive if (cost := self._cost_at(group, share)) is not None}
        if not costs:
            return
        ranked = sorted(
            costs, key=lambda group: costs[group]
        )  # stable: of equals the one that was planned first
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
        """Runs of the configurations that do not go on."""
        gone = set().union(*(entry["out"] for entry in self._decided.values()))
        late = {
            keys[0]
            for number, bracket in enumerate(self._brackets)
            for rung, share in enumerate(bracket.shares)
            for group in self._in[number]
            if (keys := self._members[group]) and self._is_late_and_worse(group, number, rung, share)
        }
        return {key for keys in self._members.values() if keys[0] in gone | late for key in keys}

    def _alive(self, number: int, rung: int) -> list[str]:
        """Configurations of a bracket that were not put out at an earlier rung."""
        alive = list(self._in[number])
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
        """Of a configuration that had failed when the others were judged: whether it is worse than the last one kept."""
        entry = self._decided.get((number, rung))
        if entry is None or self._members[group][0] in (*entry["kept"], *entry["out"]):
            return False
        cost = self._cost_at(group, share)
        return cost is not None and cost > entry["bar"]

    def _cost_at(self, group: str, share: float) -> float | None:
        """The mean over those seeds that came so far and can go on."""
        return self._judge.cost_at([key for key in self._members[group] if key not in self._lost], share)

    def _waits(self, key: str, share: float, statuses: Mapping[str, Status]) -> bool:
        """Whether a run has yet to come to a share, and can."""
        if key in self._lost or _is_final(statuses.get(key)):
            return False
        return share == 1.0 or not self._judge.has_come(key, share)

    def check_heard(self, keys: Sequence[str], share: float) -> None:
        """Raises `UsageError` where runs paused at a share and did not report what they are judged by."""
        unheard = [key for key in keys if not self._judge.has_come(key, share)]
        if unheard:
            raise UsageError(
                f"scheduler.metric: is {self._judge.scheduler.metric}, which run {unheard[0]} does not report, so nothing "
                "can be decided; give one that it does"
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
    """Runs these jobs from rung to rung, until nothing is due that can be run. Runs that are out become PRUNED.

    unready: keys of runs that rest on others which did not finish; nobody waits for them.

    A run that pauses is INTERRUPTED, as one that was stopped is: each rung that it climbs is an attempt of its own.
    """
    store = Store(folder)
    brackets.lose(unready)
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
        orders = [
            replace(
                order,
                attempt=found[order.job.key][1] + 1 if order.job.key in found else 1,
                until=due[order.job.key],
            )
            for order in ready
            if order.job.key in due
        ]
        if not orders:
            return
        run(orders)
        if stopped():
            return
        after = {key: status for key, (status, _) in store.statuses().items()}
        ran = {order.job.key: order.until for order in orders}
        paused = [key for key in ran if after.get(key) is Status.INTERRUPTED]
        brackets.check_heard(paused, min(ran.values()))
        brackets.lose([key for key in ran if key not in paused and not _is_final(after.get(key))])


def _is_final(status: Status | None) -> bool:
    return status is not None and status.is_final


def _prune(store: Store, keys: Sequence[str]) -> Sequence[str]:
    """Gives each of these runs, which have paused, a last attempt without training, in which it was PRUNED."""
    rows = {row["run_key"]: row for row in store.runs().to_pylist()}
    now = datetime.now(UTC)
    for key in keys:
        told = {**rows[key], "attempt": rows[key]["attempt"] + 1, "status": Status.PRUNED}
        store.write(RunRecord(**{**told, "started_at": now, "ended_at": now, "wall_s": 0.0}), [], [])
    return keys


def load_brackets(scheduler: Scheduler, jobs: Sequence["Job"], heard: EarlyStopper, folder: RunFolder) -> Brackets:
    """Those of hyperband, which remember who went on."""
    return Brackets(scheduler, jobs, heard, Journal(folder.path / "decisions" / f"{scheduler_digest(scheduler)}-rungs.jsonl"))
