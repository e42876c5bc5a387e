"""Runs one attempt of one job step by step from this process, and writes its rows and artifacts at the end."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from pruneyard.orchestrator.artifacts.checkpoint_store import checkpoints_in
from pruneyard.orchestrator.artifacts.reader import open_checkpoints
from pruneyard.orchestrator.artifacts.reader_cache import CachedRunReader
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.artifacts.writer import artifact_files
from pruneyard.orchestrator.errors import RankDiedError
from pruneyard.orchestrator.execution.process_state import PeakMemory
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.execution.worker_group import InProcess, WorkerGroup
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, is_short
from pruneyard.orchestrator.spec.job import Resources
from pruneyard.orchestrator.spec.run_key import check_source
from pruneyard.reports.attempt import Attempt
from pruneyard.reports.durable import Content, FilesTogether, drop_left_over
from pruneyard.reports.layout import RunFolder, relative_artifact
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord, Status
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.reports.store import Store
from pruneyard.workloads.checkpoint import CheckpointWriteError
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.user_code.error_line import error_line
from pruneyard.workloads.workload import (
    Context,
    CurvePoint,
    InterruptedJobError,
    Metric,
    Outcome,
    Progress,
    StillRunningError,
)


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """The settings and functions that all trials of a study share in one process.

    Args:
        study: the name of the spec.
        folder: the results folder.
        write_buffer: collects the rows and files of short jobs.
        threads: torch threads of a trial.
        load_data: returns the data set of a source.
        should_stop: returns whether the study was asked to stop.
        is_pruned: returns whether the run of this key was stopped early.
        open_run: opens the artifact of a finished run.
        worker_group: the processes that train.
    """

    study: str
    folder: RunFolder
    write_buffer: WriteBuffer
    threads: int
    device: torch.device
    load_data: Callable[[Source], Dataset]
    should_stop: Callable[[], bool]
    is_pruned: Callable[[str], bool]
    open_run: Callable[[str], FinishedRun]
    worker_group: WorkerGroup


def make_study_context(
    *,
    study: str,
    folder: RunFolder,
    resources: Resources,
    load_data: Callable[[Source], Dataset],
    should_stop: Callable[[], bool],
    is_pruned: Callable[[str], bool],
    make_worker_group: Callable[[], WorkerGroup],
) -> StudyContext:
    """Returns the context of a study for this process; `make_worker_group` is called for trials of several workers only."""
    return StudyContext(
        study=study,
        folder=folder,
        write_buffer=WriteBuffer(folder),
        threads=resources.cpus,
        device=torch.device("cuda" if resources.gpus else "cpu"),
        load_data=load_data,
        should_stop=should_stop,
        is_pruned=is_pruned,
        open_run=CachedRunReader().open_run,
        worker_group=InProcess() if resources.workers == 1 else make_worker_group(),
    )


@dataclass(frozen=True, kw_only=True)
class _Start:
    """When an attempt began, and the peak of memory since."""

    at: datetime
    monotonic_s: float
    memory: PeakMemory

    @classmethod
    def now(cls, planned: PlannedAttempt) -> "_Start":
        # Resetting the peak counter takes as long as a whole short job, so short jobs go without it.
        memory = PeakMemory(is_counted=False) if is_short(planned) else PeakMemory.start()
        return cls(at=datetime.now(UTC), monotonic_s=time.monotonic(), memory=memory)


class AttemptRunner:
    """Runs one planned attempt from evaluation to evaluation.

    Whatever the job raises becomes part of its record. `advance` itself raises only where the record cannot be written, or
    where this process cannot be used any more: the device or a rank is lost, or code of the user's own does not end.
    """

    def __init__(
        self, planned: PlannedAttempt, study_context: StudyContext, *, trial_id: str | None = None, together: bool = False
    ) -> None:
        """together: whether its files and rows are flushed together with those of other jobs, by the write buffer."""
        drop_left_over(study_context.folder.attempt_record(planned.job.key, planned.attempt))
        self._together = together
        self.planned, self.study_context, self.trial_id = planned, study_context, trial_id
        self.device = study_context.device
        self.report = Report(run_key=planned.job.key)
        self._metrics: list[Metric] = []
        self._curves: list[CurvePoint] = []
        self._files, self._files_to_write = FilesTogether(), dict[str, Content]()  # the second are those of a short job
        self._start: _Start | None = None  # set by the first `advance`: a process may have to wait for it
        context = Context(
            checkpoints=checkpoints_in(study_context.folder.checkpoints(planned.job.key)),
            device=self.device,
            load_data=study_context.load_data,
            should_stop=study_context.should_stop,
            should_pause=self._reached_pause,
            open_checkpoints=open_checkpoints,
            open_run=study_context.open_run,
        )
        self._progress = study_context.worker_group.run(planned.job, context)

    def advance(self) -> Report:
        """Runs the job up to its next evaluation or its end, and returns where it stands.

        A job that was stopped early ends before its next evaluation, but never before its first.
        """
        if self._start is None:
            self._start = _Start.now(self.planned)
        try:
            return self._advance()
        except BaseException:
            self._files.discard()
            raise

    def _advance(self) -> Report:
        if self.report.num_steps and self.study_context.is_pruned(self.planned.job.key):
            return self._end(Status.PRUNED)
        job = self.planned.job
        try:
            if self.report.num_steps == 0:
                check_source(job.kind, job.workload, job.identity, job.key)
            progress = next(self._progress)
            if progress.outcome is not None:
                self._write_artifact(progress.outcome)
        except InterruptedJobError as interruption:
            # A stop and a pause raise the same error; the newest evaluation tells which of them it was.
            return self._end(Status.INTERRUPTED, step=interruption.step, paused=self._reached_pause())
        except RankDiedError:  # the driver writes this record: whether to retry is its decision
            raise
        except StorageError:
            # No record can be written, so `_end` is not called; the processes of the job must end all the same.
            self._progress.close()  # type: ignore[attr-defined]
            raise
        except CheckpointWriteError as error:
            with in_words(error.filename):
                raise
        except torch.AcceleratorError:  # every later call on the device of this process would fail as well
            # The record is written while this process lives; the driver would know only that it crashed.
            self._end(Status.FAILED, error=traceback.format_exc())
            self.study_context.write_buffer.write()
            raise
        except Exception:
            return self._end(Status.FAILED, error=traceback.format_exc())
        self._metrics += progress.metrics
        self._curves += progress.curves
        self._update_report(progress)
        if progress.outcome is None:
            return self.report
        return self._end(Status.COMPLETED, outcome=progress.outcome)

    def _reached_pause(self) -> bool:
        """Returns whether the newest evaluation has reached the share of all steps at which this attempt pauses."""
        until, report = self.planned.until, self.report
        # The tolerance is in steps: the product is rounded.
        return until < 1 and report.num_steps > 0 and report.step >= until * report.num_steps - 1e-6

    def _update_report(self, progress: Progress) -> None:
        # A job may report one step in parts.
        before = self.report.metrics if progress.step == self.report.step else {}
        newest = {**before, **{f"{m.split}/{m.name}": m.value for m in progress.metrics if m.step == progress.step}}
        self.report = Report(
            run_key=self.planned.job.key, step=progress.step, num_steps=progress.num_steps, metrics=newest
        )

    def _end(
        self,
        status: Status,
        *,
        error: str | None = None,
        outcome: Outcome | None = None,
        step: int | None = None,
        paused: bool = False,
    ) -> Report:
        still_running: StillRunningError | None = None
        try:
            # Ends the processes of the job first, so that nothing of this attempt runs when its record is written.
            self._progress.close()  # type: ignore[attr-defined]
        except StillRunningError as raised:
            still_running = raised
        record = self._record(status, error=error, outcome=outcome)
        metrics = [MetricRow(**vars(metric)) for metric in self._metrics]
        curves = [CurveRow(**vars(point)) for point in self._curves]
        if is_short(self.planned):
            files = self._files_to_write if status is Status.COMPLETED else {}
            self.study_context.write_buffer.add(Attempt(run=record, metrics=metrics, curves=curves), files)
        else:
            if status is not Status.COMPLETED:
                self._files.discard()
            if self._together:
                attempt = Attempt(run=record, metrics=metrics, curves=curves)
                self.study_context.write_buffer.add_written(attempt, self._files)
            else:
                Store(self.study_context.folder).write(record, metrics, curves, files=self._files)
        self.report = Report(
            run_key=self.planned.job.key,
            step=self.report.step if step is None else step,
            num_steps=self.report.num_steps,
            metrics=self.report.metrics,
            status=status,
            error=None if error is None else error_line(error),
            paused=paused,
            wall_s=record.wall_s,
            peak_memory_bytes=record.peak_memory_bytes,
            gpu_memory_bytes=self._gpu_memory_bytes(),
        )
        if still_running is not None:
            raise still_running
        return self.report

    def _gpu_memory_bytes(self) -> int | None:
        """Returns the memory of the GPU in bytes; None for a trial on the CPU or on several GPUs."""
        if self.device.type != "cuda" or self.study_context.worker_group.num_workers > 1:
            return None
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def _record(self, status: Status, *, error: str | None, outcome: Outcome | None) -> RunRecord:
        worker_group, start = self.study_context.worker_group, self._start
        assert start is not None
        uses_other_memory = self.device.type == "cuda" or worker_group.num_workers > 1  # than that of this process
        return make_record(
            self.planned,
            study=self.study_context.study,
            trial_id=self.trial_id,
            status=status,
            error=error,
            started_at=start.at,
            wall_s=time.monotonic() - start.monotonic_s,
            device=worker_group.device_name(self.device),
            num_workers=worker_group.num_workers,
            outcome=outcome,
            peak_memory_bytes=(outcome.peak_memory_bytes if outcome else None) if uses_other_memory else start.memory.bytes(),
            artifact=relative_artifact(self.planned.job.key) if outcome else None,
            data_fingerprint=self._data_fingerprint() if outcome else None,
        )

    def _data_fingerprint(self) -> str | None:
        """Returns the fingerprint of the job's own data set; None for a job that only reads artifacts of other runs."""
        source: Source | None = getattr(self.planned.job.workload, "data", None)
        return None if source is None else self.study_context.load_data(source).fingerprint

    def _write_artifact(self, outcome: Outcome) -> None:
        """Writes the artifact aside, to appear with the record; the files of a short job wait for the write buffer."""
        files = artifact_files(
            self.planned.job,
            outcome,
            attempt=self.planned.attempt,
            data_fingerprint=self._data_fingerprint(),
            data_read=self.planned.data_read,
        )
        if is_short(self.planned):
            self._files_to_write = dict(files)
            return
        artifact = self.study_context.folder.artifact(self.planned.job.key)
        for name, content in files:
            self._files.add(artifact / name, content)
