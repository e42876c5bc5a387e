"""Runs trials of several workers on Ray: their ranks are one run of Ray Train, which serves trial after trial of a process.

Train only places, starts and ends the ranks. It gets no reports and no checkpoints, and it never retries. Rank 0 reports over
our own channel.
"""

import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
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
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot
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

logger = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 120.0  # from the last message of the ranks to the end of their processes
LIVENESS_TIMEOUT_S = 30.0  # within this time a rank answers, or Ray knows that it is gone
RECEIVE_TIMEOUT_S = 0.5
IDLE_S = 5.0  # how long ranks keep their resources after a trial, for the next one

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
    """Runs jobs in processes that Ray Train places, one per rank.

    A job takes over the ranks of the job before, if that one ended without a crash at most `IDLE_S` ago and they have as much
    memory as it requests. So does a job that was stopped early, paused or resumed.

    data: the data sets shared through the object store. folder: its finished trials tell how much memory a rank takes.
    """

    data: Mapping[Source, "ray.ObjectRef[Dataset]"]
    folder: RunFolder
    _rank_resources: dict[str, float] = field(default_factory=dict, init=False)
    _idle: "_RankGroup | None" = field(default=None, init=False)
    _idle_lock: threading.Lock = field(default_factory=threading.Lock, init=False)

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
            _get(group.channel.begin_attempt.remote(self._pickled_task(job, context)))
            for _ in itertools.count():
                progress = self._next_progress(group, context)
                yield progress
                if progress.outcome is not None:
                    break
                # Asked only after the yield: by now the caller has recorded the progress on which the pause depends.
                _get(group.channel.release_barrier.remote(pausing=context.should_pause()))
            can_serve_again = True
        except (GeneratorExit, InterruptedJobError):
            can_serve_again = not group.is_abandoned
            raise
        finally:
            if can_serve_again and group.end_attempt():
                self._keep(group)
            else:
                group.end()

    def _group(self) -> "_RankGroup":
        """Returns the group of the job before, if it still runs and has the resources that are requested now, or a new one."""
        group = self._take_idle()
        if group is not None and not group.has_ended and group.has_at_least(self._rank_resources):
            return group
        if group is not None:
            group.end()
        return _RankGroup(self._rank_resources, self._trainer)

    def _keep(self, group: "_RankGroup") -> None:
        """Keeps a group for the next job, which must come within `IDLE_S`: others may wait for its resources."""
        with self._idle_lock:
            self._idle = group
        timer = threading.Timer(IDLE_S, self._end_if_idle, [group])
        timer.daemon = True
        timer.start()

    def _take_idle(self) -> "_RankGroup | None":
        with self._idle_lock:
            group, self._idle = self._idle, None
        return group

    def _end_if_idle(self, group: "_RankGroup") -> None:
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
            _rank_function(self.data, channel),
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

    def _next_progress(self, group: "_RankGroup", context: Context) -> Progress:
        """Returns the next progress that rank 0 reports."""
        channel = group.channel
        while True:
            ended = group.has_ended  # read before receiving, so that messages sent before the end are not lost
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
                self._raise_train_error(group.error)
            # No rank has joined, so the run may still wait to be placed, for up to `place_within_s`.
            elif not _get(channel.ranks.remote()) and context.should_stop():
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


class _RankGroup:
    """The ranks of a run of Ray Train, which runs in a thread of its own, and their channel.

    error: what the run raised. is_abandoned: whether the study stopped while the run still waited to be placed.
    """

    def __init__(self, rank_resources: Mapping[str, float], make_trainer: Callable[[Any, str], TorchTrainer]) -> None:
        """make_trainer: of the channel and a folder, which Train requires although nothing there is read."""
        self.error: BaseException | None = None
        self.is_abandoned = False
        self.channel: Any = ray.remote(num_cpus=0)(Channel).options(scheduling_strategy="DEFAULT").remote()
        self._rank_resources = dict(rank_resources)
        self._scratch = tempfile.mkdtemp(prefix="ranks-")
        trainer = make_trainer(self.channel, self._scratch)
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

    def has_at_least(self, rank_resources: Mapping[str, float]) -> bool:
        """Returns whether each rank has these resources."""
        return all(self._rank_resources.get(name, 0) >= amount for name, amount in rank_resources.items())

    def end_attempt(self) -> bool:
        """Ends the attempt at its next barrier; returns whether all ranks then wait for another one."""
        deadline = time.monotonic() + SHUTDOWN_TIMEOUT_S
        try:
            while not self.has_ended and time.monotonic() < deadline:
                if _get(self.channel.end_attempt.remote(RECEIVE_TIMEOUT_S)):
                    return True
        except RankDiedError as error:
            logger.warning("the ranks cannot serve another trial: %s", error)
        return False

    def end(self) -> None:
        """Ends the ranks at their next barrier, and waits until their resources are free.

        An abandoned run, which still waits to be placed when the study stops, ends together with this process.
        """
        if not self.is_abandoned:
            self.channel.close.remote()
            self._thread.join(SHUTDOWN_TIMEOUT_S)
            if not self.has_ended:
                raise RankDiedError(f"Ray Train did not end its processes within {SHUTDOWN_TIMEOUT_S:g} s")
        ray.kill(self.channel)
        shutil.rmtree(self._scratch, ignore_errors=True)


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


def _rank_function(data: Mapping[Source, Any], channel: Any) -> Callable[[], None]:
    """Returns the function that Train runs in the process of each rank: it serves attempts until the channel is closed."""
    # Pickled here for the same reason as tasks.
    user_code, pickled, references = shipment(), cloudpickle.dumps(list(data)), list(data.values())

    def train() -> None:
        install(user_code)
        sources = cloudpickle.loads(pickled)
        this, rank = ray.get_runtime_context(), get_context().get_world_rank()
        os.environ["RAY_ADDRESS"] = this.gcs_address
        process = ProcessSnapshot.capture()
        ray.get(channel.join.remote(rank, this.current_actor, this.get_node_id()))
        ranks, load_data = DistributedRanks(), shared_data_loader(dict(zip(sources, references, strict=True)))
        for attempt in itertools.count():
            if (task := ray.get(channel.task.remote(rank, attempt))) is None:
                return
            received: RankTask = cloudpickle.loads(task)
            process.restore(threads=received.threads)
            train_as_rank(
                received, ranks=ranks, device=get_device(), load_data=load_data, channel=_ActorChannel(channel)
            )

    return train
