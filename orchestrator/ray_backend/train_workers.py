"""Runs a trial of several workers on Ray: one Ray Train run per attempt, whose rank 0 reports over our own channel.

Train only places, starts and ends the ranks. It gets no reports and no checkpoints, and it never retries.
"""

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import cloudpickle
from ray.train import get_context
from ray.train.torch import get_device

from pruneyard.cluster import capacity
from pruneyard.cluster.groups import any_ranks_placed
from pruneyard.cluster.holdings import describe_usage, format_amounts
from pruneyard.orchestrator.errors import RankDiedError, RankFailedError
from pruneyard.orchestrator.execution.capacity import workers_per_node
from pruneyard.orchestrator.execution.worker import train_as_rank
from pruneyard.orchestrator.execution.worker_group import (
    COLLECTIVE_TIMEOUT_S,
    Failed,
    MultiWorkerGroup,
    RankTask,
    Started,
    progress_or_raise,
)
from pruneyard.orchestrator.ray_backend.channel import Channel
from pruneyard.orchestrator.ray_backend.memory_requests import (
    DRIVER_BYTES,
    MemoryHistory,
    largest_request_per_worker,
    memory_key,
)
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
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
from pruneyard.workloads.ranks import DistributedRanks
from pruneyard.workloads.user_code.shipping import install, shipment
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

SHUTDOWN_TIMEOUT_S = 120.0  # from the last message of the ranks to the end of their processes
LIVENESS_TIMEOUT_S = 30.0  # within this time a rank answers, or Ray knows that it is gone
RECEIVE_TIMEOUT_S = 0.5

_PROCESS_GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError)
"""The errors of Ray for a process that has ended, also one that its memory monitor killed."""

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
    """Runs each job in new processes that Ray Train places, one per rank.

    data: the data sets shared through the object store. folder: its finished trials tell how much memory a rank takes.
    """

    data: Mapping[Source, "ray.ObjectRef[Dataset]"]
    folder: RunFolder
    _rank_resources: dict[str, float] = field(default_factory=dict, init=False)

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """Runs the job on all ranks and yields what rank 0 reports. Closing the iterator ends the ranks and waits for them.

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

    def _run(self, job: Job, context: Context) -> Iterator[Progress]:
        channel: Any = ray.remote(num_cpus=0)(Channel).options(scheduling_strategy="DEFAULT").remote()
        scratch = tempfile.mkdtemp(prefix="ranks-")  # Train requires a storage path, though nothing there is read
        train_run = _TrainRun(self._trainer(job, context, channel, scratch))
        try:
            for _ in itertools.count():
                progress = self._next_progress(channel, train_run, context)
                yield progress
                if progress.outcome is not None:
                    return
                # Asked only after the yield: by now the caller has recorded the progress on which the pause depends.
                _get(channel.release_barrier.remote(pausing=context.should_pause()))
        finally:
            train_run.end(channel)
            shutil.rmtree(scratch, ignore_errors=True)

    def _trainer(self, job: Job, context: Context, channel: Any, scratch: str) -> TorchTrainer:
        task = self.task(job, context, context.should_stop)
        whole_gpus = self.resources.gpus >= 1  # NCCL needs at least one whole GPU per rank
        trainer = Trainer(
            _rank_function(task, self.data, channel),
            scaling_config=ScalingConfig(
                num_workers=self.resources.workers,
                use_gpu=self.resources.gpus > 0,
                resources_per_worker=self._rank_resources,
            ),
            torch_config=RendezvousConfig(
                backend="nccl" if whole_gpus else "gloo", timeout_s=int(COLLECTIVE_TIMEOUT_S)
            ),
            run_config=RunConfig(
                name=job.key,
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

    def _next_progress(self, channel: Any, train_run: "_TrainRun", context: Context) -> Progress:
        """Returns the next progress that rank 0 reports."""
        while True:
            ended = train_run.has_ended  # read before receiving, so that messages sent before the end are not lost
            references = _get(channel.receive.remote(RECEIVE_TIMEOUT_S))
            if references:
                message = _get(references[0])
                if isinstance(message, Failed):  # without an acknowledgement the rank stays alive until all were asked
                    _raise_cause(message, channel)
                channel.ack.remote()
                self.update(message)
                if isinstance(message, Started):  # by then all ranks have joined the channel
                    self._nodes = _get(channel.nodes.remote())
                if (progress := progress_or_raise(message)) is not None:
                    return progress
            elif ended:
                self._raise_train_error(train_run.error)
            # No rank has joined, so the run may still wait to be placed, for up to `place_within_s`.
            elif not _get(channel.ranks.remote()) and context.should_stop():
                train_run.abandoned = True
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
        if isinstance(failure, (WorkerGroupStartupFailedError, *_PROCESS_GONE)):
            raise RankDiedError(f"a process that the ranks need died: {failure}")
        raise RankFailedError(f"the run of Ray Train ended without a result: {failure}") from error


class _NoRoomError(Exception):
    """The ranks were not placed in time."""


def _raise_cause(failed: Failed, channel: Any) -> None:
    """Raises the error of a rank, or `RankDiedError` if the crash of another rank caused it."""
    # All ranks are asked before the first answer is awaited, so that they answer at the same time.
    answers = {rank: actor.__ray_ready__.remote() for rank, actor in _get(channel.ranks.remote()).items()}
    for rank, answer in answers.items():
        try:
            ray.get(answer, timeout=LIVENESS_TIMEOUT_S)
        except (*_PROCESS_GONE, ray.exceptions.GetTimeoutError) as error:
            raise RankDiedError(
                f"rank {rank} died: {error}\nbecause of it rank {failed.rank} raised\n{failed.error}"
            ) from None
    raise RankFailedError(f"rank {failed.rank}\n{failed.error}")


def _get(reference: Any) -> Any:
    """Returns the object from the channel or a rank. Raises `RankDiedError` if the process that holds it is gone."""
    try:
        return ray.get(reference)
    except _PROCESS_GONE as error:
        raise RankDiedError(
            f"the process between the ranks and their trial, or rank 0, died: {error}"
        ) from error


class _TrainRun:
    """A run of Ray Train in a thread of its own."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self.error: BaseException | None = None
        self.abandoned = False
        self._thread = threading.Thread(target=self._run, args=(trainer,), daemon=True)
        self._thread.start()

    def _run(self, trainer: TorchTrainer) -> None:
        try:
            trainer.fit()
        except Exception as error:
            self.error = error

    @property
    def has_ended(self) -> bool:
        """Returns whether the run has ended, with or without an error."""
        return not self._thread.is_alive()

    def end(self, channel: Any) -> None:
        """Ends the ranks at their next barrier, and waits until their resources are free.

        An abandoned run, which still waits to be placed when the study stops, ends together with this process.
        """
        if not self.abandoned:
            channel.close.remote()
            self._thread.join(SHUTDOWN_TIMEOUT_S)
            if not self.has_ended:
                raise RankDiedError(f"Ray Train did not end its processes within {SHUTDOWN_TIMEOUT_S:g} s")
        ray.kill(channel)


@dataclass(frozen=True)
class _ActorChannel:
    """The channel as a rank uses it: calls of the channel's actor."""

    actor: Any

    def send(self, message: Any) -> None:
        # In a list, because Ray replaces a reference that is an argument itself by its object.
        ray.get(self.actor.send.remote([ray.put(message)]))

    def wait_barrier(self, barrier: int) -> bool | None:
        answer: bool | None = ray.get(self.actor.wait_barrier.remote(barrier))
        return answer


def _rank_function(task: RankTask, data: Mapping[Source, Any], channel: Any) -> Callable[[], None]:
    """Returns the function that Train runs in the process of each rank."""
    # Pickled here: Ray unpickles the function before it can install the code that defines the classes of the job.
    user_code, pickled, references = shipment(), cloudpickle.dumps((task, list(data))), list(data.values())

    def train() -> None:
        install(user_code)
        received, sources = cloudpickle.loads(pickled)
        process = ray.get_runtime_context()
        os.environ["RAY_ADDRESS"] = process.gcs_address
        ray.get(channel.join.remote(get_context().get_world_rank(), process.current_actor, process.get_node_id()))
        train_as_rank(
            received,
            ranks=DistributedRanks(),
            device=get_device(),
            load_data=shared_data_loader(dict(zip(sources, references, strict=True))),
            channel=_ActorChannel(channel),
        )

    return train
