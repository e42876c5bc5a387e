"""Estimates how long the running call still takes, from the pace of each stage since its first report."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

MIN_ENDED = 2  # trials; before that a pace says more about the start of processes than about trainings
MIN_SHARE = 0.1  # of the work of a call that has no more trials than that
UNKNOWN_COST = 1.0


@dataclass
class _Stage:
    """The jobs of one stage, by run key: their expected costs, and the share of each that is done.

    first_at, last_at: when the first and the newest report came. The time before the first one is that of the start.
    credited: work that was done by then; it does not count for the pace.
    starting: jobs that began before the first report, and have not reported yet.
    """

    costs: dict[str, float] = field(default_factory=dict)
    weighed: set[str] = field(default_factory=set)
    shares: dict[str, float] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    first_at: float | None = None
    last_at: float = 0.0
    credited: float = 0.0
    starting: set[str] = field(default_factory=set)

    @property
    def done(self) -> float:
        return sum(self.costs[key] * share for key, share in self.shares.items())

    @property
    def left(self) -> float:
        return max(0.0, sum(self.costs.values()) - self.done)

    @property
    def is_unknown(self) -> bool:
        """Returns whether neither a pace nor a cost tells how long the stage takes."""
        return self.first_at is None and not self.weighed

    def pace(self, now: float) -> float:
        """Returns the work per second since the first report; 0 where nothing can be said."""
        # The time since a stage has ended is that of the next one.
        until = now if self.left else self.last_at
        if self.first_at is None or until <= self.first_at:
            return 0.0
        return max(0.0, self.done - self.credited) / (until - self.first_at)


class TimeLeft:
    """The work of a call: what is done, and how long the rest takes at the pace so far.

    A stage that has a pace of its own is judged by it. One that has not begun is judged by the pace of the stages before it, in
    units of the expected costs. `num_unproposed` jobs, which a search has yet to propose, count as its mean job. Times are those
    of a monotonic clock, in seconds.
    """

    def __init__(self) -> None:
        self._stages: dict[str | None, _Stage] = {}
        self._stage_of: dict[str, str | None] = {}
        self.num_unproposed = 0

    def expect(self, key: str, stage: str | None) -> None:
        """Adds a job, or returns one that has ended to the jobs to run."""
        found = self._stages.setdefault(stage, _Stage())
        self._stage_of[key] = stage
        found.costs.setdefault(key, UNKNOWN_COST)
        if key in found.ended:
            found.ended.discard(key)
            found.shares.pop(key, None)

    def weigh(self, costs: Mapping[str, float]) -> None:
        """Sets the expected costs of jobs, in seconds; a cost of 0 says nothing."""
        for key, cost in costs.items():
            if cost > 0:
                stage = self._stage(key)
                stage.costs[key] = cost
                stage.weighed.add(key)

    def is_weighed(self, key: str) -> bool:
        """Returns whether the expected cost of a job is known."""
        return key in self._stage(key).weighed

    def start(self, key: str) -> None:
        """Records that a job begins."""
        stage = self._stage(key)
        if stage.first_at is None:
            stage.starting.add(key)

    def report(self, key: str, share: float, *, now: float | None = None) -> None:
        """Records that a share of a job is done."""
        stage = self._stage(key)
        stage.last_at = time.monotonic() if now is None else now
        stage.first_at = stage.last_at if stage.first_at is None else stage.first_at
        if key in stage.starting:
            stage.starting.discard(key)
            stage.credited += stage.costs[key] * share
        stage.shares[key] = share

    def end(self, key: str, *, now: float | None = None) -> None:
        """Records that a job has ended, however it did."""
        self.report(key, 1.0, now=now)
        self._stage(key).ended.add(key)

    @property
    def is_lower_bound(self) -> bool:
        """Returns whether a stage is to come of which nothing is known."""
        return any(stage.is_unknown for stage in self._stages.values())

    def seconds(self, *, now: float | None = None) -> float | None:
        """Returns the estimate; None as long as too little has ended."""
        now = time.monotonic() if now is None else now
        stages = list(self._stages.values())
        if not _is_enough(stages):
            return None
        paces = {place: pace for place, stage in enumerate(stages) if (pace := stage.pace(now)) > 0}
        if not paces:
            return None
        mean = sum(paces.values()) / len(paces)
        costs = [cost for stage in stages for cost in stage.costs.values()]
        unproposed = self.num_unproposed * sum(costs) / len(costs)
        return unproposed / mean + sum(stage.left / paces.get(place, mean) for place, stage in enumerate(stages))

    def _stage(self, key: str) -> _Stage:
        return self._stages[self._stage_of[key]]


def _is_enough(stages: Sequence[_Stage]) -> bool:
    """Returns whether enough has ended to tell a pace: two trials, or a tenth of the work of a call that has no more."""
    if _count(stage.costs for stage in stages) > MIN_ENDED:
        return _count(stage.ended for stage in stages) >= MIN_ENDED
    work = sum(sum(stage.costs.values()) for stage in stages)
    return work > 0 and sum(stage.done for stage in stages) >= MIN_SHARE * work


def _count(groups: Iterable[Mapping[str, float] | set[str]]) -> int:
    return sum(map(len, groups))
