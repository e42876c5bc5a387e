"""What a rank of a trial of several workers does, wherever it runs: it trains, and tells of it over a line."""

import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch

from orchestrator.finished import checkpoints_of, open_run
from orchestrator.job import Job, Resources
from orchestrator.process import PeakMemory, gpu_bytes, reset_numerics
from reports.location import Location
from reports.storage import StorageError, in_words
from workloads.checkpoint import Checkpoints, CheckpointWriteError
from workloads.data.dataset import Dataset, Source
from workloads.ranks import Ranks
from workloads.workload import Context, InterruptedJobError, Progress, Workload

COLLECTIVE_WITHIN_S = 600.0  # a rank waits so long for the others at one point


class Told(Protocol):
    """A line, as a rank sees it."""

    def tell(self, message: Any) -> None:
        """Waits until it was taken."""
        ...

    def at_gate(self, gate: int) -> bool | None:
        """Waits: whether to pause there, None for the end; the same on every rank."""
        ...


@dataclass(frozen=True, kw_only=True)
class Begun:
    """Rank 0 is about to train, on a device of this name."""

    device_name: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """The most of its GPU's memory that rank 0 has held so far."""

    gpu_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """All ranks ended on request; the checkpoint at `step` is on disk."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Unwritten:
    """The storage of results failed, which is no fault of the job; the reason is for the user."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What a rank raised. The first that is told is the cause, unless a rank died: others then raise because of it."""

    rank: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every rank of an attempt is given. `seen` stands in the folder of results."""

    workload: Workload
    checkpoints: Checkpoints
    should_stop: Callable[[], bool]
    seen: Location
    threads: int


@dataclass
class SeveralRanks:
    """What crews of several workers have in common. seen: as in `Task`."""

    resources: Resources
    seen: Location
    _device_name: str = field(default="unknown", init=False)
    _nodes: Sequence[str] = field(default=(), init=False)
    _gpu_bytes: int | None = field(default=None, init=False)

    @property
    def num_workers(self) -> int:
        """Ranks of a trial."""
        return self.resources.workers

    def device_name(self, device: torch.device) -> str:
        """That of rank 0, once it has begun."""
        return self._device_name

    def nodes(self) -> Sequence[str]:
        """Those of the ranks, once they have begun; none without Ray."""
        return self._nodes

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Of rank 0, as it told last."""
        return self._gpu_bytes

    def note(self, told: Any) -> None:
        """What a rank tells of itself."""
        match told:
            case Begun():
                self._device_name, self._gpu_bytes = told.device_name, None
            case Held():
                self._gpu_bytes = told.gpu_bytes

    def task(self, job: Job, context: Context, should_stop: Callable[[], bool]) -> Task:
        """What each of them is given."""
        return Task(
            workload=job.workload,
            checkpoints=context.checkpoints,
            should_stop=should_stop,
            seen=self.seen,
            threads=self.resources.cpus,
        )


def train_as_rank(
    task: Task,
    *,
    ranks: Ranks,
    device: torch.device,
    load_data: Callable[[Source], Dataset],
    line: Told,
) -> None:
    """From the newest checkpoint to the end, or to where the line says so; raises what the job raises, after telling it."""
    pausing: bool | None = False
    try:
        if not task.seen.exists():
            raise FileNotFoundError(
                f"{task.seen} is not there for rank {ranks.rank}: with resources.workers above 1 the folder of results "
                "must lie on storage that all nodes share, at the same path"
            )
        reset_numerics(threads=task.threads)
        memory = PeakMemory.from_here()
        context = Context(
            checkpoints=task.checkpoints,
            device=device,
            load_data=load_data,
            open_run=open_run,
            checkpoints_of=checkpoints_of,
            should_stop=task.should_stop,
            pauses=lambda: bool(pausing),
            ranks=ranks,
        )
        _tell_first(line, ranks, Begun(device_name=device_name(device)))
        with closing(task.workload.run(context)) as job:  # type: ignore[type-var]
            for gate, progress in enumerate(job):
                if (held := gpu_bytes(device)) is not None:
                    _tell_first(line, ranks, Held(gpu_bytes=held))
                _tell_first(line, ranks, _with_memory(progress, memory, device))
                if progress.outcome is not None or (pausing := line.at_gate(gate)) is None:
                    return
    except InterruptedJobError as interruption:
        _tell_first(line, ranks, Stopped(step=interruption.step))
    except (CheckpointWriteError, StorageError) as error:
        line.tell(Unwritten(reason=_in_words(error)))
        raise
    except Exception:
        line.tell(Failed(rank=ranks.rank, error=traceback.format_exc()))
        raise


def heard(told: Any) -> Progress | None:
    """What it is to the trial: progress, or the error that the job would have raised there, or neither."""
    match told:
        case Stopped():
            raise InterruptedJobError(told.step)
        case Unwritten():
            raise StorageError(told.reason)
        case Progress():
            return told
    return None


def _in_words(error: OSError) -> str:
    try:
        with in_words(error.filename):
            raise error
    except StorageError as said:
        return str(said)


def _tell_first(line: Told, ranks: Ranks, message: Any) -> None:
    """By rank 0: what all of them have to tell."""
    if ranks.rank == 0:
        line.tell(message)


def _with_memory(progress: Progress, memory: PeakMemory, device: torch.device) -> Progress:
    """The outcome knows the peak of this process where the device has none of its own."""
    if progress.outcome is None or device.type == "cuda":
        return progress
    return replace(progress, outcome=replace(progress.outcome, peak_memory_bytes=memory.bytes()))


def device_name(device: torch.device) -> str:
    """As records have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
