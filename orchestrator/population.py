"""From a spec to finished runs: plan, run what is missing, run again what died, report."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from orchestrator.at_hand import beside_each_other
from orchestrator.brackets import climb
from orchestrator.changed import check_same_study
from orchestrator.deaths import cause, told
from orchestrator.display import Display
from orchestrator.errors import ClusterError, ExitCode, OrderlyInterrupt
from orchestrator.job import Job, Learning, Resources, Stage
from orchestrator.lease import exclusive
from orchestrator.local import run_local
from orchestrator.monitor import Monitor
from orchestrator.plan import OVER, Plan, make_plan
from orchestrator.preflight import check_jobs, load_data
from orchestrator.results import Results
from orchestrator.rounds import is_searched, rounds_of
from orchestrator.schedulers import Scheduler, brackets, judge
from orchestrator.spec import Spec, load_spec
from orchestrator.stages import placed
from orchestrator.stopping import StopRequest, stop_request, storage_stops
from orchestrator.trial import Order, make_record
from reports.durable import clear_unfinished, write_durably
from reports.layout import RunFolder
from reports.location import Location, located
from reports.planned import Population, write_plan
from reports.records import Status
from reports.storage import StorageError
from reports.store import Store
from workloads.data.dataset import Dataset, Source

logger = logging.getLogger(__name__)

MAX_DEATHS = 3  # a job whose process died so often in one call is left FAILED


class Silent:
    """No display."""

    def show(self, monitor: Monitor) -> None:
        """Draws nothing."""


def default_folder(spec: Spec) -> Path:
    """Where a study goes unless told otherwise."""
    return Path("out") / spec.name


def run(
    spec: str | Path | Mapping[str, Any] | Spec,
    out: str | PathLike[str] | Location | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    address: str = "local",
    local: bool = False,
    fail_fast: bool = False,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
    display: Display | None = None,
) -> Results:
    """Runs every job of a spec that `out` does not hold finished, and blocks until the last one has ended.

    Args:
        spec: a file, the name of a packaged spec, tables, or what `load_spec` gave.
        out: the folder of results; `out/<name>` by default.
        overrides, axes: as for `load_spec`.
        address: of a Ray cluster; `local` starts one on this machine for the length of the call.
        local: without Ray, in this process, one job after the other; the numbers are the same.
        fail_fast: stop all others when the first job fails.
        only: run only jobs whose newest attempt ended so (None: that were never started).
        add: also where `out` holds the unfinished study of a spec that has none of these jobs, which is refused otherwise.

    Raises:
        UsageError: the spec, the data or the resources do not fit. No job was started.
        ClusterError: the cluster cannot be reached or refused us; an `AbandonedError`, which has the `results`, where it was
            lost or had no room left in the middle.
        StorageError: the folder of results cannot be used; a `StudyStoppedError` where that showed in the middle. What is
            finished is kept.
        KeyboardInterrupt: Ctrl-C. After the first one running jobs have left a checkpoint, and the error is an
            `OrderlyInterrupt`, which has the `results`; a second one does not wait.

    A failed job raises nothing: its error is in the results, whose `exit_code` says how the study ended.
    """
    resolved = load_spec(spec, overrides=overrides, axes=axes)
    folder = RunFolder(located(out) if out is not None else default_folder(resolved))
    plan = make_plan(resolved, folder)
    orders = plan.orders(only=only)
    results = Results(folder.path, spec=resolved)
    if not orders and (only is not None or is_searched(resolved, folder)):
        return results
    monitor = Monitor(total=len(plan.spec.jobs), already=sum(plan.status(job) in OVER for job in plan.spec.jobs))
    with exclusive(folder.path) as lease, stop_request(folder.path) as stop:
        lease.when_lost = stop.hand_over
        clear_unfinished(folder.artifacts)
        if not add:
            check_same_study(plan)
        write_durably(folder.spec, resolved.to_yaml().encode())
        _write_plan(folder, plan.spec)
        data = check_what_is_known(orders, plan, origin=resolved.name)
        monitor.expect(orders)
        work = _Work(resolved, folder, monitor, stop, display or Silent(), fail_fast, data)
        with storage_stops(stop), _way_of_running(local=local, address=address, stop=stop) as run_orders:
            for stage in resolved.stages:
                if stage.learning is None:
                    _run_jobs(stage, stage.jobs, work, only=only, run_orders=run_orders)
                else:
                    _search(stage, stage.learning, work, only=only, run_orders=run_orders)
        try:
            Store(folder).compact()
        except StorageError as error:
            logger.warning("the small files of results stay as they are: %s", error)
    if stop.signal_number == signal.SIGINT:
        raise OrderlyInterrupt(results)
    return results


@dataclass(frozen=True)
class _Work:
    """What both ways of running are given. `data` grows as stages find new sets."""

    spec: Spec
    folder: RunFolder
    monitor: Monitor
    stop: StopRequest
    display: Display
    fail_fast: bool
    data: dict[Source, Dataset]

    def show(self) -> None:
        """As things stand."""
        self.monitor.stopping = self.stop.requested
        self.display.show(self.monitor)

    def failed(self, key: str, error: str) -> None:
        """A job that will not be tried again, which only its process's end told of."""
        self.monitor.end(key, Status.FAILED, error)
        if self.fail_fast:
            self.stop.ask()

    def arguments(self, resources: Resources) -> dict[str, Any]:
        """Of `run_local` and `run_study` alike."""
        return {
            "study": self.spec.name,
            "folder": self.folder,
            "resources": resources,
            "data": self.data,
            "monitor": self.monitor,
            "stop": self.stop,
            "show": self.show,
            "fail_fast": self.fail_fast,
        }


RunOrders = Callable[..., Mapping[str, str]]
"""`run_local` or `run_study`: returns the errors of processes that died."""


@contextmanager
def _way_of_running(*, local: bool, address: str, stop: StopRequest) -> Iterator[RunOrders]:
    """In this process, or on a cluster that lives as long as the block."""
    if local:
        yield run_local
        return
    from cluster.session import session  # here, so that --local works and starts without Ray
    from orchestrator.study import run_study

    try:
        with session(address, abandon=partial(_leave, stop.mark.parent)) as joined:
            stop.listen()
            yield partial(run_study, session=joined, shared={})
    except ConnectionError as error:
        raise ClusterError(str(error)) from error


def _leave(folder: Location, words: str) -> None:
    """The end of this process where nothing else is left to do; what trials have written stays."""
    shown_again = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a live table hides
    print(f"{shown_again}pruneyard: {words}; go on with: pruneyard resume {folder}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ExitCode.UNREACHABLE)


def _search(
    stage: Stage, learning: Learning, work: _Work, *, only: frozenset[Status | None] | None, run_orders: RunOrders
) -> None:
    """Round after round, until the search is over; with `only`, no new one."""
    rounds = rounds_of(learning, work.folder)
    while True:
        _run_jobs(stage, rounds.jobs(), work, only=only, run_orders=run_orders)
        if work.stop.requested or only is not None or not rounds.propose():
            return
        known = make_plan(work.spec, work.folder).spec
        _write_plan(work.folder, known)
        work.monitor.total = len(known.jobs)


def _write_plan(folder: RunFolder, spec: Spec) -> None:
    """With what each population is chosen by, and its runs, which stages may share."""
    populations = {}
    for stage in spec.stages:
        if stage.learning is not None and stage.learning.search.breeds:
            ((measure, best_is),) = stage.learning.search.aims.items()
            populations[stage.name or ""] = Population(measure, best_is, frozenset(job.key for job in stage.jobs))
    write_plan(folder, [job.key for job in spec.jobs], populations)


def _run_jobs(
    stage: Stage, jobs: Sequence[Job], work: _Work, *, only: frozenset[Status | None] | None, run_orders: RunOrders
) -> None:
    """What is missing of these and rests on finished runs, until it has ended or cannot be run."""
    if work.stop.requested:
        return
    plan = make_plan(work.spec, work.folder)
    orders = plan.orders(jobs, only=only)
    ready = [_placed(order, work.folder) for order in orders if plan.is_ready(order.job)]
    ready = beside_each_other(ready)
    if waiting := len(orders) - len(ready):
        logger.warning("%d jobs of stage %s wait for runs that did not finish", waiting, stage.name)
    at_hand = [order.job for order in ready]
    load_data(at_hand, into=work.data)
    check_jobs(at_hand, work.data, origin=work.spec.name)
    asked = only is not None and Status.PRUNED in only  # what was stopped is to go on
    scheduler = Scheduler() if asked else stage.header.scheduler
    decides = judge(scheduler, jobs, work.folder)
    decides.run_again(order.job.key for order in ready)
    run_to_end = partial(_run_to_end, stage=stage, work=work, run_orders=partial(run_orders, judge=decides))
    if scheduler.name != "hyperband":
        run_to_end(ready)
        return
    climb(
        brackets(scheduler, jobs, decides, work.folder),
        ready,
        unready=[order.job.key for order in orders if not plan.is_ready(order.job)],
        folder=work.folder,
        run=run_to_end,
        stopped=lambda: work.stop.requested,
        prune=partial(work.monitor.end, status=Status.PRUNED),
    )


def _run_to_end(ready: Sequence[Order], *, stage: Stage, work: _Work, run_orders: RunOrders) -> None:
    """Each of these, again after its process died, until it has ended or paused."""
    deaths: dict[str, int] = {}
    while ready and not work.stop.requested:
        work.monitor.expect(list(ready))
        died = run_orders(ready, **work.arguments(stage.header.resources))
        ready = _after_deaths(ready, died, deaths, work, num_workers=stage.header.resources.workers)


def _placed(order: Order, folder: RunFolder) -> Order:
    workload = placed(order.job.workload, RunFolder(folder.path.resolve()))
    return replace(order, job=replace(order.job, workload=workload))


def check_what_is_known(orders: Sequence[Order], plan: Plan, *, origin: str) -> dict[Source, Dataset]:
    """Tries every job whose earlier runs are there, and reads the data of the others where it rests on no run.

    Raises `UsageError` for what cannot work.
    """
    ready = [_placed(order, plan.folder).job for order in orders if plan.is_ready(order.job)]
    data = load_data(ready)
    check_jobs(ready, data, origin=origin)
    load_data([order.job for order in orders if not plan.is_ready(order.job)], into=data, resting=False)
    return data


def _after_deaths(
    orders: Sequence[Order],
    died: Mapping[str, str],
    deaths: dict[str, int],
    work: _Work,
    *,
    num_workers: int,
) -> list[Order]:
    """Records every attempt whose process died; returns the next attempts of those that get another.

    An attempt that ended without a record, without a death and without a stop is what Tune does not raise: it is said.
    """
    monitor, stopping = work.monitor, work.stop.requested
    store, again = Store(work.folder), []
    recorded = store.statuses()
    for order in orders:
        key = order.job.key
        status, newest = recorded.get(key, (None, 0))
        if newest >= order.attempt:
            if key in died and status is Status.FAILED:  # it wrote its record and then lost its device
                work.failed(key, died[key].strip().splitlines()[-1])
            continue
        if key not in died:
            if not stopping:
                deaths[key] = deaths.get(key, 0) + 1
                if deaths[key] < MAX_DEATHS:
                    again.append(order)  # it stood behind one whose process died
                else:
                    logger.warning("%s (%s) ended without a record; run again to repair", key, order.job.label)
            continue
        now = datetime.now(UTC)
        error = f"{died[key].rstrip()}\n{cause(died[key])}"
        store.write(
            make_record(
                order,
                study=work.spec.name,
                status=Status.INTERRUPTED if stopping else Status.FAILED,
                started_at=now,
                wall_s=0.0,
                device="unknown",
                num_workers=num_workers,
                error=error,
            ),
            [],
            [],
        )
        deaths[key] = deaths.get(key, 0) + 1
        if stopping:
            monitor.end(key, Status.INTERRUPTED)
        elif deaths[key] < MAX_DEATHS:
            logger.warning("%s; it goes on from its checkpoint", told(died[key], run=f"{key} ({order.job.label})"))
            again.append(replace(order, attempt=order.attempt + 1))
        else:
            work.failed(key, f"{cause(died[key])}, {MAX_DEATHS} times")
    return again
