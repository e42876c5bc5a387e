"""Chooses among finished runs by a metric: the key `best` of a reference.

What is chosen are settings: runs that differ only in their seed, or in the seeds of their parents, are one setting, which is
judged by the mean over its runs. All runs of the best setting are kept.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pruneyard.orchestrator.spec.codec import short_json
from pruneyard.orchestrator.spec.direction import chosen_direction
from pruneyard.orchestrator.spec.referenced_run import AnyRun, Run
from pruneyard.orchestrator.spec.run_key import canonical
from pruneyard.orchestrator.spec.scheduler import check_metric
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import history, last_values

_ENDED = (Status.COMPLETED, Status.FAILED, Status.PRUNED)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The key `best` of a reference; its metric alone is short for a table.

    metric: `split/name` of a split that is not `test`; its last value counts.
    mode: `max` or `min`; left out, the direction of the metric, which must be a known one.
    per: dotted keys of the runs' specs; the best setting is kept for each combination of their values.
    """

    metric: str
    mode: Literal["max", "min"] | None = None
    per: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_metric(self.metric, field="metric")
        _ = self.direction

    @classmethod
    def keys_of(cls, given: object) -> tuple[str, ...]:
        """Returns the dotted keys of `per` of a valid `best` as it is written in a spec; none for a metric alone."""
        per = given.get("per", ()) if isinstance(given, dict) else ()
        return (per,) if isinstance(per, str) else tuple(per)

    @property
    def direction(self) -> Literal["max", "min"]:
        """Returns whether the largest or the smallest value is the best."""
        return chosen_direction(self.metric, self.mode, field="mode")

    @property
    def keys(self) -> tuple[str, ...]:
        """Returns the dotted keys of `per`."""
        return self.keys_of({"per": self.per})


class RunResults:
    """The statuses and the last values of all runs of a folder, read once on construction."""

    def __init__(self, folder: RunFolder) -> None:
        store = Store(folder)
        self._statuses = {key: status for key, (status, _) in store.statuses().items()}
        self._values: dict[str, dict[str, float]] = {}
        for key, measure, value in last_values(history(store.metrics())).itertuples(index=False):
            self._values.setdefault(key, {})[measure] = value

    def num_pending(self, runs: Sequence[Run]) -> int:
        """Returns how many of the runs have not ended."""
        return sum(self._statuses.get(run.run_key) not in _ENDED for run in runs)

    def mean(self, runs: Sequence[Run], metric: str) -> float | None:
        """Returns the mean of the last values; None where a run is not COMPLETED or the mean is not finite.

        Raises `ValueError` where a completed run does not report the metric.
        """
        if any(self._statuses.get(run.run_key) != Status.COMPLETED for run in runs):
            return None
        for run in runs:
            if metric not in self._values.get(run.run_key, {}):
                listed = ", ".join(sorted(self._values.get(run.run_key, {}))) or "nothing"
                raise ValueError(f"chooses by {metric}, which run {run.run_key} does not report; it reports {listed}")
        # `fsum` is exact, so the order of the runs cannot change the mean, nor the choice.
        mean = math.fsum(self._values[run.run_key][metric] for run in runs) / len(runs)
        return mean if math.isfinite(mean) else None


def best_runs(runs: Sequence[AnyRun], best: Best, results: RunResults, values: Sequence[tuple[Any, ...]]) -> list[AnyRun]:
    """Returns the runs of the best setting for each combination of values, in the order of `runs`.

    values: what each run has at the keys of `best.per`. A setting is left out if one of its runs failed, was stopped early, or
    has no finite value; of equal settings the first one is kept. Raises `ValueError` where a run does not report the metric, and
    where no setting is left.
    """
    groups: dict[str, dict[str, list[AnyRun]]] = {}
    for run, group in zip(runs, values, strict=True):
        setting = canonical([run.kind, {name: value for name, value in run.identity.items() if name != "seed"}])
        groups.setdefault(short_json(list(group)), {}).setdefault(setting, []).append(run)
    kept: set[str] = set()
    sign = 1 if best.direction == "max" else -1
    for settings in groups.values():
        means = {name: results.mean(members, best.metric) for name, members in settings.items()}
        known = {name: sign * mean for name, mean in means.items() if mean is not None}
        if known:
            kept.update(run.run_key for run in settings[max(known, key=lambda name: known[name])])
    if not kept:
        raise ValueError(f"chooses by {best.metric}, but no setting has a finite mean over runs that are all completed")
    return [run for run in runs if run.run_key in kept]
