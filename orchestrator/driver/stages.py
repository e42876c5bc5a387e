"""Runs the jobs of one stage: those of a grid once, those of a search round by round."""

import logging
from collections.abc import Sequence
from functools import partial

from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.retries import attempts_to_retry
from pruneyard.orchestrator.driver.stage_groups import (
    RunAttempts,
    fail_dependants,
    prepared,
    run_together,
    stages_together,
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
from pruneyard.orchestrator.search.proposals import is_search_finished, load_search
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.stage import AdaptiveSearch, Stage
from pruneyard.reports.planned import Population, write_plan
from pruneyard.reports.records import Status
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.fingerprints import Fingerprints

logger = logging.getLogger(__name__)

def run_stages(study_run: StudyRun, *, only: frozenset[Status | None] | None, run_attempts: RunAttempts) -> None:
    """Runs all stages, several together where no decision needs whole stages.

    The jobs of a stage that chooses among earlier runs follow from the results by then.
    """
    number = 0
    while number < len(study_run.plan.spec.stages) and not study_run.stop.requested:
        if study_run.monitor.total != len(study_run.plan.spec.jobs):  # a choice was made since
            write_study_plan(study_run.plan)
            study_run.monitor.total = len(study_run.plan.spec.jobs)
        together = stages_together(study_run.plan.spec.stages, number)
        stage = together[0]
        number += len(together)
        if len(together) > 1:
            run_together(together, study_run, only=only, run_attempts=run_attempts)
        elif stage.waits_for:
            logger.warning("stage %s has no jobs yet: %s", stage.name, stage.waits_for)
        elif stage.learning is None:
            run_jobs(stage, stage.jobs, study_run, only=only, run_attempts=run_attempts)
        else:
            run_search(stage, stage.learning, study_run, only=only, run_attempts=run_attempts)


def run_search(
    stage: Stage,
    learning: AdaptiveSearch,
    study_run: StudyRun,
    *,
    only: frozenset[Status | None] | None,
    run_attempts: RunAttempts,
) -> None:
    """Runs a search round after round until it is finished; with `only`, it proposes no new round."""
    rounds = load_search(learning, study_run.folder)
    while True:
        # Before the first proposal, too: an earlier call may have left proposals that have not run.
        run_jobs(stage, rounds.jobs(), study_run, only=only, run_attempts=run_attempts)
        if study_run.stop.requested or only is not None:
            return
        is_proposed = rounds.propose()
        study_run.plan = study_run.plan.with_proposals()
        write_study_plan(study_run.plan)  # also after the last round: the plan says that no more runs will be proposed
        if not is_proposed:
            return
        study_run.monitor.total = len(study_run.plan.spec.jobs)
        study_run.monitor.time_left.num_unproposed = rounds.num_left * len(stage.header.seed_list)


def write_study_plan(plan: Plan) -> None:
    """Writes plan.json: all run keys, and for each population its metric, its direction and its runs."""
    populations, spec = {}, plan.spec
    for stage in spec.stages:
        if stage.learning is not None and stage.learning.search.is_population:
            ((measure, best_is),) = stage.learning.search.directions.items()
            populations[stage.name or ""] = Population(measure, best_is, frozenset(job.key for job in stage.jobs))
    keys = [job.key for job in spec.jobs]
    write_plan(plan.folder, keys, populations, is_complete=is_search_finished(spec, plan.folder))


def run_jobs(
    stage: Stage, jobs: Sequence[Job], study_run: StudyRun, *, only: frozenset[Status | None] | None, run_attempts: RunAttempts
) -> None:
    """Runs those of the jobs that are not finished and whose upstream runs are."""
    if study_run.stop.requested:
        return
    attempts = study_run.plan.attempts(jobs, only=only)
    left = fail_dependants(attempts, study_run)
    plan = study_run.plan
    ready = [planned for planned in left if plan.is_ready(planned.job)]
    if waiting := len(left) - len(ready):
        logger.warning("%d jobs of stage %s wait for runs that did not finish", waiting, stage.name)
    ready = prepared(ready, study_run)
    resumes_pruned = only is not None and Status.PRUNED in only  # then nothing may be stopped early again
    scheduler = Scheduler() if resumes_pruned else stage.header.scheduler
    early_stopper = load_early_stopper(scheduler, jobs, study_run.folder)
    # Jobs that failed before run again now, so they count again.
    early_stopper.include(planned.job.key for planned in ready)
    run_with_stopper = partial(run_attempts, early_stopper=early_stopper)
    run_to_end = partial(_run_to_end, stage=stage, study_run=study_run, run_attempts=run_with_stopper)
    if scheduler.name != "hyperband":
        run_to_end(ready)
        return
    run_hyperband(
        load_brackets(scheduler, jobs, early_stopper, study_run.folder),
        ready,
        unready=[planned.job.key for planned in attempts if not plan.is_ready(planned.job)],
        folder=study_run.folder,
        run=run_to_end,
        stopped=lambda: study_run.stop.requested,
        prune=partial(study_run.monitor.end, status=Status.PRUNED),
    )


def _run_to_end(ready: Sequence[PlannedAttempt], *, stage: Stage, study_run: StudyRun, run_attempts: RunAttempts) -> None:
    """Runs the attempts, and retries those whose process crashed, until each has ended or paused."""
    num_crashes: dict[str, int] = {}
    while ready and not study_run.stop.requested:
        study_run.monitor.expect(list(ready))
        crashes = run_attempts(ready, **study_run.backend_arguments(stage.header.resources))
        ready = attempts_to_retry(ready, crashes, num_crashes, study_run, num_workers=stage.header.resources.workers)
        # Which jobs of later stages are ready depends on the runs that have completed by now.
        study_run.plan = study_run.plan.reread()


def check_ready_jobs(
    attempts: Sequence[PlannedAttempt], plan: Plan, *, origin: str, warned: set[str]
) -> dict[Source, Dataset]:
    """Checks every job whose upstream runs are finished, and loads the data of the others if it depends on no run.

    Returns the loaded data sets; adds the warnings that were logged to `warned`. Raises `UsageError` for jobs that cannot run.
    """
    ready = [with_upstream(planned, plan.folder).job for planned in attempts if plan.is_ready(planned.job)]
    if problems := missing_artifacts(ready, plan.folder):
        raise SpecError(origin, problems)
    data = load_data(ready)
    check_data_unchanged(plan, Fingerprints(data))
    check_jobs(ready, data, origin=origin, warned=warned)
    waiting = [planned.job for planned in attempts if not plan.is_ready(planned.job)]
    load_data(waiting, into=data, with_parents=False)
    jobs = [planned.job for planned in attempts]
    if problems := parent_problems(jobs, {job.key: job for job in plan.spec.jobs}, data):
        raise SpecError(origin, problems)
    return data
