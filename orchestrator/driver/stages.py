"""Runs the jobs of a spec: those of most stages in one pool, those under `hyperband` stage by stage."""

import logging
from collections.abc import Sequence
from functools import partial

from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.job_pool import JobPool, run_with_retries
from pruneyard.orchestrator.driver.stage_groups import (
    RunAttempts,
    fail_dependants,
    next_stages,
    prepared,
    with_upstream,
)
from pruneyard.orchestrator.early_stopping.asha_median import load_early_stopper
from pruneyard.orchestrator.early_stopping.hyperband import load_brackets, run_hyperband
from pruneyard.orchestrator.errors import SpecError
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.data_changes import check_data_unchanged
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.planning.planned_parents import missing_artifacts, parent_problems
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.spec.stage import Stage
from pruneyard.reports.records import Status
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.fingerprints import Fingerprints

logger = logging.getLogger(__name__)


def run_stages(study_run: StudyRun, *, only: frozenset[Status | None] | None, run_attempts: RunAttempts) -> None:
    """Runs all stages together, except that one under `hyperband` keeps those waiting that depend on it."""
    left = [stage.name for stage in study_run.plan.spec.stages]
    while left and not study_run.stop.requested:
        # Anew each time: choices among runs have been made since.
        stages = next_stages([stage for stage in study_run.plan.spec.stages if stage.name in left])
        left = [name for name in left if name not in {stage.name for stage in stages}]
        resumes_pruned = only is not None and Status.PRUNED in only  # then nothing may be stopped early again
        if stages[0].header.scheduler.name == "hyperband" and not resumes_pruned:
            _run_brackets(stages[0], study_run, only=only, run_attempts=run_attempts)
        else:
            JobPool(stages, study_run, only=only).run_all(run_attempts)


def _run_brackets(
    stage: Stage, study_run: StudyRun, *, only: frozenset[Status | None] | None, run_attempts: RunAttempts
) -> None:
    """Runs those jobs of a stage under `hyperband` that are not finished and whose upstream runs are."""
    if stage.waits_for:
        logger.warning("stage %s has no jobs yet: %s", stage.name, stage.waits_for)
        return
    attempts = study_run.plan.attempts(stage.jobs, only=only)
    study_run.monitor.expect(attempts)
    failed = {job.key for job in study_run.plan.spec.jobs if study_run.plan.status(job) is Status.FAILED}
    left = fail_dependants(attempts, study_run, failed=failed)
    plan = study_run.plan
    ready = [planned for planned in left if plan.is_ready(planned.job)]
    if waiting := len(left) - len(ready):
        logger.warning("%d jobs of stage %s wait for runs that did not finish", waiting, stage.name)
    ready = prepared(ready, study_run)
    scheduler = stage.header.scheduler
    early_stopper = load_early_stopper(scheduler, stage.jobs, study_run.folder)
    # Jobs that failed before run again now, so they count again.
    early_stopper.include(planned.job.key for planned in ready)
    run_hyperband(
        load_brackets(scheduler, stage.jobs, early_stopper, study_run.folder),
        ready,
        unready=[planned.job.key for planned in attempts if not plan.is_ready(planned.job)],
        folder=study_run.folder,
        run=partial(run_with_retries, study_run=study_run, run_attempts=run_attempts, early_stopper=early_stopper),
        stopped=lambda: study_run.stop.requested,
        prune=partial(study_run.monitor.end, status=Status.PRUNED),
    )


def check_ready_jobs(
    attempts: Sequence[PlannedAttempt], plan: Plan, *, warned: set[str]
) -> dict[Source, Dataset]:
    """Checks every job whose upstream runs are finished, and loads the data of the others if it depends on no run.

    Returns the loaded data sets; adds the warnings that were logged to `warned`. Raises `UsageError` for jobs that cannot run.
    """
    ready = [with_upstream(planned, plan.folder).job for planned in attempts if plan.is_ready(planned.job)]
    if problems := missing_artifacts(ready, plan.folder):
        raise SpecError(plan.spec.origin, problems)
    data = load_data(ready, plan.spec)
    check_data_unchanged(plan, Fingerprints(data))
    check_jobs(ready, data, spec=plan.spec, warned=warned)
    waiting = [planned.job for planned in attempts if not plan.is_ready(planned.job)]
    load_data(waiting, plan.spec, into=data, with_parents=False)
    jobs = [planned.job for planned in attempts]
    if problems := parent_problems(jobs, plan.spec, data):
        raise SpecError(plan.spec.origin, problems)
    return data
