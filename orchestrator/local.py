"""Runs a study in this process, one job after the other: a debugger works, the numbers are those of Ray."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.monitor import Monitor
from orchestrator.process import Pristine
from orchestrator.spec import Resources
from orchestrator.stopping import StopRequest
from orchestrator.trial import Order, Setting, Trial
from reports.layout import RunFolder
from workloads.data.dataset import Dataset, Source


def run_local(
    orders: Sequence[Order],
    *,
    study: str,
    folder: RunFolder,
    resources: Resources,
    data: Mapping[Source, Dataset],
    monitor: Monitor,
    stop: StopRequest,
    show: Callable[[], None],
    fail_fast: bool,
) -> None:
    """Every order until the end, or until `stop` is asked for."""
    setting = Setting(
        study=study,
        folder=RunFolder(folder.path.resolve()),  # a trial may change the working directory
        threads=resources.cpus,
        load_data=data.__getitem__,
        should_stop=lambda: stop.requested,
    )
    pristine = Pristine.here()
    try:
        for order in orders:
            if stop.requested:
                return
            pristine.restore(threads=resources.cpus)
            monitor.start(order.job.key)
            show()
            trial = Trial(order, setting)
            while trial.report.status is None:
                monitor.hear(trial.advance())
                show()
            if fail_fast and monitor.failures:
                stop.ask()
    finally:
        pristine.restore(threads=resources.cpus)
