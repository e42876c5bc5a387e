"""Trains as one rank of a trial with several workers, and reports over a channel; used with and without Ray."""

import traceback
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch

from pruneyard.orchestrator.artifacts.reader import open_checkpoints, open_run
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
    channel: RankChannel,
) -> None:
    """Trains from the newest checkpoint to the end, or until the channel says stop.

    Raises what the job raises, after sending it over the channel.
    """
    # Read by `should_pause` below, which the job calls after each barrier.
    pausing: bool | None = False
    try:
        if not task.shared_file.exists():
            raise FileNotFoundError(
                f"rank {ranks.rank} does not see {task.shared_file}: with resources.workers above 1, the results folder "
                "must be on storage that all nodes mount at the same path"
            )
        reset_numerics(threads=task.threads)
        memory = PeakMemory.start()
        context = Context(
            checkpoints=task.checkpoints,
            device=device,
            load_data=load_data,
            open_run=open_run,
            open_checkpoints=open_checkpoints,
            should_stop=task.should_stop,
            should_pause=lambda: bool(pausing),
            ranks=ranks,
        )
        _send_from_rank_0(channel, ranks, Started(device_name=device_name(device)))
        with closing(task.workload.run(context)) as job:  # type: ignore[type-var]
            for barrier, progress in enumerate(job):
                # Sent before the progress: at a progress, the trial stops reading until the next barrier.
                if (peak_bytes := gpu_bytes(device)) is not None:
                    _send_from_rank_0(channel, ranks, GpuMemory(gpu_bytes=peak_bytes))
                _send_from_rank_0(channel, ranks, _with_memory(progress, memory, device))
                if progress.outcome is not None or (pausing := channel.wait_barrier(barrier)) is None:
                    return
    except InterruptedJobError as interruption:
        _send_from_rank_0(channel, ranks, Stopped(step=interruption.step))
    except (CheckpointWriteError, StorageError) as error:
        # From any rank: storage may fail on one node only.
        channel.send(StorageFailed(reason=_storage_reason(error)))
        raise
    except Exception:
        channel.send(Failed(rank=ranks.rank, error=traceback.format_exc()))
        raise


def _storage_reason(error: OSError) -> str:
    """Returns the message of the `StorageError` that `in_words` makes of this error."""
    try:
        with in_words(error.filename):
            raise error
    except StorageError as storage_error:
        return str(storage_error)


def _send_from_rank_0(channel: RankChannel, ranks: Ranks, message: Any) -> None:
    """Sends a message that is the same on all ranks, from rank 0 alone."""
    if ranks.rank == 0:
        channel.send(message)


def _with_memory(progress: Progress, memory: PeakMemory, device: torch.device) -> Progress:
    """Returns the progress with the peak memory of this process in its outcome; a GPU measures its own peak."""
    if progress.outcome is None or device.type == "cuda":
        return progress
    return replace(progress, outcome=replace(progress.outcome, peak_memory_bytes=memory.bytes()))
