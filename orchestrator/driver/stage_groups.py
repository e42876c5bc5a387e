"""Runs stages together, so that a job starts as soon as its own inputs are finished."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.retries import attempts_to_retry
from pruneyard.orchestrator.early_stopping.asha_median import load_early_stopper
from pruneyard.orchestrator.errors import UsageError
from pruneyard.orchestrator.execution.later_jobs import LaterJobs
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.stage import Stage
from pruneyard.reports.attempt import Attempt
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)

RunAttempts = Callable[..., Mapping[str, str]]
"""The type of `run_local` and `run_study`, which return the errors of crashed processes by run key."""


def stages_together(stages: Sequence[Stage], first: int) -> Sequence[Stage]:
    """Returns the stages that run together, from the one at index `first` on.

    Only stages of a grid do, without early stopping: a search, a scheduler or a choice decides by the runs of whole stages. Their
    trials request the same resources.
    """
    group = [stages[first]]
    for stage in stages[first + 1 :]:
        if not all(map(_decides_nothing, (group[0], stage))) or stage.header.resources != group[0].header.resources:
            break
        group.append(stage)
    return group


def _decides_nothing(stage: Stage) -> bool:
    return stage.learning is None and not stage.waits_for and stage.header.scheduler.name == "fifo"


def run_together(
    stages: Sequence[Stage], study_run: StudyRun, *, only: frozenset[Status | None] | None, run_attempts: RunAttempts
) -> None:
    """Runs the jobs of several stages that are not finished, each as soon as its upstream runs are; crashed ones are retried."""
    jobs = list({job.key: job for stage in stages for job in stage.jobs}.values())
    resources = stages[0].header.resources
    left = study_run.plan.attempts(jobs, only=only)
    num_crashes: dict[str, int] = {}
    early_stopper = load_early_stopper(Scheduler(), jobs, study_run.folder)  # which stops none
    while not study_run.stop.requested:
        left, plan = fail_dependants(left, study_run), study_run.plan
        ready = [planned for planned in left if plan.is_ready(planned.job)]
        if not ready:
            break
        ready = prepared(ready, study_run)
        waiting = [(planned, runs) for planned in left if (runs := plan.unfinished_parents(planned.job))]
        later = LaterJobs(waiting, prepare=lambda attempts: _prepared_later(attempts, study_run))
        study_run.monitor.expect([*ready, *(planned for planned, _ in waiting)])
        crashes = run_attempts(ready, later=later, early_stopper=early_stopper, **study_run.backend_arguments(resources))
        started = [*ready, *later.started]
        retries = attempts_to_retry(started, crashes, num_crashes, study_run, num_workers=resources.workers)
        study_run.plan = study_run.plan.reread()
        known = {planned.job.key for planned in started}
        unstarted = [p for p, _ in waiting if p.job.key not in known and study_run.plan.status(p.job) is not Status.FAILED]
        left = [*retries, *unstarted]
    if left and not study_run.stop.requested:
        logger.warning("%d jobs wait for runs that did not finish", len(left))


def prepared(attempts: Sequence[PlannedAttempt], study_run: StudyRun) -> list[PlannedAttempt]:
    """Returns attempts whose upstream runs are finished in the order in which they run, with located inputs and loaded data.

    Raises `UsageError` for jobs that cannot run.
    """
    located = [with_upstream(planned, study_run.folder) for planned in order_by_parents(attempts)]
    jobs = [planned.job for planned in located]
    # Only now: the data may be a synthetic set that an upstream run has just made.
    load_data(jobs, into=study_run.data)
    check_jobs(jobs, study_run.data, origin=study_run.plan.spec.name, warned=study_run.warned)
    complete = [replace(planned, data_read=_data_read(planned, study_run)) for planned in located]
    for planned in complete:
        study_run.data_records.started[planned.job.key] = planned.data_read
    return complete


def _prepared_later(attempts: Sequence[PlannedAttempt], study_run: StudyRun) -> list[PlannedAttempt]:
    """Returns as `prepared` does; a job that cannot run fails alone, since others are running."""
    ready: list[PlannedAttempt] = []
    for planned in attempts:
        try:
            ready += prepared([planned], study_run)
        except UsageError as error:
            _record_failures([(planned, str(error))], study_run)
    return ready


def fail_dependants(attempts: Sequence[PlannedAttempt], study_run: StudyRun) -> list[PlannedAttempt]:
    """Records every attempt as failed that needs a failed run which does not run again, and returns the others.

    attempts: in the order of the spec, so that failures reach jobs that need other such jobs.
    """
    plan = study_run.plan
    own = {job.key: job for job in plan.spec.jobs}
    failed = {job.key for job in plan.spec.jobs if plan.status(job) is Status.FAILED} - {p.job.key for p in attempts}
    if not failed:
        return list(attempts)
    errors = _last_lines(study_run.folder)
    left, doomed = list[PlannedAttempt](), list[tuple[PlannedAttempt, str]]()
    for planned in attempts:
        run = next((run for run in planned.job.parents if run in failed), None)
        if run is None:
            left.append(planned)
            continue
        errors[planned.job.key] = f"its input {run} of stage {own[run].stage} failed: {errors.get(run, 'unknown')}"
        failed.add(planned.job.key)
        doomed.append((planned, errors[planned.job.key]))
    if doomed:
        study_run.monitor.expect([planned for planned, _ in doomed])
        _record_failures(doomed, study_run)
        study_run.plan = plan.reread()
    return left


def _last_lines(folder: RunFolder) -> dict[str, str]:
    """Returns the last line of the error of every failed run, by run key."""
    runs = Store(folder).runs()
    rows = zip(*(runs.column(name).to_pylist() for name in ("run_key", "status", "error")), strict=True)
    return {key: error.strip().splitlines()[-1] for key, status, error in rows if status == Status.FAILED.value and error}


def _record_failures(failures: Sequence[tuple[PlannedAttempt, str]], study_run: StudyRun) -> None:
    """Writes a record for each attempt that cannot start, with the reason."""
    buffer, now = WriteBuffer(study_run.folder), datetime.now(UTC)
    for planned, error in failures:
        record = make_record(
            planned,
            study=study_run.plan.spec.name,
            status=Status.FAILED,
            started_at=now,
            wall_s=0.0,
            device="unknown",
            num_workers=1,
            error=error,
        )
        buffer.add(Attempt(run=record, metrics=[], curves=[]), {})
    buffer.write()
    for planned, error in failures:
        study_run.mark_failed(planned.job.key, error)


def with_upstream(planned: PlannedAttempt, folder: RunFolder) -> PlannedAttempt:
    """Returns the attempt with the locations of the artifacts of its upstream runs."""
    workload = locate_upstream(planned.job.workload, RunFolder(folder.path.resolve()))
    return replace(planned, job=replace(planned.job, workload=workload))


def _data_read(planned: PlannedAttempt, study_run: StudyRun) -> dict[str, str]:
    return study_run.data_records.of_job(planned.job, study_run.plan, study_run.fingerprints)
