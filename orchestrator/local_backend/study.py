"""Runs a study in this process, one job after the other: a debugger works, the numbers are those of Ray."""

import os
from collections.abc import Callable, Mapping, Sequence

import torch

from pruneyard.orchestrator.artifacts.reader_cache import CachedRunReader
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.early_stopping.asha_median import EarlyStopper
from pruneyard.orchestrator.errors import RankDiedError
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner, StudyContext
from pruneyard.orchestrator.execution.capacity import max_concurrent_trials
from pruneyard.orchestrator.execution.process_state import NumericsSnapshot, ProcessSnapshot
from pruneyard.orchestrator.execution.worker_group import InProcess, WorkerGroup
from pruneyard.orchestrator.local_backend.worker_processes import LocalWorkers
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.progress.monitor import Monitor, TrialPlace
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.dataset import Dataset, Source


def run_local(
    orders: Sequence[PlannedAttempt],
    *,
    study: str,
    folder: RunFolder,
    resources: Resources,
    data: Mapping[Source, Dataset],
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
    judge: EarlyStopper,
) -> dict[str, str]:
    """Every order until the end, or until `stop` is asked for. Returns, by run key, the error of each trial of several
    workers of which one died.

    Raises `UsageError` where a trial wants more than there is.

    The caller's threads, default dtype and global generators are given back as they were.
    """
    max_concurrent_trials(resources, [(os.cpu_count() or 1, torch.cuda.device_count())])
    ledger = WriteBuffer(absolute := RunFolder(folder.path.resolve()))  # a trial may change the working directory
    setting = StudyContext(
        study=study,
        folder=absolute,
        ledger=ledger,
        threads=resources.cpus,
        device=torch.device("cuda" if resources.gpus else "cpu"),
        load_data=lambda source: data[source] if source in data else source.load(),
        open_run=CachedRunReader().open_run,
        should_stop=lambda: stop.requested,
        is_pruned=judge.is_stopped,
        crew=_crew(resources, data, absolute, stop),
    )
    deaths: dict[str, str] = {}
    pristine, numerics = ProcessSnapshot.here(), NumericsSnapshot.here()
    try:
        for order in orders:
            if stop.requested:
                break
            pristine.restore(threads=resources.cpus)
            monitor.start(order.job.key)
            show()
            trial = AttemptRunner(order, setting)
            try:
                while trial.report.status is None:
                    report = trial.advance()
                    held = setting.crew.gpu_bytes(setting.device)
                    monitor.place(order.job.key, TrialPlace(nodes=(), gpu_bytes=held))
                    monitor.record(report)
                    judge.hear_report(trial.report)
                    show()
            except RankDiedError as error:
                monitor.running.pop(order.job.key, None)
                deaths[order.job.key] = str(error)
            if fail_fast and monitor.failures:
                stop.ask()
    finally:
        ledger.write()
        pristine.restore(threads=resources.cpus)
        numerics.restore()
    return deaths


def _crew(resources: Resources, data: Mapping[Source, Dataset], folder: RunFolder, stop: StopRequest) -> WorkerGroup:
    """This process, or several beside it."""
    if resources.workers == 1:
        return InProcess()
    return LocalWorkers(resources=resources, data=data, should_stop=stop.mark.resolve().exists, seen=folder.spec)
