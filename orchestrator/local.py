"""Runs a study in this process, one job after the other: a debugger works, the numbers are those of Ray."""

from collections.abc import Callable, Sequence
from functools import cache

from orchestrator.monitor import Monitor
from orchestrator.process import reset_numerics
from orchestrator.stopping import StopRequest
from orchestrator.trial import Order, Setting, Trial
from reports.layout import RunFolder
from workloads.data.dataset import Dataset, Source


def run_local(
    orders: Sequence[Order],
    *,
    study: str,
    folder: RunFolder,
    threads: int,
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
) -> None:
    """Every order until the end, or until `stop` is asked for."""

    @cache
    def load_data(source: Source) -> Dataset:
        return source.load()

    for source in dict.fromkeys(order.job.workload.data for order in orders):
        load_data(source)
    setting = Setting(
        study=study, folder=folder, threads=threads, load_data=load_data, should_stop=lambda: stop.requested
    )
    for order in orders:
        if stop.requested:
            return
        reset_numerics(threads=threads)
        monitor.start(order.job.key)
        show()
        trial = Trial(order, setting)
        while trial.report.status is None:
            monitor.hear(trial.advance())
            show()
        if fail_fast and monitor.failures:
            stop.ask()
