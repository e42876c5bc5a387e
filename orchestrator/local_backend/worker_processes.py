"""A trial of several workers without Ray: processes of this machine, each at the other end of a pipe."""

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pruneyard.cluster.loopback import loopback_environment
from pruneyard.orchestrator.errors import RankDiedError, RankFailedError
from pruneyard.orchestrator.execution.worker import train_as_rank
from pruneyard.orchestrator.execution.worker_group import (
    COLLECTIVE_TIMEOUT_S,
    Failed,
    MultiWorkerGroup,
    RankTask,
    progress_or_raise,
)
from pruneyard.orchestrator.planning.preflight import sources_of
from pruneyard.orchestrator.spec.job import Job, Resources
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.ranks import Together
from pruneyard.workloads.workload import Context, Progress

_RUN = "import sys; from pruneyard.orchestrator.local_backend.worker_processes import main; main(int(sys.argv[1]))"


SHUTDOWN_TIMEOUT_S = 30.0  # after the last word, or after another one has ended


@dataclass(kw_only=True)
class LocalWorkers(MultiWorkerGroup):
    """Runs jobs as so many ranks, one job after the other.

    data: read already. should_stop: can be asked in another process.
    """

    data: Mapping[Source, Dataset]
    should_stop: Callable[[], bool]

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """See `RanksOnRay.run`."""
        with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
            ranks = [_Process.start() for _ in range(self.num_workers)]
            try:
                for rank, process in enumerate(ranks):
                    process.pipe.send_bytes(
                        serialize(self._orders(job, context, rank, Path(folder) / "meeting"))
                    )
                while True:
                    progress = self._next(ranks)
                    yield progress
                    if progress.outcome is not None:
                        return
                    pausing = context.pauses()
                    for process in ranks:
                        process.answer(pausing)
            finally:
                _end(ranks)

    def _orders(self, job: Job, context: Context, rank: int, meeting: Path) -> "WorkerInit":
        task = self.task(job, context, self.should_stop)
        data = {source: self.data[source] for source in sources_of(job).values() if source in self.data}
        return WorkerInit(task=task, data=data, meeting=meeting, rank=rank, resources=self.resources)

    def _next(self, ranks: "list[_Process]") -> Progress:
        """What rank 0 reports next."""
        while True:
            ready = wait([process.pipe for process in ranks if not process.has_ended])
            for rank, process in enumerate(ranks):
                if process.pipe not in ready:
                    continue
                told = process.receive(rank)
                if isinstance(told, Failed):
                    self._raise_cause(told, ranks)
                self.note(told)
                if (progress := progress_or_raise(told)) is not None:
                    return progress

    def _raise_cause(self, failed: Failed, ranks: "list[_Process]") -> None:
        """What a rank says is the cause, unless another one died."""
        for rank, process in enumerate(ranks):
            if (
                rank != failed.rank and (status := process.fate()) < 0
            ):  # by a signal; one that raises ends with 1
                words = f"rank {rank} died, with status {status}\nbecause of it rank {failed.rank} raised\n{failed.error}"
                raise RankDiedError(words)
        raise RankFailedError(f"rank {failed.rank}\n{failed.error}")


def serialize(message: Any) -> bytes:
    """Whole, with the contents of tensors: a pipe would send handles to memory that its sender must keep."""
    content = io.BytesIO()
    torch.save(message, content)
    return content.getvalue()


def deserialize(content: bytes) -> Any:
    """From a process of ours."""
    return torch.load(io.BytesIO(content), weights_only=False)


@dataclass(frozen=True, kw_only=True)
class WorkerInit:
    """What a process is sent first. The ranks meet in the file `meeting`."""

    task: RankTask
    data: Mapping[Source, Dataset]
    meeting: Path
    rank: int
    resources: Resources


@dataclass
class _Process:
    """One rank, seen from here."""

    popen: "subprocess.Popen[bytes]"
    pipe: Connection
    has_ended: bool = False

    @classmethod
    def start(cls) -> "_Process":
        """In a session of its own, so that Ctrl-C reaches the study alone, which asks ranks to stop."""
        ours, theirs = socket.socketpair()
        popen = subprocess.Popen(
            [sys.executable, "-c", _RUN, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **loopback_environment()},
            start_new_session=True,
        )
        theirs.close()
        return cls(popen, Connection(ours.detach()))

    def receive(self, rank: int) -> Any:
        """What it tells; None where it has ended as a rank does, which all but rank 0 may do before rank 0 was heard."""
        try:
            return deserialize(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            status = self.popen.wait(timeout=SHUTDOWN_TIMEOUT_S)
            if status or rank == 0:
                raise RankDiedError(f"rank {rank} died, with status {status}") from None
            self.has_ended = True
            return None

    def answer(self, pausing: bool) -> None:
        """At a gate; one that is gone is found when it is listened to."""
        try:
            self.pipe.send(pausing)
        except OSError:
            return

    def fate(self) -> int:
        """How it ended, or ends now; 0 where it lives."""
        try:
            return self.popen.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return 0


def _end(ranks: list[_Process]) -> None:
    """A closed pipe is an answer at every gate; who stands elsewhere is killed."""
    for process in ranks:
        process.pipe.close()
    until = time.monotonic() + SHUTDOWN_TIMEOUT_S
    for process in ranks:
        while process.popen.poll() is None and time.monotonic() < until:
            if any(other.popen.poll() not in (None, 0) for other in ranks):
                process.popen.kill()  # it waits for one that is gone
            time.sleep(0.02)
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


@dataclass(frozen=True)
class _ByPipe:
    """The line as a rank holds it."""

    pipe: Connection

    def send(self, message: Any) -> None:
        """Waits no longer than the pipe is full."""
        try:
            self.pipe.send_bytes(serialize(message))
        except OSError:
            return  # nobody listens any more

    def wait_barrier(self, gate: int) -> bool | None:
        """What comes next over the pipe."""
        try:
            answer: bool = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return answer


def main(handle: int) -> None:
    """The life of one rank. handle: of its end of the pipe."""
    pipe = Connection(handle)
    orders: WorkerInit = deserialize(pipe.recv_bytes())
    gpus, rank = orders.resources.gpus, orders.rank
    device = torch.device("cuda", int(rank * gpus)) if gpus else torch.device("cpu")
    if gpus:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if gpus >= 1 else "gloo",
        init_method=f"file://{orders.meeting}",
        rank=rank,
        world_size=orders.resources.workers,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    os.environ["RANK"] = str(rank)

    def load_data(source: Source) -> Dataset:
        return orders.data[source] if source in orders.data else source.load()

    train_as_rank(orders.task, ranks=Together(), device=device, load_data=load_data, line=_ByPipe(pipe))
    dist.destroy_process_group()
