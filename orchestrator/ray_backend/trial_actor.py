"""The Tune actor: one process that runs trial after trial, each as if it were the first."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import ray
import torch
from ray import tune

from pruneyard.orchestrator.artifacts.reader_cache import CachedRunReader
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.coordination.control_files import ControlFiles, pruned_file
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner, StudyContext
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot
from pruneyard.orchestrator.execution.worker_group import InProcess, WorkerGroup
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.storage import StorageError
from pruneyard.workloads.data.dataset import Dataset, Source

REPORTS = "reports"  # the keys of ours in what Tune is told


WARNINGS = "notes"


PLACE = "where"


STORAGE_ERROR = "fault"  # of the storage of results


REPORT_EVERY_S = 0.5  # of short jobs, one after the other, that are told of at once


class TrialActor(tune.Trainable):
    """Each `step` goes on to the next evaluation, or through several short jobs. A trial of Tune is a bundle of orders.

    Rows and files are written here, so Tune carries only scalars.
    """

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        *,
        bundles: Sequence[Sequence[PlannedAttempt]],
        study: str,
        folder: Location,
        stop_mark: Location,
        resources: Resources,
        data: Mapping[Source, ray.ObjectRef[Dataset]],
    ) -> None:
        """Called once per process; `config` names the first bundle by its place."""
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        self._notes = _WarningCollector()
        for package in ("workloads", "reports"):
            logging.getLogger(package).addHandler(self._notes)
        self._pristine = ProcessSnapshot.here()
        self._bundles = bundles
        self._setting = StudyContext(
            study=study,
            folder=RunFolder(folder),
            threads=resources.cpus,
            device=torch.device("cuda" if resources.gpus else "cpu"),
            load_data=shared_data_loader(data),
            ledger=WriteBuffer(RunFolder(folder)),
            open_run=CachedRunReader().open_run,
            should_stop=partial(ControlFiles(stop_mark.parent).has, stop_mark.name),
            is_pruned=ControlFiles(pruned_file(RunFolder(folder), "x").parent).has,
            crew=_crew(resources, RunFolder(folder), data),
        )
        self._take(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next bundle of a reused process."""
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Any]) -> None:
        self._left = list(self._bundles[config["index"]])
        self._marked = len(self._left) > 1
        self._begin()

    def _begin(self) -> None:
        self._pristine.restore(threads=self._setting.threads)
        self._trial = AttemptRunner(self._left.pop(0), self._setting, trial_id=self.trial_id)
        if self._marked:
            current_job_file(self._setting.folder, self.trial_id).write_bytes(self._trial.order.job.key.encode())

    def step(self) -> dict[str, Any]:
        """One evaluation further, or more jobs where they are short. What was to start after a stop leaves nothing.

        What is told of stands on disk; where that fails, only the fault is told.
        """
        try:
            return self._step()
        except StorageError as error:
            return {REPORTS: [], WARNINGS: self._notes.take(), STORAGE_ERROR: str(error), "done": True}

    def _step(self) -> dict[str, Any]:
        reports, done = [], False
        until = time.monotonic() + REPORT_EVERY_S
        while True:
            if self._trial.report.num_steps == 0 and self._setting.should_stop():
                done = True
                break
            report = self._trial.advance()
            reports.append(dict(vars(report)))
            done = report.status is not None and not self._left
            if done or report.status is None:
                break
            self._begin()
            if time.monotonic() >= until:
                break
        self._setting.ledger.write()
        return {REPORTS: reports, WARNINGS: self._notes.take(), PLACE: self._where(), "done": done}

    def _where(self) -> dict[str, Any] | None:
        """As `Place`; None as long as it is not known on which nodes its ranks are."""
        crew = self._setting.crew
        nodes = crew.nodes() if crew.num_workers > 1 else [ray.get_runtime_context().get_node_id()]
        held = crew.gpu_bytes(self._setting.device)
        return {"nodes": tuple(node[:8] for node in nodes), "gpu_bytes": held} if nodes else None


def _crew(resources: Resources, folder: RunFolder, data: Mapping[Source, ray.ObjectRef[Dataset]]) -> WorkerGroup:
    """This process, or several that it listens to."""
    if resources.workers == 1:
        return InProcess()
    from pruneyard.orchestrator.ray_backend.train_workers import TrainWorkers

    seen = folder.plan if isinstance(folder.path, ObjectPath) else pruned_file(folder, "")  # which needs no file in it
    return TrainWorkers(resources=resources, data=data, folder=folder, seen=seen)


def current_job_file(folder: RunFolder, trial_id: str) -> Location:
    """The file with the key of the job that a trial of several has come to; it outlives the process, but not the study."""
    return pruned_file(folder, f"trial-{trial_id}")


class _WarningCollector(logging.Handler):
    """Warnings of ours, which the driver says: a worker's own stderr ends in a file of Ray's."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """Those since the last call."""
        taken, self._messages = self._messages, []
        return taken
