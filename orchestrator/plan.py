"""What of a spec is done and what is left, by run key; planning writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.spec import Job, Spec
from orchestrator.trial import Order
from reports.layout import RunFolder
from reports.records import Status
from reports.store import Store


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The jobs of a spec against what a folder holds. `statuses` has the newest attempt of every run there."""

    spec: Spec
    folder: RunFolder
    statuses: Mapping[str, tuple[Status, int]]

    def status(self, job: Job) -> Status | None:
        """How the newest attempt of a job ended; None where there is none."""
        found = self.statuses.get(job.key)
        return found[0] if found else None

    def orders(self, *, only: frozenset[Status | None] | None = None) -> list[Order]:
        """Every job that is not COMPLETED, as its next attempt; with `only`, those of these statuses."""
        return [
            Order(job=job, attempt=self.statuses[job.key][1] + 1 if job.key in self.statuses else 1)
            for job in self.spec.jobs
            if self.status(job) != Status.COMPLETED and (only is None or self.status(job) in only)
        ]

    def counts(self) -> dict[str, int]:
        """Number of jobs by status; `missing` where none ran."""
        names = [status.value.lower() if (status := self.status(job)) else "missing" for job in self.spec.jobs]
        return {name: names.count(name) for name in ("completed", "failed", "interrupted", "pruned", "missing")}


def make_plan(spec: Spec, folder: RunFolder) -> Plan:
    """Reads the folder's run table; an absent folder has none."""
    return Plan(spec=spec, folder=folder, statuses=Store(folder).statuses())
