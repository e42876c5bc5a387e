"""Runs a study: plans it, runs what is missing stage by stage, and retries what crashed."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from pruneyard.orchestrator.driver.cached_runs import Caches, add_to_cache, cached_jobs, take_from_caches
from pruneyard.orchestrator.driver.context import StudyRun
from pruneyard.orchestrator.driver.handed_over_data import data_overrides, keep_in, restore_from
from pruneyard.orchestrator.driver.stage_groups import RunAttempts
from pruneyard.orchestrator.driver.stages import check_ready_jobs, run_stages
from pruneyard.orchestrator.driver.study_plan import write_study_plan
from pruneyard.orchestrator.errors import ClusterError, ExitCode, UsageError
from pruneyard.orchestrator.local_backend.study import run_local
from pruneyard.orchestrator.planning.compatibility import check_same_study
from pruneyard.orchestrator.planning.data_changes import check_data_unchanged
from pruneyard.orchestrator.planning.plan import Plan, make_plan
from pruneyard.orchestrator.progress.display import Display
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.progress.python_display import python_display
from pruneyard.orchestrator.results import GracefulInterrupt, Results
from pruneyard.orchestrator.search.proposals import is_search_finished
from pruneyard.orchestrator.spec.load import Spec, load_spec
from pruneyard.reports.durable import clear_unfinished, write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location, located
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.reports.store import Store
from pruneyard.workloads.data.fingerprints import Fingerprints

logger = logging.getLogger(__name__)


class NoDisplay:
    """A display that shows nothing."""

    def show(self, monitor: Monitor) -> None:
        """Does nothing."""


def default_folder(spec: Spec) -> Path:
    """Returns the default results folder of a study."""
    return Path("out") / spec.name


def run(
    spec: str | Path | Mapping[str, Any] | Spec,
    out: str | PathLike[str] | Location | None = None,
    *,
    model: Any = None,
    data: Any = None,
    overrides: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[Any]] | None = None,
    address: str = "local",
    local: bool = False,
    fail_fast: bool = False,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
    cache: str | PathLike[str] | Location | None = None,
    cache_from: Sequence[str | PathLike[str] | Location] = (),
    verbose: bool | None = None,
    display: Display | None = None,
) -> Results:
    """Runs every job of a spec that is not finished in `out`, and blocks until the last one has ended.

    Args:
        spec: a file, the name of a packaged spec, a mapping of tables, or the result of `load_spec`.
        out: the results folder; `out/<name>` by default.
        model: the model of all jobs, in place of that of the spec: a class of `nn.Module`, a function that returns a network, or
            a table such as `{"name": Net, "width": 64}`.
        data: the data of all jobs, in place of that of the spec: a pair `(X, y)` of inputs and labels (arrays, tensors, lists), a
            mapping such as `{"train": (X, y), "test": (X2, y2)}`, map-style data sets of PyTorch in place of pairs, or a table.
            Arrays are stored in `out`, so that the study resumes without them; run keys cover their content. Stages that take
            their data from another stage keep those. A table `{name: arrays, ...}` of the spec without a `path` gives their
            options.
        overrides, axes: as for `load_spec`.
        address: the address of a Ray cluster; `local` starts one on this machine for this call. If this process is in a cluster
            already, because it has called `ray.init`, the study runs there, and the connection stays open.
        local: run without Ray in this process, one job after the other; the numbers are the same.
        fail_fast: stop all other jobs when the first job fails.
        only: run only jobs whose newest attempt has one of these statuses (None: jobs that were never started).
        add: also run if `out` holds the unfinished study of a spec that shares no job with this one; refused otherwise.
        cache: a folder of finished runs, local or in an object store, which studies share. Jobs that are finished there are
            copied instead of run, and completed runs of this study are added.
        cache_from: folders that are only read: other caches, or folders of results.
        verbose: by default, progress is shown in notebooks and on terminals. True shows it elsewhere too, as lines on stderr;
            False shows nothing.
        display: shows the progress in place of that, by its method `show`.

    Raises:
        UsageError: the spec, the data or the resources are invalid. No job was started.
        ClusterError: the cluster cannot be reached or refused us. If it was lost during the study, or had no room left, it is a
            `ClusterLostError` with the `results` so far.
        StorageError: the results folder cannot be used. If that happened during the study, it is a `StudyStoppedError`;
            finished results are kept.
        KeyboardInterrupt: Ctrl-C. The first one lets running jobs write a checkpoint, and raises a `GracefulInterrupt` with the
            `results`; a second one interrupts at once.

    A failed job raises nothing: its error is in the results, whose `exit_code` tells how the study ended.

    Example:
        >>> import pruneyard
        >>> results = pruneyard.run(
        ...     {
        ...         "name": "digits",
        ...         "kind": "sparse",
        ...         "data": {"name": "digits", "max_test": 90},
        ...         "model": {"name": "mlp", "width": 64},
        ...         "optimizer": {"name": "sgd", "lr": 0.1},
        ...         "budget": {"epochs": 10, "batch_size": 32},
        ...         "seeds": 3,
        ...         "grid": {"method": [{"name": "rigl", "density": 0.1}, {"name": "static", "density": 0.1}]},
        ...     },
        ...     out="out/digits",
        ...     local=True,
        ... )
        >>> len(results.runs())
        6
    """
    given = {} if model is None else {"model": _checked_model(model)}
    given |= {} if data is None else data_overrides(data, spec)
    resolved = load_spec(spec, overrides={**given, **(overrides or {})}, axes=axes)
    folder = RunFolder(located(out) if out is not None else default_folder(resolved))
    plan = make_plan(resolved, folder)
    with python_display(verbose=verbose if display is None else False, local=local) as shown:
        return run_plan(
            plan,
            address=address,
            local=local,
            fail_fast=fail_fast,
            only=only,
            add=add,
            caches=Caches.of(None if cache is None else located(cache), [located(path) for path in cache_from]),
            display=display or shown,
        )


def _checked_model(model: Any) -> Any:
    """Returns the model of a call. Raises `UsageError` for a network, since every run builds one of its own."""
    named = model.get("name") if isinstance(model, Mapping) else model
    if hasattr(named, "state_dict") and not isinstance(named, type):
        kind = type(named).__name__
        rule = f"it must be the class, as in model={kind}, or a function that returns a new network: every run builds its own"
        raise UsageError(f"model: is a {kind} object; {rule}")
    return model


def run_plan(
    plan: Plan,
    *,
    address: str = "local",
    local: bool = False,
    fail_fast: bool = False,
    only: frozenset[Status | None] | None = None,
    add: bool = False,
    caches: Caches | None = None,
    display: Display | None = None,
    abandon: Callable[[Location, str], None] | None = None,
) -> Results:
    """Runs a plan as `run` does. `plan` must be up to date with its folder, which is not read again.

    abandon: ends the process if the cluster is lost and Ray would end it without a word; called in another thread with the
        folder and a message. By default the message is printed and the process exits with code 4.
    """
    spec, folder, caches = plan.spec, plan.folder, caches or Caches()
    results = Results(folder.path, spec=spec)
    restore_from(folder)
    # Neither the lease nor the data nor a cluster is needed.
    if not has_work(plan, only=only):
        check_data_unchanged(plan, Fingerprints({}))
        add_to_cache(plan, caches)
        return results
    monitor = Monitor(total=len(plan.spec.jobs), num_already_done=sum(map(plan.is_finished, plan.spec.jobs)))
    display = display or NoDisplay()
    with hold_lease(folder.path) as lease, stop_request(folder.path) as stop:
        lease.when_lost = stop.hand_over
        monitor.phase = "loading data"
        display.show(monitor)
        # Only under the lease: another driver might be writing these files.
        clear_unfinished(folder.artifacts)
        if not add:
            # Before spec.yaml is overwritten: the check reads the spec that the folder was last run with.
            check_same_study(plan)
        plan = _with_restored_rows(plan)
        if only is None and cached_jobs(plan, caches):
            plan = _with_cached_runs(plan, caches)
        attempts = plan.attempts(only=only)
        if not has_work(plan, only=only):
            check_data_unchanged(plan, Fingerprints({}))
            add_to_cache(plan, caches)
            return results
        # Before a cluster is joined, so that wrong data costs no start of Ray, and before spec.yaml is overwritten.
        warned: set[str] = set()
        data = check_ready_jobs(attempts, plan, warned=warned)
        keep_in(folder, data)
        write_durably(folder.spec, spec.to_yaml().encode())
        write_study_plan(plan)
        monitor.num_already_done = sum(map(plan.is_finished, plan.spec.jobs))
        study_run = StudyRun(
            plan=plan, monitor=monitor, stop=stop, display=display, fail_fast=fail_fast, data=data, warned=warned
        )
        study_run.expect(attempts)
        monitor.phase = "starting" if local else "starting Ray" if address == "local" else f"joining {address}"
        study_run.show()
        with stop_on_storage_failure(stop), _open_backend(
            local=local, address=address, stop=stop, abandon=partial(abandon or exit_process, folder.path)
        ) as run_attempts:
            monitor.phase = "starting the first trials"
            study_run.show()
            run_stages(study_run, only=only, run_attempts=run_attempts)
        _compact(folder)
        add_to_cache(study_run.plan, caches)
    # After SIGTERM, the exit code of the results tells that the study was stopped.
    if stop.signal_number == signal.SIGINT:
        raise GracefulInterrupt(results)
    return results


def _with_cached_runs(plan: Plan, caches: Caches) -> Plan:
    """Returns the plan with the runs that are taken from caches; the folder then holds what a study writes that ran them."""
    check_data_unchanged(plan, Fingerprints({}))
    num_jobs = -1
    while num_jobs != len(plan.spec.jobs):  # the runs that were taken may decide a choice, and so lead to further jobs
        num_jobs = len(plan.spec.jobs)
        plan = take_from_caches(plan, caches)
        if plan.spec.decide is not None:
            plan = plan.reread()
    write_durably(plan.folder.spec, plan.spec.to_yaml().encode())
    write_study_plan(plan)
    _compact(plan.folder)
    return plan


def _compact(folder: RunFolder) -> None:
    try:
        Store(folder).compact()
    except StorageError as error:
        # Compaction only merges files; the results are complete without it.
        logger.warning("the small files of results stay as they are: %s", error)


def has_work(plan: Plan, *, only: frozenset[Status | None] | None) -> bool:
    """Returns whether `run_plan` would run a job, or let a search propose one."""
    return bool(plan.attempts(only=only)) or (only is None and not is_search_finished(plan.spec, plan.folder))


def _with_restored_rows(plan: Plan) -> Plan:
    """Writes rows that damaged or deleted files held again, from their records, and returns the plan with them.

    Raises `UsageError` if a damaged file held rows of finished runs that have no record: they would all run again.
    """
    restored = Store(plan.folder).restore(job.key for job in plan.spec.jobs if plan.status(job) is None)
    for note in restored.notes:
        logger.warning("%s", note)
    if restored.refusal:
        raise UsageError(f"{plan.folder.path}: {restored.refusal}")
    return plan.reread() if restored.notes else plan


@contextmanager
def _open_backend(
    *, local: bool, address: str, stop: StopRequest, abandon: Callable[[str], None]
) -> Iterator[RunAttempts]:
    """Yields the function that runs attempts: in this process, or on a Ray cluster that is joined inside the block."""
    if local:
        yield run_local
        return
    from pruneyard.cluster.session import session  # imported here, so that --local works without Ray
    from pruneyard.orchestrator.ray_backend.study import run_study

    try:
        with session(address, abandon=abandon) as joined:
            # Again, because `ray.init` has replaced the handler of SIGTERM.
            stop.install_signal_handlers()
            yield partial(run_study, session=joined, shared={})
    except ConnectionError as error:
        raise ClusterError(str(error)) from error


def exit_process(folder: Location, message: str) -> None:
    """Exits at once with a message because the cluster is lost; written results stay."""
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a live table hides the cursor
    print(f"{show_cursor}pruneyard: {message}; resume with: pruneyard resume {folder}", file=sys.stderr)
    sys.stderr.flush()
    os._exit(ExitCode.UNREACHABLE)
