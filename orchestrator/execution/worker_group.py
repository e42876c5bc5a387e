"""The processes of one trial, and the messages between them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from pruneyard.orchestrator.execution.process_state import gpu_bytes
from pruneyard.orchestrator.spec.job import Job, Resources
from pruneyard.reports.location import Location
from pruneyard.reports.storage import StorageError
from pruneyard.workloads.checkpoint import Checkpoints
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress, Workload

COLLECTIVE_TIMEOUT_S = 600.0  # a rank waits so long for the others at one point


class RankChannel(Protocol):
    """A line, as a rank sees it."""

    def send(self, message: Any) -> None:
        """Waits until it was taken."""
        ...

    def wait_barrier(self, gate: int) -> bool | None:
        """Waits: whether to pause there, None for the end; the same on every rank."""
        ...


@dataclass(frozen=True, kw_only=True)
class Started:
    """Rank 0 is about to train, on a device of this name."""

    device_name: str


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """The most of its GPU's memory that rank 0 has held so far."""

    gpu_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """All ranks ended on request; the checkpoint at `step` is on disk."""

    step: int


@dataclass(frozen=True, kw_only=True)
class StorageFailed:
    """The storage of results failed, which is no fault of the job; the reason is for the user."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """What a rank raised. The first that is told is the cause, unless a rank died: others then raise because of it."""

    rank: int
    error: str


@dataclass(frozen=True, kw_only=True)
class RankTask:
    """What every rank of an attempt is given. `seen` stands in the folder of results."""

    workload: Workload
    checkpoints: Checkpoints
    should_stop: Callable[[], bool]
    seen: Location
    threads: int


@dataclass
class MultiWorkerGroup:
    """What crews of several workers have in common. seen: as in `RankTask`."""

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
            case Started():
                self._device_name, self._gpu_bytes = told.device_name, None
            case GpuMemory():
                self._gpu_bytes = told.gpu_bytes

    def task(self, job: Job, context: Context, should_stop: Callable[[], bool]) -> RankTask:
        """What each of them is given."""
        return RankTask(
            workload=job.workload,
            checkpoints=context.checkpoints,
            should_stop=should_stop,
            seen=self.seen,
            threads=self.resources.cpus,
        )


def progress_or_raise(told: Any) -> Progress | None:
    """What it is to the trial: progress, or the error that the job would have raised there, or neither."""
    match told:
        case Stopped():
            raise InterruptedJobError(told.step)
        case StorageFailed():
            raise StorageError(told.reason)
        case Progress():
            return told
    return None


def device_name(device: torch.device) -> str:
    """As records have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class WorkerGroup(Protocol):
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
class InProcess:
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
