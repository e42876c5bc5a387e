"""Compares the jobs of a spec with the runs of a folder, by run key. Planning writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.search.proposals import with_proposed_jobs
from pruneyard.orchestrator.spec.job import Job, Resources
from pruneyard.orchestrator.spec.load import Spec
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The jobs of a spec and the runs of a folder.

    statuses: status and number of the newest attempt of every run.
    data_records: the data that each run was computed on; see `Store.data_records`.
    """

    spec: Spec
    folder: RunFolder
    statuses: Mapping[str, tuple[Status, int]]
    data_records: Mapping[str, Mapping[str, str]]

    def status(self, job: Job) -> Status | None:
        """Returns the status of the newest attempt of a job; None where the job never ran."""
        found = self.statuses.get(job.key)
        return found[0] if found else None

    def is_finished(self, job: Job) -> bool:
        """Returns whether the newest attempt of a job is COMPLETED or PRUNED."""
        status = self.status(job)
        return status is not None and status.is_final

    def attempts(
        self, jobs: Sequence[Job] | None = None, *, only: frozenset[Status | None] | None = None
    ) -> list[PlannedAttempt]:
        """Returns the next attempt of every job that is not finished; with `only`, of every job with one of these statuses."""
        return [
            PlannedAttempt(
                job=job,
                attempt=self.statuses[job.key][1] + 1 if job.key in self.statuses else 1,
                resources=self._resources[job.stage],
            )
            for job in (self.spec.jobs if jobs is None else jobs)
            # A completed job never runs again, whatever `only` names.
            if (not self.is_finished(job) if only is None else self.status(job) in only - {Status.COMPLETED})
        ]

    def is_ready(self, job: Job) -> bool:
        """Returns whether all parents of the job are COMPLETED.

        Parents in other folders are not looked up: a spec can only refer to runs there that are COMPLETED.
        """
        return not self.unfinished_parents(job)

    def unfinished_parents(self, job: Job) -> frozenset[str]:
        """Returns the run keys of those parents of the job in this study that are not COMPLETED."""
        own = (run for run in job.parents if run in self._own_keys)
        return frozenset(run for run in own if self.statuses.get(run, (None,))[0] != Status.COMPLETED)

    @cached_property
    def _own_keys(self) -> frozenset[str]:
        return frozenset(job.key for job in self.spec.jobs)

    @cached_property
    def _resources(self) -> Mapping[str | None, Resources]:
        return {stage.name: stage.header.resources for stage in self.spec.stages}

    def reread(self) -> "Plan":
        """Returns the plan of the same jobs and of what searches have proposed by now, against what the folder holds by now."""
        return make_plan(self.spec, self.folder)

    def with_proposals(self) -> "Plan":
        """Returns the plan with the jobs that searches have proposed by now. The statuses stay: nothing ran in between."""
        return replace(self, spec=with_proposed_jobs(self.spec, self.folder))

    def counts(self, jobs: Sequence[Job] | None = None) -> dict[str, int]:
        """Returns the number of these jobs, by default of all, by status; `missing` counts the jobs that never ran."""
        counted = self.spec.jobs if jobs is None else jobs
        names = [status.value.lower() if (status := self.status(job)) else "missing" for job in counted]
        return {name: names.count(name) for name in ("completed", "failed", "interrupted", "pruned", "missing")}


def make_plan(spec: Spec, folder: RunFolder) -> Plan:
    """Returns the plan of a spec in a folder, read from its run table and its searches. An absent folder counts as empty."""
    store = Store(folder)
    return Plan(
        spec=with_proposed_jobs(spec, folder), folder=folder, statuses=store.statuses(), data_records=store.data_records()
    )
