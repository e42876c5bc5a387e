"""Runs trials of several workers on Ray: their ranks are one run of Ray Train, which serves trial after trial of a process.

Train only places, starts and ends the ranks. It gets no reports and no checkpoints, and it never retries. Rank 0 reports over
our own channel.
"""

import itertools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle

from pruneyard.cluster import capacity
from pruneyard.cluster.groups import any_ranks_placed
from pruneyard.cluster.holdings import describe_usage, format_amounts
from pruneyard.orchestrator.errors import RankDiedError, RankFailedError
from pruneyard.orchestrator.execution.capacity import workers_per_node
from pruneyard.orchestrator.execution.worker_group import (
    COLLECTIVE_TIMEOUT_S,
    Failed,
    MultiWorkerGroup,
    Started,
    progress_or_raise,
)
from pruneyard.orchestrator.ray_backend.memory_requests import (
    DRIVER_BYTES,
    MemoryHistory,
    largest_request_per_worker,
    memory_key,
)
from pruneyard.orchestrator.ray_backend.rank_group import (
    PROCESS_GONE,
    RECEIVE_TIMEOUT_S,
    RankGroup,
    get,
    rank_function,
)
from pruneyard.orchestrator.ray_backend.train_patches import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RendezvousConfig,
    RunConfig,
    ScalingConfig,
    TorchTrainer,
    Trainer,
    WorkerGroupError,
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

LIVENESS_TIMEOUT_S = 30.0  # within this time a rank answers, or Ray knows that it is gone
IDLE_S = 5.0  # how long ranks keep their resources after a trial, for the next one

TRAIN_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a lost node counts as a crash; saves one process per trial
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    # Ten times as often as by default: Train notices the end of the ranks only when it checks.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(kw_only=True)
class TrainWorkers(MultiWorkerGroup):
    """Runs jobs in processes that Ray Train places, one per rank.

    A job takes over the ranks of the job before, if that one ended without a crash at most `IDLE_S` ago and they have as much
    memory as it requests. So does a job that was stopped early, paused or resumed.

    data: the data sets shared through the object store. folder: its finished trials tell how much memory a rank takes.
    """

    data: Mapping[Source, "ray.ObjectRef[Dataset]"]
    folder: RunFolder
    _rank_resources: dict[str, float] = field(default_factory=dict, init=False)
    _idle: RankGroup | None = field(default=None, init=False)
    _idle_lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _idle_timer: threading.Timer | None = field(default=None, init=False)

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Runs the job on all ranks and yields what rank 0 reports. Closing the iterator waits until no rank runs the job.

        Raises `RankFailedError` with the traceback of the first rank that raised, `RankDiedError` if a process crashed, and
        `TimeoutError` if not all ranks could be placed although no other trial held resources for its ranks.
        """
        os.environ.update(TRAIN_ENVIRONMENT, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=str(self.resources.place_within_s))
        self._rank_resources = {"CPU": self.resources.cpus, "GPU": self.resources.gpus}
        if memory := self._memory_request(job):
            self._rank_resources["memory"] = memory
        while True:
            # Asked before and after the attempt: trials that ended in between held the resources, too.
            others_placed = any_ranks_placed()
            try:
                yield from self._run(job, context)
                return
            except _NoRoomError as error:
                if not others_placed and not any_ranks_placed():  # otherwise try again once those trials have ended
                    raise TimeoutError(str(error)) from None

    def close(self) -> None:
        """Ends the ranks that wait for a next job."""
        if (group := self._take_idle()) is not None:
            group.end()

    def _run(self, job: Job, context: Context) -> Iterator[Progress]:
        group = self._group()
        can_serve_again = False
        try:
            get(group.channel.begin_attempt.remote(self._pickled_task(job, context)))
            for _ in itertools.count():
                progress = self._next_progress(group, context)
                yield progress
                if progress.outcome is not None:
                    break
                # Asked only after the yield: by now the caller has recorded the progress on which the pause depends.
                get(group.channel.release_barrier.remote(pausing=context.should_pause()))
            can_serve_again = True
        except (GeneratorExit, InterruptedJobError):
            can_serve_again = not group.is_abandoned
            raise
        finally:
            if can_serve_again and group.end_attempt():
                self._keep(group)
            else:
                group.end()

    def _group(self) -> RankGroup:
        """Returns the group of the job before, if it still runs and has the resources that are requested now, or a new one."""
        group = self._take_idle()
        if group is not None and not group.has_ended and group.has_at_least(self._rank_resources):
            return group
        if group is not None:
            group.end()
        return RankGroup(self._rank_resources, self._trainer)

    def _keep(self, group: RankGroup) -> None:
        """Keeps a group for the next job, which must come within `IDLE_S`: others may wait for its resources."""
        timer = threading.Timer(IDLE_S, self._end_if_idle, [group])
        timer.daemon = True
        with self._idle_lock:
            self._idle, self._idle_timer = group, timer
        timer.start()

    def _take_idle(self) -> RankGroup | None:
        with self._idle_lock:
            group, self._idle = self._idle, None
            if self._idle_timer is not None:
                self._idle_timer.cancel()  # else it would end the group early that is kept after the next job
        return group

    def _end_if_idle(self, group: RankGroup) -> None:
        with self._idle_lock:
            if self._idle is not group:
                return
            self._idle = None
        group.end()

    def _pickled_task(self, job: Job, context: Context) -> bytes:
        # Pickled here: Ray unpickles arguments before a rank can install the code that defines the classes of the job.
        task: bytes = cloudpickle.dumps(self.task(job, context, context.should_stop))
        return task

    def _trainer(self, channel: Any, scratch: str) -> TorchTrainer:
        whole_gpus = self.resources.gpus >= 1  # NCCL needs at least one whole GPU per rank
        trainer = Trainer(
            rank_function(self.data, channel),
            scaling_config=ScalingConfig(
                num_workers=self.resources.workers,
                use_gpu=self.resources.gpus > 0,
                resources_per_worker=self._rank_resources,
            ),
            torch_config=RendezvousConfig(
                backend="nccl" if whole_gpus else "gloo", timeout_s=int(COLLECTIVE_TIMEOUT_S)
            ),
            run_config=RunConfig(
                name="ranks",
                storage_path=scratch,
                failure_config=FailureConfig(
                    # By default Train retries its controller without limit; here the driver alone retries.
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        trainer.channel = channel
        return trainer

    def _memory_request(self, job: Job) -> int:
        """Returns the bytes of memory that each rank requests; 0 as long as no run of the folder exceeded its fair share.

        The request never exceeds what all ranks of a trial can get at once, next to the driver processes of all trials. Ranks
        with GPUs request no memory.
        """
        if self.resources.gpus:
            return 0
        nodes = capacity.node_resources()
        cores = [(offered.get("CPU", 0.0), offered.get("GPU", 0.0)) for offered in nodes]
        ranks_on_node = [workers_per_node(self.resources, cpus=cpus, gpus=gpus) for cpus, gpus in cores]
        driver_bytes = sum(ranks_on_node) // self.num_workers * DRIVER_BYTES
        left = [max(0, int(offered.get("memory", 0)) - driver_bytes) for offered in nodes]
        usable = [(memory, count) for memory, count in zip(left, ranks_on_node, strict=True) if count]
        most = largest_request_per_worker(self.num_workers, usable)
        if not most:
            return 0
        share = min(memory // count for memory, count in usable)
        history = MemoryHistory.from_folder(self.folder)
        return history.request(memory_key(job.kind, job.identity), share=share, node=most)

    def _next_progress(self, group: RankGroup, context: Context) -> Progress:
        """Returns the next progress that rank 0 reports."""
        channel = group.channel
        while True:
            ended = group.has_ended  # read before receiving, so that messages sent before the end are not lost
            references = get(channel.receive.remote(RECEIVE_TIMEOUT_S))
            if references:
                message = get(references[0])
                if isinstance(message, Failed):  # without an acknowledgement the rank stays alive until all were asked
                    _raise_cause(message, channel)
                channel.ack.remote()
                self.update(message)
                if isinstance(message, Started):  # by then all ranks have joined the channel
                    self._nodes = get(channel.nodes.remote())
                if (progress := progress_or_raise(message)) is not None:
                    return progress
            elif ended:
                self._raise_train_error(group.error)
            # No rank has joined, so the run may still wait to be placed, for up to `place_within_s`.
            elif not get(channel.ranks.remote()) and context.should_stop():
                group.is_abandoned = True
                raise InterruptedJobError(0)

    def _raise_train_error(self, error: BaseException | None) -> None:
        """Raises the reason why the Train run ended before rank 0 sent its outcome."""
        failure = error.controller_failure if isinstance(error, ControllerError) else error
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            requested = format_amounts(self._rank_resources)
            timeout = f"{self.resources.place_within_s:g} s"
            head = f"no room for {self.num_workers} workers, each with {requested}, within {timeout}"
            raise _NoRoomError("\n".join([*(f"  {line}" for line in describe_usage()), head]))
        if isinstance(failure, WorkerGroupError):
            # A crashed rank is the cause, even where other ranks raised because of it.
            dead = [
                rank
                for rank, why in failure.worker_failures.items()
                if isinstance(why, WorkerHealthCheckFailedError)
            ]
            if dead:
                raise RankDiedError(
                    f"rank {dead[0]} of {self.num_workers} died: {failure.worker_failures[dead[0]]}"
                )
        if isinstance(failure, (WorkerGroupStartupFailedError, *PROCESS_GONE)):
            raise RankDiedError(f"a process that the ranks need died: {failure}")
        raise RankFailedError(f"the run of Ray Train ended without a result: {failure}") from error


class _NoRoomError(Exception):
    """The ranks were not placed in time."""


def _raise_cause(failed: Failed, channel: Any) -> None:
    """Raises the error of a rank, or `RankDiedError` if the crash of another rank caused it."""
    # All ranks are asked before the first answer is awaited, so that they answer at the same time.
    answers = {rank: actor.__ray_ready__.remote() for rank, actor in get(channel.ranks.remote()).items()}
    for rank, answer in answers.items():
        try:
            ray.get(answer, timeout=LIVENESS_TIMEOUT_S)
        except (*PROCESS_GONE, ray.exceptions.GetTimeoutError) as error:
            raise RankDiedError(
                f"rank {rank} died: {error}\nbecause of it rank {failed.rank} raised\n{failed.error}"
            ) from None
    raise RankFailedError(f"rank {failed.rank}\n{failed.error}")
