"""From a spec to finished runs: plan, run what is missing, run again what died, report."""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from pruneyard.orchestrator.coordination.lease import hold_lease
from pruneyard.orchestrator.coordination.stop_request import (
    StopRequest,
    stop_on_storage_failure,
    stop_request,
)
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.stages import (
    RunAttempts,
    check_ready_jobs,
    run_jobs,
    run_search,
    write_study_plan,
)
from pruneyard.orchestrator.errors import ClusterError, ExitCode
from pruneyard.orchestrator.local_backend.study import run_local
from pruneyard.orchestrator.planning.compatibility import check_same_study
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.progress.display import Display
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.results import GracefulInterrupt, Results
from pruneyard.orchestrator.search.proposals import is_search_finished
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.durable import clear_unfinished, write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store

logger = logging.getLogger(__name__)



class NoDisplay:
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
            `GracefulInterrupt`, which has the `results`; a second one does not wait.

    A failed job raises nothing: its error is in the results, whose `exit_code` says how the study ended.
    """
    resolved = load_spec(spec, overrides=overrides, axes=axes)
    folder = RunFolder(located(out) if out is not None else default_folder(resolved))
    return run_plan(
        make_plan(resolved, folder),
        address=address,
        local=local,
        fail_fast=fail_fast,
        only=only,
        add=add,
        display=display,
    )


def run_plan(
    plan: Plan,
    *,
    address: str = "local",
    local: bool = False,
    fail_fast: bool = False,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
    display: Display | None = None,
) -> Results:
    """Runs what a plan has to run, as `run` does; `plan` was made a moment ago, so that the folder need not be read again."""
    spec, folder = plan.spec, plan.folder
    orders = plan.orders(only=only)
    results = Results(folder.path, spec=spec)
    if not orders and (only is not None or is_search_finished(spec, folder)):
        return results
    monitor = Monitor(total=len(plan.spec.jobs), num_already_done=sum(map(plan.is_finished, plan.spec.jobs)))
    with hold_lease(folder.path) as lease, stop_request(folder.path) as stop:
        lease.when_lost = stop.hand_over
        clear_unfinished(folder.artifacts)
        if not add:
            check_same_study(plan)
        write_durably(folder.spec, spec.to_yaml().encode())
        write_study_plan(plan)
        data = check_ready_jobs(orders, plan, origin=spec.name)
        monitor.expect(orders)
        work = StudyRun(
            plan=plan, monitor=monitor, stop=stop, display=display or NoDisplay(), fail_fast=fail_fast, data=data
        )
        with stop_on_storage_failure(stop), _way_of_running(local=local, address=address, stop=stop) as run_orders:
            for stage in spec.stages:
                if stage.learning is None:
                    run_jobs(stage, stage.jobs, work, only=only, run_orders=run_orders)
                else:
                    run_search(stage, stage.learning, work, only=only, run_orders=run_orders)
        try:
            Store(folder).compact()
        except StorageError as error:
            logger.warning("the small files of results stay as they are: %s", error)
    if stop.signal_number == signal.SIGINT:
        raise GracefulInterrupt(results)
    return results


@contextmanager
def _way_of_running(*, local: bool, address: str, stop: StopRequest) -> Iterator[RunAttempts]:
    """In this process, or on a cluster that lives as long as the block."""
    if local:
        yield run_local
        return
    from pruneyard.cluster.session import session  # here, so that --local works and starts without Ray
    from pruneyard.orchestrator.ray_backend.study import run_study

    try:
        with session(address, abandon=partial(_leave, stop.file.parent)) as joined:
            stop.install_signal_handlers()
            yield partial(run_study, session=joined, shared={})
    except ConnectionError as error:
        raise ClusterError(str(error)) from error


def _leave(folder: Location, words: str) -> None:
    """The end of this process where nothing else is left to do; what trials have written stays."""
    shown_again = "\x1b[?25h" if sys.stderr.isatty() else ""  # the cursor, which a live table hides
    print(f"{shown_again}pruneyard: {words}; go on with: pruneyard resume {folder}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ExitCode.UNREACHABLE)
