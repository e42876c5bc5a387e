"""Runs a study in this process, one job after the other: a debugger works, the numbers are those of Ray."""

from collections.abc import Callable, Sequence
from functools import cache

from orchestrator.monitor import Monitor
from orchestrator.process import Pristine
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
        study=study,
        folder=RunFolder(folder.path.resolve()),  # a trial may change the working directory
        threads=threads,
        load_data=load_data,
        should_stop=lambda: stop.requested,
    )
    pristine = Pristine.here()
    try:
        for order in orders:
            if stop.requested:
                return
            pristine.restore(threads=threads)
            monitor.start(order.job.key)
            show()
            trial = Trial(order, setting)
            while trial.report.status is None:
                monitor.hear(trial.advance())
                show()
            if fail_fast and monitor.failures:
                stop.ask()
    finally:
        pristine.restore(threads=threads)
