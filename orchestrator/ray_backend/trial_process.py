"""Runs one trial after the other in this process, each in a freshly reset process state."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray import cloudpickle

from pruneyard.orchestrator.coordination.control_files import ControlFiles, pruned_file
from pruneyard.orchestrator.execution.attempt_runner import AttemptRunner, StudyContext, make_study_context
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot
from pruneyard.orchestrator.execution.worker_group import WorkerGroup
from pruneyard.orchestrator.planning.attempt import PlannedAttempt
from pruneyard.orchestrator.ray_backend.claims import claim
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.location import Location
from pruneyard.reports.objects import ObjectPath
from pruneyard.reports.records import Status
from pruneyard.reports.storage import StorageError
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.user_code.shipping import install

# Keys of the results of a trial.
REPORTS = "reports"
WARNINGS = "notes"
PLACE = "where"
STORAGE_ERROR = "fault"

INPUTS = "inputs"
"""Key of a trial's config, a list: the numbers of attempts of the `ActorInput`, or references to inputs of later attempts."""

REPORT_EVERY_S = 1.0  # short jobs that end within this time are reported together


@dataclass(frozen=True, kw_only=True)
class ActorInput:
    """The arguments of an actor that may be objects of the user's own classes; `sources` are those of the shared data sets."""

    attempts: Sequence[PlannedAttempt]
    sources: Sequence[Source]


class TrialProcess:
    """Runs trials of Tune. A trial is a planned attempt, or several short ones, which it claims one after the other.

    Each `step` runs to the next evaluation, or through several short jobs. Rows and files are written by this process, so Tune
    carries only scalars.
    """

    def __init__(
        self,
        *,
        user_code: bytes,
        pickled: bytes,
        study: str,
        folder: Location,
        stop_file: Location,
        data: Sequence[ray.ObjectRef[Dataset]],
    ) -> None:
        """Prepares the process. pickled: an `ActorInput`. data: the data sets of its sources, in their order."""
        install(user_code)
        received: ActorInput = cloudpickle.loads(pickled)
        self._shared = shared = dict(zip(received.sources, data, strict=True))
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        self._warnings = _WarningCollector()
        for package in ("pruneyard.workloads", "pruneyard.reports"):
            logging.getLogger(package).addHandler(self._warnings)
        self._process = ProcessSnapshot.capture()
        self._attempts = received.attempts
        self._make_context = partial(
            make_study_context,
            study=study,
            folder=RunFolder(folder),
            load_data=shared_data_loader(shared),
            # One `ControlFiles` for all calls, since it caches the listing of an object store.
            should_stop=partial(ControlFiles(stop_file.parent).has, stop_file.name),
            # Any run key serves here: only the folder is used.
            is_pruned=ControlFiles(pruned_file(RunFolder(folder), "x").parent).has,
        )
        self._folder = RunFolder(folder)
        self._contexts: dict[Resources, StudyContext] = {}

    def close(self) -> None:
        """Ends the workers that this process keeps for a next trial."""
        for context in self._contexts.values():
            context.worker_group.close()

    def start_trial(self, config: Mapping[str, Any], trial_id: str) -> None:
        """Starts a trial. config: as `RunnableTrials` has created it."""
        self._inputs, self._position, self._trial_id = config[INPUTS], 0, trial_id
        first = self._attempt_of(self._inputs[0])
        self._study_context = self._context_of(first.resources)
        self._start_attempt(first)

    def _attempt_of(self, job_input: Any) -> PlannedAttempt:
        if isinstance(job_input, int):
            return self._attempts[job_input]
        pickled, references = ray.get(job_input)
        received: ActorInput = cloudpickle.loads(pickled)
        self._shared.update(zip(received.sources, references, strict=True))
        (planned,) = received.attempts
        return planned

    def _context_of(self, resources: Resources) -> StudyContext:
        """Returns the context of trials with these resources. Trials of any number of workers may share this process."""
        for other, context in self._contexts.items():
            if other != resources:
                context.worker_group.close()  # its idle ranks would keep what those of this shape need
        if resources not in self._contexts:
            workers = partial(_train_workers, resources, self._folder, self._shared)
            self._contexts[resources] = self._make_context(resources=resources, make_worker_group=workers)
        return self._contexts[resources]

    def _start_attempt(self, planned: PlannedAttempt) -> None:
        self._process.restore(threads=self._study_context.threads)
        together = len(self._inputs) > 1
        self._runner = AttemptRunner(planned, self._study_context, trial_id=self._trial_id, together=together)

    def _start_next(self) -> bool:
        """Starts the next attempt of this trial; returns False if there is none, or the driver has taken it back."""
        self._position += 1
        if self._position == len(self._inputs) or not claim(self._folder, self._trial_id, self._position):
            return False
        self._start_attempt(self._attempt_of(self._inputs[self._position]))
        return True

    def step(self) -> dict[str, Any]:
        """Runs to the next evaluation, or through several short jobs. An attempt not yet begun at a stop is not started.

        What is reported has been written. If writing fails, only the storage error is reported.
        """
        try:
            return self._step()
        except StorageError as error:
            warned = [(self._runner.report.run_key, self._warnings.take())]
            return {REPORTS: [], WARNINGS: warned, STORAGE_ERROR: str(error), "done": True}

    def _step(self) -> dict[str, Any]:
        reports, warned, done = [], [], False
        until = time.monotonic() + REPORT_EVERY_S
        while True:
            if self._runner.report.num_steps == 0 and self._study_context.should_stop():
                done = True
                break
            report = self._runner.advance()
            reports.append(dict(vars(report)))
            if messages := self._warnings.take():
                warned.append((report.run_key, messages))
            done = report.status is not None and not self._start_next()
            # A failure is reported at once, since the driver may stop all others.
            if done or report.status in (None, Status.FAILED) or time.monotonic() >= until:
                break
        # Written before it is reported, since the driver never asks again for what was reported.
        self._study_context.write_buffer.write()
        if messages := self._warnings.take():  # of the flush, or of a stop
            warned.append((self._runner.report.run_key, messages))
        return {REPORTS: reports, WARNINGS: warned, PLACE: self._place(), "done": done}

    def _place(self) -> dict[str, Any] | None:
        """Returns the fields of `TrialPlace`; None until it is known on which nodes the ranks are."""
        worker_group = self._study_context.worker_group
        nodes = worker_group.nodes() if worker_group.num_workers > 1 else [ray.get_runtime_context().get_node_id()]
        peak_bytes = worker_group.gpu_bytes(self._study_context.device)
        return {"nodes": tuple(node[:8] for node in nodes), "gpu_bytes": peak_bytes} if nodes else None


def _train_workers(
    resources: Resources, folder: RunFolder, data: Mapping[Source, ray.ObjectRef[Dataset]]
) -> WorkerGroup:
    """Returns the worker group for trials of several workers; imports Ray Train, which other trials need not wait for."""
    from pruneyard.orchestrator.ray_backend.train_workers import TrainWorkers

    # In a folder every rank sees the folder of control files even if it is empty; an object store has no empty folders.
    shared_file = folder.plan if isinstance(folder.path, ObjectPath) else pruned_file(folder, "")
    return TrainWorkers(resources=resources, data=data, folder=folder, shared_file=shared_file)


class _WarningCollector(logging.Handler):
    """Collects our warnings for the driver to log; the stderr of a worker ends up in a log file of Ray."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(record.getMessage())

    def take(self) -> list[str]:
        """Returns the warnings since the last call."""
        taken, self._messages = self._messages, []
        return taken
