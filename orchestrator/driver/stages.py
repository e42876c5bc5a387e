"""Orchestrator/driver/stages.py."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from pruneyard.orchestrator.artifacts.parents import locate_upstream
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.retries import attempts_to_retry
from pruneyard.orchestrator.early_stopping.asha_median import load_early_stopper
from pruneyard.orchestrator.early_stopping.hyperband import load_brackets, run_hyperband
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, order_by_parents
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.planning.preflight import check_jobs, load_data
from pruneyard.orchestrator.search.proposals import is_search_finished, load_search
from pruneyard.orchestrator.spec.job import Job
from pruneyard.orchestrator.spec.scheduler import Scheduler
from pruneyard.orchestrator.spec.stage import AdaptiveSearch, Stage
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.planned import Population, write_plan
from pruneyard.reports.records import Status
from pruneyard.workloads.data.dataset import Dataset, Source

logger = logging.getLogger(__name__)



RunAttempts = Callable[..., Mapping[str, str]]


"""`run_local` or `run_study`: returns the errors of processes that died."""


def run_search(
    stage: Stage, learning: AdaptiveSearch, work: StudyRun, *, only: frozenset[Status | None] | None, run_orders: RunAttempts
) -> None:
    """Round after round, until the search is over; with `only`, no new one."""
    rounds = load_search(learning, work.folder)
    while True:
        run_jobs(stage, rounds.jobs(), work, only=only, run_orders=run_orders)
        if work.stop.requested or only is not None:
            return
        is_proposed = rounds.propose()
        work.plan = work.plan.with_proposals()
        write_study_plan(work.plan)  # also after the last round: the plan says that no more runs will be proposed
        if not is_proposed:
            return
        work.monitor.total = len(work.plan.spec.jobs)


def write_study_plan(plan: Plan) -> None:
    """With what each population is chosen by, and its runs, which stages may share."""
    populations, spec = {}, plan.spec
    for stage in spec.stages:
        if stage.learning is not None and stage.learning.search.is_population:
            ((measure, best_is),) = stage.learning.search.directions.items()
            populations[stage.name or ""] = Population(measure, best_is, frozenset(job.key for job in stage.jobs))
    keys = [job.key for job in spec.jobs]
    write_plan(plan.folder, keys, populations, is_complete=is_search_finished(spec, plan.folder))


def run_jobs(
    stage: Stage, jobs: Sequence[Job], work: StudyRun, *, only: frozenset[Status | None] | None, run_orders: RunAttempts
) -> None:
    """What is missing of these and rests on finished runs, until it has ended or cannot be run."""
    if work.stop.requested:
        return
    plan = work.plan
    orders = plan.orders(jobs, only=only)
    ready = [_placed(order, work.folder) for order in orders if plan.is_ready(order.job)]
    ready = order_by_parents(ready)
    if waiting := len(orders) - len(ready):
        logger.warning("%d jobs of stage %s wait for runs that did not finish", waiting, stage.name)
    at_hand = [order.job for order in ready]
    load_data(at_hand, into=work.data)
    check_jobs(at_hand, work.data, origin=plan.spec.name)
    asked = only is not None and Status.PRUNED in only  # what was stopped is to go on
    scheduler = Scheduler() if asked else stage.header.scheduler
    decides = load_early_stopper(scheduler, jobs, work.folder)
    decides.include(order.job.key for order in ready)
    run_to_end = partial(_run_to_end, stage=stage, work=work, run_orders=partial(run_orders, early_stopper=decides))
    if scheduler.name != "hyperband":
        run_to_end(ready)
        return
    run_hyperband(
        load_brackets(scheduler, jobs, decides, work.folder),
        ready,
        unready=[order.job.key for order in orders if not plan.is_ready(order.job)],
        folder=work.folder,
        run=run_to_end,
        stopped=lambda: work.stop.requested,
        prune=partial(work.monitor.end, status=Status.PRUNED),
    )


def _run_to_end(ready: Sequence[PlannedAttempt], *, stage: Stage, work: StudyRun, run_orders: RunAttempts) -> None:
    """Each of these, again after its process died, until it has ended or paused."""
    deaths: dict[str, int] = {}
    while ready and not work.stop.requested:
        work.monitor.expect(list(ready))
        died = run_orders(ready, **work.backend_arguments(stage.header.resources))
        ready = attempts_to_retry(ready, died, deaths, work, num_workers=stage.header.resources.workers)
        work.plan = work.plan.reread()


def _placed(order: PlannedAttempt, folder: RunFolder) -> PlannedAttempt:
    workload = locate_upstream(order.job.workload, RunFolder(folder.path.resolve()))
    return replace(order, job=replace(order.job, workload=workload))


def check_ready_jobs(orders: Sequence[PlannedAttempt], plan: Plan, *, origin: str) -> dict[Source, Dataset]:
    """Tries every job whose earlier runs are there, and reads the data of the others where it rests on no run.

    Raises `UsageError` for what cannot work.
    """
    ready = [_placed(order, plan.folder).job for order in orders if plan.is_ready(order.job)]
    data = load_data(ready)
    check_jobs(ready, data, origin=origin)
    load_data([order.job for order in orders if not plan.is_ready(order.job)], into=data, resting=False)
    return data
