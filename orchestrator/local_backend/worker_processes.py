"""Runs a trial of several workers without Ray: local processes, each connected by a pipe."""

import io
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pruneyard.cluster.loopback import loopback_environment
from pruneyard.orchestrator.errors import RankDiedError, RankFailedError
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot
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
from pruneyard.workloads.ranks import DistributedRanks
from pruneyard.workloads.user_code.shipping import install, shipment
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

_RUN_WORKER = "import sys; from pruneyard.orchestrator.local_backend.worker_processes import main; main(int(sys.argv[1]))"

SHUTDOWN_TIMEOUT_S = 30.0  # after the last message, or after another process has ended


@dataclass(kw_only=True)
class LocalWorkers(MultiWorkerGroup):
    """Runs each job in local processes, one per rank, which serve job after job; after a crash or an error they start anew.

    data: data sets that are loaded already. should_stop: must work in another process.
    """

    data: Mapping[Source, Dataset]
    should_stop: Callable[[], bool]
    _idle: "list[_Process]" = field(default_factory=list, init=False)
    _user_code: bytes = field(default=b"", init=False)

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Runs the job on all ranks and yields what rank 0 reports. Closing the iterator ends the job on all ranks.

        Raises `RankFailedError` with the traceback of the first rank that raised, and `RankDiedError` if a process crashed.
        """
        with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
            ranks = self._processes()
            can_serve_again = False
            try:
                for rank, process in enumerate(ranks):
                    process.is_idle = False
                    process.pipe.send_bytes(
                        serialize(self._worker_init(job, context, rank, Path(folder) / "rendezvous"))
                    )
                while True:
                    progress = self._next_progress(ranks)
                    yield progress
                    if progress.outcome is not None:
                        break
                    pausing = context.should_pause()
                    for process in ranks:
                        process.release_barrier(pausing)
                can_serve_again = True
            except (GeneratorExit, InterruptedJobError) as end:
                if isinstance(end, GeneratorExit) and progress.outcome is None:  # the ranks wait at the barrier after it
                    for process in ranks:
                        process.release_barrier(None)
                can_serve_again = True
                raise
            finally:
                if can_serve_again and _all_idle(ranks):
                    self._idle = ranks
                else:
                    _shut_down(ranks)

    def close(self) -> None:
        """Ends the processes that wait for a next job."""
        ranks, self._idle = self._idle, []
        _shut_down(ranks)

    def _processes(self) -> "list[_Process]":
        """Returns the processes of the job before, if all still run and know the user's code, or new ones."""
        user_code = shipment()
        ranks, self._idle = self._idle, []
        if ranks and user_code == self._user_code and all(process.popen.poll() is None for process in ranks):
            return ranks
        _shut_down(ranks)
        self._user_code = user_code
        ranks = [_Process.start() for _ in range(self.num_workers)]
        for process in ranks:
            process.pipe.send_bytes(user_code)
        return ranks

    def _worker_init(self, job: Job, context: Context, rank: int, rendezvous_file: Path) -> "WorkerInit":
        task = self.task(job, context, self.should_stop)
        # Only the data sets of this job, since they are copied through the pipe.
        data = {source: self.data[source] for source in sources_of(job).values() if source in self.data}
        return WorkerInit(
            task=task, data=data, rendezvous_file=rendezvous_file, rank=rank, resources=self.resources
        )

    def _next_progress(self, ranks: "list[_Process]") -> Progress:
        """Returns the next progress that rank 0 reports."""
        while True:
            ready = wait([process.pipe for process in ranks if not process.is_idle])
            for rank, process in enumerate(ranks):
                if process.pipe not in ready:
                    continue
                message = process.receive(rank)
                if isinstance(message, Failed):
                    self._raise_cause(message, ranks)
                process.is_idle = isinstance(message, Idle)
                self.update(message)
                if (progress := progress_or_raise(message)) is not None:
                    return progress

    def _raise_cause(self, failed: Failed, ranks: "list[_Process]") -> None:
        """Raises the error of a rank, or `RankDiedError` if the crash of another rank caused it."""
        # The rank that reports first may only have been the first to notice, so the others are asked before it is blamed.
        for rank, process in enumerate(ranks):
            # A negative status means that a signal ended the process; a rank that raises exits with 1.
            # A rank that loses its partner raises and reports first; the crash itself shows in the exit status.
            if rank != failed.rank and (status := process.exit_status()) < 0:
                words = f"rank {rank} died, with status {status}\nbecause of it rank {failed.rank} raised\n{failed.error}"
                raise RankDiedError(words)
        raise RankFailedError(f"rank {failed.rank}\n{failed.error}")


def serialize(message: Any) -> bytes:
    """Returns the pickled message with the contents of its tensors.

    A pipe of torch would send handles to shared memory, which the sender would have to keep.
    """
    content = io.BytesIO()
    torch.save(message, content)
    return content.getvalue()


def deserialize(content: bytes) -> Any:
    """Returns the message. Unpickles, so only for bytes of our own processes."""
    return torch.load(io.BytesIO(content), weights_only=False)


@dataclass(frozen=True)
class Idle:
    """The message of a rank that its job has ended, and that it waits for the next one."""


@dataclass(frozen=True, kw_only=True)
class WorkerInit:
    """The message to a worker process that starts a job; the first message of all is the user's code.

    torch.distributed initializes itself over `rendezvous_file`.
    """

    task: RankTask
    data: Mapping[Source, Dataset]
    rendezvous_file: Path
    rank: int
    resources: Resources


@dataclass
class _Process:
    """The process of one rank, as the trial sees it."""

    popen: "subprocess.Popen[bytes]"
    pipe: Connection
    is_idle: bool = True

    @classmethod
    def start(cls) -> "_Process":
        """Starts a process in a new session, so that Ctrl-C reaches only the study, which asks its ranks to stop."""
        ours, theirs = socket.socketpair()
        popen = subprocess.Popen(
            [sys.executable, "-c", _RUN_WORKER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            # `sys.path` may have changed since this process started; the ranks must import the same code.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **loopback_environment()},
            start_new_session=True,
        )
        # Otherwise this process holds the other end open and never sees that the rank closed it.
        theirs.close()
        # `detach`, because the connection closes the descriptor itself.
        return cls(popen, Connection(ours.detach()))

    def receive(self, rank: int) -> Any:
        """Returns the next message. Raises `RankDiedError` if the process has ended."""
        try:
            return deserialize(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            status = self.popen.wait(timeout=SHUTDOWN_TIMEOUT_S)
            raise RankDiedError(f"rank {rank} died, with status {status}") from None

    def release_barrier(self, pausing: bool | None) -> None:
        """Lets the rank continue or pause, or end its job where it is None.

        The end of its process is noticed by `receive`, so a broken pipe is ignored.
        """
        try:
            self.pipe.send(pausing)
        except OSError:
            return

    def exit_status(self) -> int:
        """Waits up to a second for the end of the process; returns its exit status, or 0 if it still runs."""
        try:
            return self.popen.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return 0


def _all_idle(ranks: list[_Process]) -> bool:
    """Waits until all ranks have ended their job; returns False if one raised or crashed, or takes too long."""
    until = time.monotonic() + SHUTDOWN_TIMEOUT_S
    while busy := [process for process in ranks if not process.is_idle]:
        ready = wait([process.pipe for process in busy], timeout=max(0.0, until - time.monotonic()))
        if not ready:
            return False
        for rank, process in enumerate(ranks):
            if process.pipe in ready:
                try:
                    message = process.receive(rank)
                except RankDiedError:
                    return False
                if isinstance(message, Failed):
                    return False
                process.is_idle = isinstance(message, Idle)
    return True


def _shut_down(ranks: list[_Process]) -> None:
    """Ends all processes: closing the pipe ends a rank at its next barrier; what does not get there is killed."""
    for process in ranks:
        process.pipe.close()
    until = time.monotonic() + SHUTDOWN_TIMEOUT_S
    for process in ranks:
        while process.popen.poll() is None and time.monotonic() < until:
            if any(other.popen.poll() not in (None, 0) for other in ranks):
                process.popen.kill()  # it waits in a collective operation for a rank that crashed
            time.sleep(0.02)
        if process.popen.poll() is None:
            process.popen.kill()
        process.popen.wait()


@dataclass(frozen=True)
class _PipeChannel:
    """The channel of a rank over its end of the pipe."""

    pipe: Connection

    def send(self, message: Any) -> None:
        """Sends a message; waits only while the pipe is full."""
        try:
            self.pipe.send_bytes(serialize(message))
        except OSError:
            return  # the trial has closed the pipe

    def wait_barrier(self, barrier: int) -> bool | None:
        """Returns the answer that comes next over the pipe, or None once the trial has closed it."""
        try:
            answer: bool = self.pipe.recv()
        except (EOFError, OSError):
            return None
        return answer


def main(handle: int) -> None:
    """Runs one rank of job after job, until the trial closes the pipe. handle: the file descriptor of its end of the pipe."""
    pipe = Connection(handle)
    # First: the jobs may be of classes that are found only then.
    install(pipe.recv_bytes())
    process = ProcessSnapshot.capture()
    while True:
        try:
            init: WorkerInit = deserialize(pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return
        process.restore(threads=init.resources.cpus)
        _run_job(init, pipe)
        _PipeChannel(pipe).send(Idle())


def _run_job(init: WorkerInit, pipe: Connection) -> None:
    gpus, rank = init.resources.gpus, init.rank
    # With a fraction, consecutive ranks share a GPU: 0.5 puts ranks 0 and 1 on GPU 0.
    device = torch.device("cuda", int(rank * gpus)) if gpus else torch.device("cpu")
    if gpus:
        # Before the process group is initialized: NCCL uses the current device.
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if gpus >= 1 else "gloo",
        init_method=f"file://{init.rendezvous_file}",
        rank=rank,
        world_size=init.resources.workers,
        timeout=timedelta(seconds=COLLECTIVE_TIMEOUT_S),
    )
    os.environ["RANK"] = str(rank)

    def load_data(source: Source) -> Dataset:
        return init.data[source] if source in init.data else source.load()

    train_as_rank(init.task, ranks=DistributedRanks(), device=device, load_data=load_data, channel=_PipeChannel(pipe))
    dist.destroy_process_group()
