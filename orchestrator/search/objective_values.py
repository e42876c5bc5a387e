"""Reads the statuses and objective values of the runs in a folder, for searches that learn from results."""

import math
from collections.abc import Sequence

from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.search import COLUMNS
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.reports.summary import history, last_values

EVALUATED = (Status.COMPLETED, Status.FAILED, Status.PRUNED)
"""Statuses of runs whose result a search takes as known: a FAILED run counts as a failed proposal and is not waited for."""


class ObjectiveValues:
    """The final objective values of all runs of a folder, read once on construction."""

    def __init__(self, folder: RunFolder) -> None:
        store = Store(folder)
        self.statuses = {key: status for key, (status, _) in store.statuses().items()}
        self._rows = {row["run_key"]: row for row in store.runs().select(["run_key", *COLUMNS]).to_pylist()}
        final_values = last_values(history(store.metrics()))
        self._final_values: dict[str, dict[str, float]] = {}
        for key, measure, value in final_values.itertuples(index=False):
            self._final_values.setdefault(key, {})[measure] = value

    def values(self, jobs: Sequence[Job], metrics: Sequence[str]) -> list[float] | None:
        """Returns the mean over the jobs of each metric; None where a job is not COMPLETED or a mean is not finite."""
        if any(self.statuses.get(job.key) != Status.COMPLETED for job in jobs):
            return None
        # `fsum` is exact, so the order of the jobs cannot change the mean, nor a proposal that depends on it.
        means = [math.fsum(self._value(job.key, name) for job in jobs) / len(jobs) for name in metrics]
        return means if all(math.isfinite(mean) for mean in means) else None

    def _value(self, key: str, metric: str) -> float:
        if metric in COLUMNS:
            counted = self._rows[key][metric]
            return math.nan if counted is None else float(counted)
        values = self._final_values.get(key, {})
        if metric not in values:
            listed = ", ".join(sorted(values)) or "nothing"
            raise UsageError(
                f"search: learns from {metric}, which run {key} does not report; it reports {listed}"
            )
        return values[metric]
