"""How runs of a folder ended, and with what, for searches that learn from it."""

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
    """Read once."""

    def __init__(self, folder: RunFolder) -> None:
        store = Store(folder)
        self.statuses = {key: status for key, (status, _) in store.statuses().items()}
        self._rows = {row["run_key"]: row for row in store.runs().select(["run_key", *COLUMNS]).to_pylist()}
        finals = last_values(history(store.metrics()))
        self._finals: dict[str, dict[str, float]] = {}
        for key, measure, value in finals.itertuples(index=False):
            self._finals.setdefault(key, {})[measure] = value

    def values(self, jobs: Sequence[Job], metrics: Sequence[str]) -> list[float] | None:
        """The mean over jobs of each aim; None where one of them has no number to give."""
        if any(self.statuses.get(job.key) != Status.COMPLETED for job in jobs):
            return None
        means = [math.fsum(self._value(job.key, name) for job in jobs) / len(jobs) for name in metrics]
        return means if all(math.isfinite(mean) for mean in means) else None

    def _value(self, key: str, aim: str) -> float:
        if aim in COLUMNS:
            counted = self._rows[key][aim]
            return math.nan if counted is None else float(counted)
        finals = self._finals.get(key, {})
        if aim not in finals:
            listed = ", ".join(sorted(finals)) or "nothing"
            raise UsageError(
                f"search: learns from {aim}, which run {key} does not report; it reports {listed}"
            )
        return finals[aim]
