"""One attempt of one job in this process: runs it step by step, and leaves its rows and files when it ends."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from pruneyard.orchestrator.artifacts.checkpoint_store import checkpoints_in
from pruneyard.orchestrator.artifacts.reader import checkpoints_of, open_run
from pruneyard.orchestrator.artifacts.write_buffer import WriteBuffer
from pruneyard.orchestrator.artifacts.writer import artifact_files
from pruneyard.orchestrator.errors import RankDiedError
from pruneyard.orchestrator.execution.process_state import PeakMemory
from pruneyard.orchestrator.execution.record import make_record
from pruneyard.orchestrator.execution.report import Report
from pruneyard.orchestrator.execution.worker_group import InProcess, WorkerGroup
from pruneyard.orchestrator.planning.attempt import PlannedAttempt, is_short
from pruneyard.reports.durable import Content, write_durably
from pruneyard.reports.layout import RunFolder
from pruneyard.reports.records import CurveRow, MetricRow, RunRecord, Status
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.reports.store import Attempt, Store
from pruneyard.workloads.checkpoint import CheckpointWriteError
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.workload import Context, CurvePoint, InterruptedJobError, Metric, Outcome, Progress


@dataclass(frozen=True, kw_only=True)
class StudyContext:
    """What the trials of a study have in common. `ledger` takes what short ones leave."""

    study: str
    folder: RunFolder
    ledger: WriteBuffer
    threads: int
    device: torch.device
    load_data: Callable[[Source], Dataset]
    should_stop: Callable[[], bool]
    is_pruned: Callable[[str], bool] = lambda run_key: False
    open_run: Callable[[str], FinishedRun] = open_run
    crew: WorkerGroup = InProcess()


class AttemptRunner:
    """Whatever a job raises becomes its record: `advance` itself fails only where that cannot be written, or where the
    device or a rank is lost and this process with it.
    """

    def __init__(self, order: PlannedAttempt, setting: StudyContext, *, trial_id: str | None = None) -> None:
        self.order, self.setting, self.trial_id = order, setting, trial_id
        self.device = setting.device
        self.report = Report(run_key=order.job.key)
        self._metrics: list[Metric] = []
        self._curves: list[CurvePoint] = []
        self._held: dict[str, Content] = {}
        self._started_at, self._started = datetime.now(UTC), time.monotonic()
        self._memory = PeakMemory(is_counted=False) if is_short(order) else PeakMemory.from_here()  # takes as long as they do
        self._checkpoints = checkpoints_in(setting.folder.checkpoints(order.job.key))
        context = Context(
            checkpoints=self._checkpoints,
            device=self.device,
            load_data=setting.load_data,
            should_stop=setting.should_stop,
            pauses=self._pauses,
            checkpoints_of=checkpoints_of,
            open_run=setting.open_run,
        )
        self._progress = setting.crew.run(order.job, context)

    def advance(self) -> Report:
        """Runs on to the next evaluation, or to the end; from an evaluation on also to an end that was decided elsewhere."""
        if self.report.num_steps and self.setting.is_pruned(self.order.job.key):
            return self._end(Status.PRUNED)
        try:
            progress = next(self._progress)
            if progress.outcome is not None:
                self._leave_artifact(progress.outcome)
        except InterruptedJobError as interruption:
            return self._end(Status.INTERRUPTED, step=interruption.step, paused=self._pauses())
        except RankDiedError:
            raise
        except StorageError:
            self._progress.close()  # type: ignore[attr-defined]
            raise
        except CheckpointWriteError as error:
            with in_words(error.filename):
                raise
        except torch.AcceleratorError:
            self._end(Status.FAILED, error=traceback.format_exc())
            raise
        except Exception:
            return self._end(Status.FAILED, error=traceback.format_exc())
        self._metrics += progress.metrics
        self._curves += progress.curves
        self._keep(progress)
        if progress.outcome is None:
            return self.report
        return self._end(Status.COMPLETED, outcome=progress.outcome)

    def _pauses(self) -> bool:
        """Whether its newest evaluation came at the share up to which it was to run, or behind it."""
        until, report = self.order.until, self.report
        return until < 1 and report.num_steps > 0 and report.step >= until * report.num_steps - 1e-6

    def _keep(self, progress: Progress) -> None:
        newest = {f"{m.split}/{m.name}": m.value for m in progress.metrics if m.step == progress.step}
        self.report = Report(
            run_key=self.order.job.key, step=progress.step, num_steps=progress.num_steps, metrics=newest
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
        self._progress.close()  # type: ignore[attr-defined]
        record = self._record(status, error=error, outcome=outcome)
        metrics = [MetricRow(**vars(metric)) for metric in self._metrics]
        curves = [CurveRow(**vars(point)) for point in self._curves]
        if is_short(self.order):
            files = self._held if status is Status.COMPLETED else {}
            self.setting.ledger.add(Attempt(run=record, metrics=metrics, curves=curves), files)
        else:
            Store(self.setting.folder).write(record, metrics, curves)
        self.report = Report(
            run_key=self.order.job.key,
            step=self.report.step if step is None else step,
            num_steps=self.report.num_steps,
            metrics=self.report.metrics,
            status=status,
            error=None if error is None else error.strip().splitlines()[-1],
            paused=paused,
            peak_memory_bytes=record.peak_memory_bytes,
            gpu_memory_bytes=self._gpu_memory_bytes(),
        )
        return self.report

    def _gpu_memory_bytes(self) -> int | None:
        """None where it computes on no GPU, or on several."""
        if self.device.type != "cuda" or self.setting.crew.num_workers > 1:
            return None
        return int(torch.cuda.get_device_properties(self.device).total_memory)

    def _record(self, status: Status, *, error: str | None, outcome: Outcome | None) -> RunRecord:
        crew = self.setting.crew
        elsewhere = self.device.type == "cuda" or crew.num_workers > 1  # than in this process's memory
        return make_record(
            self.order,
            study=self.setting.study,
            trial_id=self.trial_id,
            status=status,
            error=error,
            started_at=self._started_at,
            wall_s=time.monotonic() - self._started,
            device=crew.device_name(self.device),
            num_workers=crew.num_workers,
            outcome=outcome,
            peak_memory_bytes=(outcome.peak_memory_bytes if outcome else None) if elsewhere else self._memory.bytes(),
            artifact=str(self.setting.folder.artifact(self.order.job.key)) if outcome else None,
            data_fingerprint=self._data_fingerprint() if outcome else None,
        )

    def _data_fingerprint(self) -> str | None:
        """Returns the fingerprint of the job's own data set; None for a job that only reads artifacts of other runs."""
        source: Source | None = getattr(self.order.job.workload, "data", None)
        return None if source is None else self.setting.load_data(source).fingerprint

    def _leave_artifact(self, outcome: Outcome) -> None:
        """The files of a short job wait with its rows."""
        files = artifact_files(
            self.order.job, outcome, attempt=self.order.attempt, data_fingerprint=self._data_fingerprint()
        )
        if is_short(self.order):
            self._held = dict(files)
            return
        artifact = self.setting.folder.artifact(self.order.job.key)
        for name, content in files:
            write_durably(artifact / name, content)
