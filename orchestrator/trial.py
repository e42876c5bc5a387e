"""One attempt of one job in this process: runs it step by step, and leaves its rows and files when it ends."""

import json
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any, Protocol

import safetensors.torch
import torch

from orchestrator.errors import RankDiedError
from orchestrator.fingerprint import canonical
from orchestrator.finished import checkpoints_of, open_run
from orchestrator.job import Job
from orchestrator.ledger import Ledger
from orchestrator.object_checkpoints import checkpoints_in
from orchestrator.process import PeakMemory, gpu_bytes
from reports.durable import Content, write_durably
from reports.layout import RunFolder
from reports.predictions import predictions_file
from reports.records import CurveRow, MetricRow, RunRecord, Status
from reports.storage import StorageError, in_words
from reports.store import Attempt, Store
from workloads.checkpoint import CheckpointWriteError
from workloads.data.dataset import Dataset, Source
from workloads.earlier import FinishedRun
from workloads.nodes.graph import Graph
from workloads.workload import Context, CurvePoint, InterruptedJobError, Metric, Outcome, Progress


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job to be run, which start of it this is, and up to which share of its steps: there it pauses, with a checkpoint."""

    job: Job
    attempt: int
    until: float = 1.0


class Crew(Protocol):
    """The processes that run a job: one of them yields what all of them report."""

    @property
    def num_workers(self) -> int:
        """How many they are."""
        ...

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Raises `RankDiedError` where one of them is gone."""
        ...

    def device_name(self, device: torch.device) -> str:
        """Of the device that they run on, for the record."""
        ...

    def nodes(self) -> Sequence[str]:
        """By Ray's ids, on which other processes than this one train, each once; that of rank 0 comes first."""
        ...

    def gpu_bytes(self, device: torch.device) -> int | None:
        """The most that the process which reports was seen to hold of its GPU's memory; None where it has used none."""
        ...


@dataclass(frozen=True)
class ThisProcess:
    """No other one."""

    num_workers: int = 1

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Here."""
        return job.workload.run(context)

    def device_name(self, device: torch.device) -> str:
        """Its product name, or `cpu`."""
        return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

    def nodes(self) -> Sequence[str]:
        """None."""
        return ()

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Of this process."""
        return gpu_bytes(device)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the trials of a study have in common. `ledger` takes what short ones leave."""

    study: str
    folder: RunFolder
    ledger: Ledger
    threads: int
    device: torch.device
    load_data: Callable[[Source], Dataset]
    should_stop: Callable[[], bool]
    is_pruned: Callable[[str], bool] = lambda run_key: False
    open_run: Callable[[str], FinishedRun] = open_run
    crew: Crew = ThisProcess()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Where a trial stands; `status` is None while it goes on. `metrics` are the newest, by `split/name`.

    paused: it was INTERRUPTED because it has come as far as it was to come for now.
    """

    run_key: str
    step: int = 0
    num_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: Status | None = None
    error: str | None = None
    paused: bool = False
    peak_memory_bytes: int | None = None  # once it has ended
    gpu_memory_bytes: int | None = None  # that its GPU has in all


class Trial:
    """Whatever a job raises becomes its record: `advance` itself fails only where that cannot be written, or where the
    device or a rank is lost and this process with it.
    """

    def __init__(self, order: Order, setting: Setting, *, trial_id: str | None = None) -> None:
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
            self.setting.ledger.hold(Attempt(run=record, metrics=metrics, curves=curves), files)
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
            data_fingerprint=data.fingerprint if outcome and (data := self._data()) is not None else None,
        )

    def _data(self) -> Dataset | None:
        """The job's own data set; None for a job that only reads what others left."""
        source: Source | None = getattr(self.order.job.workload, "data", None)
        return None if source is None else self.setting.load_data(source)

    def _leave_artifact(self, outcome: Outcome) -> None:
        """The files of a short job wait with its rows."""
        if is_short(self.order):
            self._held = dict(self._files(outcome))
            return
        artifact = self.setting.folder.artifact(self.order.job.key)
        for name, content in self._files(outcome):
            write_durably(artifact / name, content)

    def _files(self, outcome: Outcome) -> Iterator[tuple[str, Content]]:
        """Network, masks and predictions; the manifest comes last, so that where it stands, they stand too."""
        key, names = self.order.job.key, list(outcome.files)
        tensors = {"model.safetensors": outcome.weights, "masks.safetensors": outcome.masks} if outcome.weights else {}
        for name, content in tensors.items():
            contiguous = {key: tensor.contiguous() for key, tensor in content.items()}
            names.append(name)
            yield name, safetensors.torch.save(contiguous)
        yield from outcome.files.items()
        if outcome.predictions:
            splits = {s: (p.row_ids, p.labels, p.logits) for s, p in outcome.predictions.items()}
            names.append(self.setting.folder.predictions(key).name)
            yield names[-1], predictions_file(splits, num_extra=outcome.num_extra)
        data = self._data()
        manifest = {
            "run_key": key,
            "attempt": self.order.attempt,
            "kind": self.order.job.kind,
            "spec": self.order.job.resolved,
            "parents": self.order.job.parents,
            **({} if data is None else _described(data)),
            "files": sorted(names),
            "code_version": _code_version(),
        }
        yield "manifest.json", json.dumps(manifest, indent=1).encode()


def is_short(order: Order) -> bool:
    """Whether a trial of the scheduler takes several such jobs."""
    return getattr(order.job.workload, "per_trial", 1) > 1


@cache
def _code_version() -> str:
    return version("pruneyard")


def _described(data: Dataset | Graph) -> dict[str, Any]:
    """What a network that was trained on the data wants to see, and which data they were; of a graph, only that."""
    which = {"data_fingerprint": data.fingerprint}
    if isinstance(data, Graph):
        return which
    return {**which, "image_shape": data.image_shape, "mean": data.mean, "std": data.std}


def make_record(
    order: Order,
    *,
    study: str,
    status: Status,
    started_at: datetime,
    wall_s: float,
    device: str,
    num_workers: int,
    trial_id: str | None = None,
    error: str | None = None,
    outcome: Outcome | None = None,
    peak_memory_bytes: int | None = None,
    artifact: str | None = None,
    data_fingerprint: str | None = None,
) -> RunRecord:
    """The row of one attempt in `runs`."""
    job = order.job
    return RunRecord(
        run_key=job.key,
        study=study,
        stage=job.stage,
        kind=job.kind,
        trial_id=trial_id,
        attempt=order.attempt,
        parent_key=",".join(job.parents) or None,
        status=status,
        error=error,
        seed=job.workload.seed,
        **job.described,
        spec_json=canonical(job.resolved),
        identity_json=canonical(job.identity),
        data_fingerprint=data_fingerprint,
        started_at=started_at,
        ended_at=datetime.now(UTC),
        wall_s=wall_s,
        train_s=outcome.train_s if outcome else None,
        device=device,
        num_workers=num_workers,
        train_flops=outcome.train_flops if outcome else None,
        num_parameters=outcome.num_parameters if outcome else None,
        num_active=outcome.num_active if outcome else None,
        peak_memory_bytes=peak_memory_bytes,
        code_version=_code_version(),
        torch_version=str(torch.__version__),
        artifact=artifact,
    )
