"""The worker processes of one trial, and the messages between them."""

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

COLLECTIVE_TIMEOUT_S = 600.0  # how long a rank waits for the other ranks in one collective operation


class RankChannel(Protocol):
    """The channel to the trial as a rank uses it."""

    def send(self, message: Any) -> None:
        """Sends a message, and waits until it was received."""
        ...

    def wait_barrier(self, barrier: int) -> bool | None:
        """Waits at barrier 0, 1, ...; returns whether to pause there, or None to end. The answer is the same on all ranks."""
        ...


@dataclass(frozen=True, kw_only=True)
class Started:
    """The message that rank 0 is about to train, on a device of this name."""

    device_name: str


@dataclass(frozen=True, kw_only=True)
class GpuMemory:
    """The peak of GPU memory of rank 0 so far."""

    gpu_bytes: int


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """The message that all ranks stopped on request, with a checkpoint of `step` on disk."""

    step: int


@dataclass(frozen=True, kw_only=True)
class StorageFailed:
    """The message that the storage of results failed, for this reason; the job is not to blame."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The traceback of what a rank raised.

    The first such message is the cause, unless a rank crashed: then the others raise because of the crash.
    """

    rank: int
    error: str


@dataclass(frozen=True, kw_only=True)
class RankTask:
    """The task that every rank of an attempt receives. `shared_file` is a file in the results folder that each rank must see."""

    workload: Workload
    checkpoints: Checkpoints
    should_stop: Callable[[], bool]
    shared_file: Location
    threads: int


@dataclass
class MultiWorkerGroup:
    """The common base of worker groups with several processes. shared_file: see `RankTask`."""

    resources: Resources
    shared_file: Location
    _device_name: str = field(default="unknown", init=False)
    _nodes: Sequence[str] = field(default=(), init=False)
    _gpu_bytes: int | None = field(default=None, init=False)

    @property
    def num_workers(self) -> int:
        """Returns the number of ranks of a trial."""
        return self.resources.workers

    def device_name(self, device: torch.device) -> str:
        """Returns the device name of rank 0, or `unknown` before it has started."""
        return self._device_name

    def nodes(self) -> Sequence[str]:
        """Returns the nodes of the ranks once they have started; empty without Ray."""
        return self._nodes

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Returns the peak of GPU bytes last reported by rank 0; None if it has used no GPU."""
        return self._gpu_bytes

    def update(self, message: Any) -> None:
        """Stores the device name or the GPU memory of rank 0, if the message carries one."""
        match message:
            case Started():
                # A new attempt: the peak of the attempt before is not its own.
                self._device_name, self._gpu_bytes = message.device_name, None
            case GpuMemory():
                self._gpu_bytes = message.gpu_bytes

    def task(self, job: Job, context: Context, should_stop: Callable[[], bool]) -> RankTask:
        """Returns what each rank of an attempt receives."""
        return RankTask(
            workload=job.workload,
            checkpoints=context.checkpoints,
            should_stop=should_stop,
            shared_file=self.shared_file,
            threads=self.resources.cpus,
        )


def progress_or_raise(message: Any) -> Progress | None:
    """Returns the progress in a message of a rank, or None if it carries none.

    Raises `InterruptedJobError` or `StorageError` where the job would have raised them in this process.
    """
    match message:
        case Stopped():
            raise InterruptedJobError(message.step)
        case StorageFailed():
            raise StorageError(message.reason)
        case Progress():
            return message
    return None


def device_name(device: torch.device) -> str:
    """Returns the product name of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


class WorkerGroup(Protocol):
    """The processes that run a job."""

    @property
    def num_workers(self) -> int:
        """Returns the number of processes that train."""
        ...

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Runs the job and yields what rank 0 reports. Raises `RankDiedError` if one of the processes crashed."""
        ...

    def close(self) -> None:
        """Ends the processes that are kept for a next job. Does not end a job that runs."""
        ...

    def device_name(self, device: torch.device) -> str:
        """Returns the name of the device that the workers run on, for the record."""
        ...

    def nodes(self) -> Sequence[str]:
        """Returns the Ray ids of the nodes of worker processes other than this one, each once, that of rank 0 first."""
        ...

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Returns the peak of GPU memory in bytes of rank 0; None if it has used no GPU."""
        ...


@dataclass(frozen=True)
class InProcess:
    """The worker group of one: this process."""

    num_workers: int = 1

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Runs the job in this process."""
        return job.workload.run(context)

    def close(self) -> None:
        """Does nothing: there is no other process."""

    def device_name(self, device: torch.device) -> str:
        """Returns the product name of the GPU, or `cpu`."""
        return device_name(device)

    def nodes(self) -> Sequence[str]:
        """Returns an empty sequence: no other process trains."""
        return ()

    def gpu_bytes(self, device: torch.device) -> int | None:
        """Returns the peak of GPU memory of this process in bytes; None if it has used no GPU."""
        return gpu_bytes(device)
