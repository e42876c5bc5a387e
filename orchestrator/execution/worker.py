"""What a rank of a trial of several workers does, wherever it runs: it trains, and tells of it over a line."""

import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from pruneyard.orchestrator.artifacts.reader import checkpoints_of, open_run
from pruneyard.orchestrator.execution.process_state import PeakMemory, gpu_bytes, reset_numerics
from pruneyard.orchestrator.execution.worker_group import (
    Failed,
    GpuMemory,
    RankChannel,
    RankTask,
    Started,
    Stopped,
    StorageFailed,
    device_name,
)
from pruneyard.reports.storage import StorageError, in_words
from pruneyard.workloads.checkpoint import CheckpointWriteError
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.ranks import Ranks
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress


def train_as_rank(
    task: RankTask,
    *,
    ranks: Ranks,
    device: torch.device,
    load_data: Callable[[Source], Dataset],
    line: RankChannel,
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
        _tell_first(line, ranks, Started(device_name=device_name(device)))
        with closing(task.workload.run(context)) as job:  # type: ignore[type-var]
            for gate, progress in enumerate(job):
                if (held := gpu_bytes(device)) is not None:
                    _tell_first(line, ranks, GpuMemory(gpu_bytes=held))
                _tell_first(line, ranks, _with_memory(progress, memory, device))
                if progress.outcome is not None or (pausing := line.wait_barrier(gate)) is None:
                    return
    except InterruptedJobError as interruption:
        _tell_first(line, ranks, Stopped(step=interruption.step))
    except (CheckpointWriteError, StorageError) as error:
        line.send(StorageFailed(reason=_in_words(error)))
        raise
    except Exception:
        line.send(Failed(rank=ranks.rank, error=traceback.format_exc()))
        raise


def _in_words(error: OSError) -> str:
    try:
        with in_words(error.filename):
            raise error
    except StorageError as said:
        return str(said)


def _tell_first(line: RankChannel, ranks: Ranks, message: Any) -> None:
    """By rank 0: what all of them have to tell."""
    if ranks.rank == 0:
        line.send(message)


def _with_memory(progress: Progress, memory: PeakMemory, device: torch.device) -> Progress:
    """The outcome knows the peak of this process where the device has none of its own."""
    if progress.outcome is None or device.type == "cuda":
        return progress
    return replace(progress, outcome=replace(progress.outcome, peak_memory_bytes=memory.bytes()))
