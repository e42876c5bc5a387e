"""Takes finished runs of a plan from caches, and adds its finished runs to one."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from pruneyard.orchestrator.artifacts.run_cache import CachedRun, IncompleteRunError, NewerRunError, RunCache
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.planning.data_changes import changes_since
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.durable import write_durably
from pruneyard.reports.formats import plural
from pruneyard.reports.location import Location
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store
from pruneyard.workloads.data.fingerprints import Fingerprints

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Caches:
    """The caches of a study.

    sources: folders in which finished runs are looked up, in this order; `target` is one of them if it is set.
    target: the folder to which the finished runs of the study are added.
    damaged: run keys of entries that were found not to be whole, which are replaced once their jobs have run.
    """

    sources: Sequence[Location] = ()
    target: Location | None = None
    damaged: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, cache: Location | None, cache_from: Sequence[Location]) -> "Caches":
        """Returns the caches that `--cache` and `--cache-from` name. Raises `UsageError` if the first is a results folder."""
        if cache is not None:
            RunCache(cache).check_may_delete()
        return cls(sources=[*([] if cache is None else [cache]), *cache_from], target=cache)

    @cached_property
    def listed(self) -> Sequence[tuple[Location, frozenset[str]]]:
        """Each source with the run keys of its entries, as they are when it is first asked for."""
        return [(path, RunCache(path).run_keys()) for path in self.sources]


def cached_jobs(plan: Plan, caches: Caches) -> list[tuple[Job, Location]]:
    """Returns the jobs that never completed here and that a cache has an entry of, with its folder, parents first.

    Only jobs whose stage decides nothing while it runs: brackets and populations keep a state of their own.
    """
    found = []
    for stage in plan.spec.stages:
        if stage.learning is None and stage.header.scheduler.name != "hyperband":
            missing = [job for job in stage.jobs if not plan.is_finished(job)]
            found += [(job, path) for job in missing for path in [p for p, keys in caches.listed if job.key in keys][:1]]
    return found


def take_from_caches(plan: Plan, caches: Caches) -> Plan:
    """Copies the jobs of the plan that are finished in a cache into its folder; returns the plan with them.

    A run is not taken if one of its files is damaged or if it was computed on other data than there is now, which are warnings,
    or if its input is not finished; the job then runs.
    """
    fingerprints, buffer = Fingerprints({}), WriteBuffer(plan.folder)
    statuses, data_records = dict(plan.statuses), dict(plan.data_records)
    # Both grow below, so that a run is taken after its input was.
    plan = replace(plan, statuses=statuses, data_records=data_records)
    num_before = plan.counts()["completed"]
    for job, path in cached_jobs(plan, caches):
        if not plan.is_ready(job):
            continue
        try:
            run = _next_attempt(plan, job, RunCache(path).read(job.key))
            if run is None:
                caches.damaged.add(job.key)
                continue
            if changes := changes_since(job, run.data_record, plan, fingerprints, folder=path):
                logger.warning("not taken from the cache: %s", "; ".join(changes))
                continue
            _copy(run, plan, buffer)
        except NewerRunError as error:
            logger.warning("not taken from the cache: %s", error)
            continue
        except IncompleteRunError as error:
            logger.warning("not taken from the cache: %s", error)
            caches.damaged.add(job.key)
            continue
        statuses[job.key] = Status.COMPLETED, run.attempt.run.attempt
        data_records[job.key] = run.data_record
    buffer.write()
    if num_taken := plan.counts()["completed"] - num_before:
        logger.warning("%s taken from the cache", plural(num_taken, "finished run"))
    return plan


def _next_attempt(plan: Plan, job: Job, run: CachedRun | None) -> CachedRun | None:
    """Returns a cached run as the next attempt of this plan's job."""
    number = plan.statuses[job.key][1] + 1 if job.key in plan.statuses else 1
    return None if run is None else run.as_attempt(number, study=plan.spec.name, stage=job.stage)


def _copy(run: CachedRun, plan: Plan, buffer: WriteBuffer) -> None:
    """Writes files and rows, at once where the run has files already: those of an earlier attempt stay."""
    files, attempt = run.files(), run.attempt
    artifact = plan.folder.artifact(attempt.run.run_key)
    if not artifact.is_dir() and not any("/" in name for name in files):
        buffer.add(attempt, files)
        return
    for name, content in files.items():
        write_durably(artifact / name, content)
    Store(plan.folder).write(attempt.run, attempt.metrics, attempt.curves)


def add_to_cache(plan: Plan, caches: Caches) -> None:
    """Adds the completed runs of a plan to the target of the caches. What cannot be added is a warning: the results are there."""
    if caches.target is None:
        return
    target = RunCache(caches.target)
    # Entries that are there are read only when they are used.
    known = target.run_keys() - caches.damaged
    new = [job.key for job in plan.spec.jobs if plan.status(job) is Status.COMPLETED and job.key not in known]
    try:
        if new:
            target.mark()
        for key in new:
            _add(target, key, plan)
    except StorageError as error:
        logger.warning("no more runs are added to the cache: %s", error)


def _add(target: RunCache, run_key: str, plan: Plan) -> None:
    try:
        target.add(run_key, plan.folder)
    except IncompleteRunError as error:
        logger.warning("not added to the cache: %s", error)
