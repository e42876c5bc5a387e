"""The state that the stages of one call of `run` share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.planning.cost import job_costs
from pruneyard.orchestrator.planning.data_changes import DataRecords
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.progress.display import Display
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.data.fingerprints import Fingerprints


@dataclass(kw_only=True)
class StudyRun:
    """One call of `run`.

    `data` holds the data sets loaded so far, `warned` the warnings logged so far; `plan` is made anew after jobs have run.
    """

    plan: Plan
    monitor: Monitor
    stop: StopRequest
    display: Display
    fail_fast: bool
    data: dict[Source, Dataset]
    warned: set[str] = field(default_factory=set)
    data_records: DataRecords = field(default_factory=DataRecords)

    @cached_property
    def fingerprints(self) -> Fingerprints:
        """The fingerprints of the data sets, those in `data` included."""
        return Fingerprints(self.data)

    @property
    def folder(self) -> RunFolder:
        return self.plan.folder

    def expect(self, attempts: Sequence[PlannedAttempt]) -> None:
        """Adds attempts to those that the monitor counts, with the expected times of jobs whose data is there."""
        self.monitor.expect(list(attempts))
        time_left, spec = self.monitor.time_left, self.plan.spec
        new = [planned.job for planned in attempts if not time_left.is_weighed(planned.job.key)]
        workers = {stage.name: stage.header.resources.workers for stage in spec.stages}
        costs = job_costs(new, self.data, workers=workers, known=spec.jobs) if new else {}
        time_left.weigh({key: cost.seconds for key, cost in costs.items()})

    def show(self) -> None:
        """Updates the display."""
        self.monitor.stopping = self.stop.requested
        self.display.show(self.monitor)

    def mark_failed(self, key: str, error: str) -> None:
        """Marks a job as failed whose process crashed without a report, and that is not retried."""
        self.monitor.end(key, Status.FAILED, error)
        if self.fail_fast:
            self.stop.request()

    def backend_arguments(self) -> dict[str, Any]:
        """Returns the keyword arguments that `run_local` and `run_study` share."""
        return {
            "study": self.plan.spec.name,
            "folder": self.folder,
            "shapes": list(dict.fromkeys(stage.header.resources for stage in self.plan.spec.stages)),
            "data": self.data,
            "monitor": self.monitor,
            "stop": self.stop,
            "show": self.show,
            "fail_fast": self.fail_fast,
        }
