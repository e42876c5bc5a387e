"""Two processes that are ranks of one gloo group on loopback and run given functions until they are killed."""

import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

SIZE = 2
TIMEOUT_S = 120.0  # for a result; a case takes a second or two, the first one longer
PRELOADED = ["torch.distributed", "pruneyard.workloads.training.loop", "pruneyard.workloads.data.sources.digits"]


class RankFailedError(Exception):
    """The error of a rank, with its traceback."""


class Pair:
    """Two ranks that get the same requests; a pair that failed cannot be used again."""

    def __init__(self, folder: Path) -> None:
        """folder: of this pair alone; the rendezvous of the ranks is a file in it."""
        context = multiprocessing.get_context("forkserver")  # one process imports for all pairs
        context.set_forkserver_preload(PRELOADED)
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, folder / "rendezvous", theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def alive(self) -> bool:
        """Returns whether both processes are alive."""
        return all(process.is_alive() for process in self._processes)

    def begin(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts a module-level function on both ranks."""
        for pipe in self._pipes:
            pipe.send((function, arguments))

    def end(self) -> list[Any]:
        """Returns the results of both ranks, by rank. Raises `RankFailedError`, after killing both, or `TimeoutError`."""
        results: dict[int, Any] = {}
        deadline = time.monotonic() + TIMEOUT_S
        while len(results) < SIZE:
            missing = [rank for rank in range(SIZE) if rank not in results]
            ready = wait([self._pipes[rank] for rank in missing], timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                self.kill()
                raise TimeoutError(f"ranks {missing} did not answer within {TIMEOUT_S} s")
            for rank in missing:
                if self._pipes[rank] in ready:
                    results[rank] = self._receive(rank)
        return [results[rank] for rank in range(SIZE)]

    def run(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Runs a module-level function on both ranks; returns their results."""
        self.begin(function, *arguments)
        return self.end()

    def _receive(self, rank: int) -> Any:
        try:
            failed, result = self._pipes[rank].recv()
        except EOFError:
            failed, result = True, "it ended without a result"
        if failed:
            self.kill()
            raise RankFailedError(f"rank {rank}: {result}")
        return result

    def kill(self) -> None:
        """Ends both processes at once, wherever they are."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            process.join()
            pipe.close()


def _serve(rank: int, rendezvous: Path, pipe: Connection) -> None:
    """Runs one rank: executes the functions that it receives."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=TIMEOUT_S / 2),
    )
    while True:
        function, arguments = pipe.recv()
        try:
            pipe.send((False, function(*arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
