"""Groups the stages that run together, and makes their attempts ready to run: located inputs, loaded data, no failed input."""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.stage import Stage
from pruneyard.orchestrator.spec.stage_order import referred
from pruneyard.reports.attempt import Attempt
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.reports.store import Store
from pruneyard.workloads.user_code.error_line import error_line

logger = logging.getLogger(__name__)

RunAttempts = Callable[..., None]
"""The type of `run_local` and `run_study`."""


def next_stages(stages: Sequence[Stage]) -> Sequence[Stage]:
    """Returns those of the stages that are left, in their order, that run together now.

    All do, a search or a choice among runs included, but those under `hyperband` and those that depend on one of them: its
    trainings pause until their bracket has arrived. A stage under `hyperband` runs alone, once no other can run before it.
    """
    behind = set[str | None]()
    for stage in stages:
        if stage.header.scheduler.name == "hyperband" or behind.intersection(referred(stage.tables)):
            behind.add(stage.name)
    return [stage for stage in stages if stage.name not in behind] or stages[:1]


def prepared(attempts: Sequence[PlannedAttempt], study_run: StudyRun) -> list[PlannedAttempt]:
    """Returns attempts whose upstream runs are finished in the order in which they run, with located inputs and loaded data.

    Raises `UsageError` for jobs that cannot run.
    """
    located = [with_upstream(planned, study_run.folder) for planned in order_by_parents(attempts)]
    jobs = [planned.job for planned in located]
    # Only now: the data may be a synthetic set that an upstream run has just made.
    load_data(jobs, study_run.plan.spec, into=study_run.data)
    check_jobs(jobs, study_run.data, spec=study_run.plan.spec, warned=study_run.warned)
    complete = [replace(planned, data_read=_data_read(planned, study_run)) for planned in located]
    for planned in complete:
        study_run.data_records.started[planned.job.key] = planned.data_read
    return complete


def fail_dependants(
    attempts: Sequence[PlannedAttempt], study_run: StudyRun, *, failed: Collection[str]
) -> list[PlannedAttempt]:
    """Records every attempt as failed that needs a failed run which does not run again, and returns the others.

    attempts: in the order of the spec, so that failures reach jobs that need other such jobs.
    failed: the run keys of these runs; those of the attempts are left out.
    """
    plan = study_run.plan
    failed = set(failed) - {planned.job.key for planned in attempts}
    if not failed or not any(failed.intersection(planned.job.parents) for planned in attempts):
        return list(attempts)
    own = {job.key: job for job in plan.spec.jobs}
    errors = _error_lines(study_run.folder)
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
        record_failures(doomed, study_run)
        study_run.plan = plan.reread()
    return left


def _error_lines(folder: RunFolder) -> dict[str, str]:
    """Returns the error of every failed run in one line, by run key."""
    runs = Store(folder).runs()
    rows = zip(*(runs.column(name).to_pylist() for name in ("run_key", "status", "error")), strict=True)
    return {key: error_line(error) for key, status, error in rows if status == Status.FAILED.value and error}


def record_failures(failures: Sequence[tuple[PlannedAttempt, str]], study_run: StudyRun) -> None:
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
