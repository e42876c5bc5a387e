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
PATIENCE_S = 120.0  # for an answer; a case takes a second or two, the first one more
PRELOADED = ["torch._dynamo", "torch.distributed", "pruneyard.workloads.training.loop", "pruneyard.workloads.data.sources.digits"]


class RankFailedError(Exception):
    """What a rank raised, with its traceback."""


class Pair:
    """Both ranks get the same request; a pair that failed cannot be used again."""

    def __init__(self, folder: Path) -> None:
        """folder: of this pair alone; the ranks meet in a file of it."""
        context = multiprocessing.get_context("forkserver")  # one process imports for all pairs
        context.set_forkserver_preload(PRELOADED)
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(SIZE):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, folder / "meeting", theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def alive(self) -> bool:
        """Whether both wait or work."""
        return all(process.is_alive() for process in self._processes)

    def begin(self, act: Callable[..., Any], *arguments: Any) -> None:
        """Starts a module-level function on both ranks."""
        for pipe in self._pipes:
            pipe.send((act, arguments))

    def end(self) -> list[Any]:
        """What the ranks returned, in their order. Raises `RankFailedError`, after killing both, or `TimeoutError`."""
        answers: dict[int, Any] = {}
        until = time.monotonic() + PATIENCE_S
        while len(answers) < SIZE:
            missing = [rank for rank in range(SIZE) if rank not in answers]
            ready = wait([self._pipes[rank] for rank in missing], timeout=max(0.0, until - time.monotonic()))
            if not ready:
                self.kill()
                raise TimeoutError(f"ranks {missing} did not answer within {PATIENCE_S} s")
            for rank in missing:
                if self._pipes[rank] in ready:
                    answers[rank] = self._answer_of(rank)
        return [answers[rank] for rank in range(SIZE)]

    def run(self, act: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Both."""
        self.begin(act, *arguments)
        return self.end()

    def _answer_of(self, rank: int) -> Any:
        try:
            failed, answer = self._pipes[rank].recv()
        except EOFError:
            failed, answer = True, "it ended without a word"
        if failed:
            self.kill()
            raise RankFailedError(f"rank {rank}: {answer}")
        return answer

    def kill(self) -> None:
        """Ends both processes at once, wherever they are."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, signal.SIGKILL)
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            process.join()
            pipe.close()


def _serve(rank: int, meeting: Path, pipe: Connection) -> None:
    """The life of one rank."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=SIZE,
        timeout=timedelta(seconds=PATIENCE_S / 2),
    )
    while True:
        act, arguments = pipe.recv()
        try:
            pipe.send((False, act(*arguments)))
        except Exception:
            pipe.send((True, traceback.format_exc()))
