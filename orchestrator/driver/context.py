"""Orchestrator/driver/context.py."""

from dataclasses import dataclass
from typing import Any

from pruneyard.orchestrator.coordination.stop_request import StopRequest
from pruneyard.orchestrator.planning.plan import Plan
from pruneyard.orchestrator.progress.display import Display
from pruneyard.orchestrator.progress.monitor import Monitor
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import Status
from pruneyard.workloads.data.dataset import Dataset, Source


@dataclass(kw_only=True)
class StudyRun:
    """What both ways of running are given. `data` grows as stages find new sets; `plan` is read again after jobs ran."""

    plan: Plan
    monitor: Monitor
    stop: StopRequest
    display: Display
    fail_fast: bool
    data: dict[Source, Dataset]

    @property
    def folder(self) -> RunFolder:
        return self.plan.folder

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
            "study": self.plan.spec.name,
            "folder": self.folder,
            "resources": resources,
            "data": self.data,
            "monitor": self.monitor,
            "stop": self.stop,
            "show": self.show,
            "fail_fast": self.fail_fast,
        }
