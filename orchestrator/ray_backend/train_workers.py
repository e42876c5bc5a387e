"""A trial of several workers on Ray: one run of Ray Train per attempt, whose rank 0 tells its progress over our own line.

Train places and starts the ranks and ends them; it reports nothing, keeps no checkpoint and never tries again.
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
from ray.train import get_context
from ray.train.torch import get_device
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import ControllerCallback
from ray.train.v2.api.config import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError
from ray.train.v2.torch.torch_trainer import TorchTrainer

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
from pruneyard.orchestrator.ray_backend.rendezvous import RendezvousConfig
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
from pruneyard.orchestrator.spec.job import Job
from pruneyard.reports.layout import RunFolder
from pruneyard.workloads.data.dataset import Dataset, Source
from pruneyard.workloads.ranks import Together
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

SHUTDOWN_TIMEOUT_S = 120.0  # from the last word of the ranks to the end of their processes


LIVENESS_TIMEOUT_S = 30.0  # a process answers, or is known to be gone


RECEIVE_TIMEOUT_S = 0.5


_GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError)


"""What Ray says of a process that has ended, of one that its memory monitor ended too."""


TRAIN_ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a lost node is a death; one process fewer
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


@dataclass(kw_only=True)
class TrainWorkers(MultiWorkerGroup):
    """Runs jobs as so many ranks, one job after the other.

    data: what the study shares, by source. folder: whose finished trials say how much memory a rank takes.
    """

    data: Mapping[Source, "ray.ObjectRef[Dataset]"]
    folder: RunFolder
    _wants: dict[str, float] = field(default_factory=dict, init=False)

    def run(self, job: Job, context: Context) -> Iterator[Progress]:
        """As `job.workload.run(context)`, which every rank does. Closing it ends the ranks, and waits for them.

        Raises `RankFailedError` with the traceback of the first rank that raised, `RankDiedError` where a process is gone, and
        `TimeoutError` where there was no room for all ranks, and no other trial's were placed either.
        """
        os.environ.update(TRAIN_ENVIRONMENT, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=str(self.resources.place_within_s))
        self._wants = {"CPU": self.resources.cpus, "GPU": self.resources.gpus}
        if memory := self._memory(job):
            self._wants["memory"] = memory
        while True:
            others = any_ranks_placed()
            try:
                yield from self._run(job, context)
                return
            except _NoRoomError as error:
                if not others and not any_ranks_placed():  # else other trials are, or were, in the way, which end some time
                    raise TimeoutError(str(error)) from None

    def _run(self, job: Job, context: Context) -> Iterator[Progress]:
        line: Any = ray.remote(num_cpus=0)(Channel).options(scheduling_strategy="DEFAULT").remote()
        scratch = tempfile.mkdtemp(
            prefix="ranks-"
        )  # Train wants one, and leaves nothing there that anybody reads
        fit = _Fit(self._trainer(job, context, line, scratch))
        try:
            for _ in itertools.count():
                progress = self._next(line, fit, context)
                yield progress
                if progress.outcome is not None:
                    return
                _asked(line.release_barrier.remote(pausing=context.pauses()))
        finally:
            fit.end(line)
            shutil.rmtree(scratch, ignore_errors=True)

    def _trainer(self, job: Job, context: Context, line: Any, scratch: str) -> TorchTrainer:
        task = self.task(job, context, context.should_stop)
        whole_gpus = self.resources.gpus >= 1  # which NCCL wants, one for each rank at least
        trainer = _Trainer(
            _rank_of(task, self.data, line),
            scaling_config=ScalingConfig(
                num_workers=self.resources.workers,
                use_gpu=self.resources.gpus > 0,
                resources_per_worker=self._wants,
            ),
            torch_config=RendezvousConfig(
                backend="nccl" if whole_gpus else "gloo", timeout_s=int(COLLECTIVE_TIMEOUT_S)
            ),
            run_config=RunConfig(
                name=job.key,
                storage_path=scratch,
                failure_config=FailureConfig(
                    max_failures=0, controller_failure_limit=0, max_preemption_failures=0
                ),
                logging_config=LoggingConfig(log_level="ERROR"),
            ),
        )
        trainer.line = line
        return trainer

    def _memory(self, job: Job) -> int:
        """Bytes that each rank asks for, which is nothing as long as none of this folder was seen to take more than its share.

        It is never more than all ranks of a trial find at once, beside the processes of all trials. Who has GPUs asks for none.
        """
        if self.resources.gpus:
            return 0
        nodes = capacity.node_resources()
        cores = [(has.get("CPU", 0.0), has.get("GPU", 0.0)) for has in nodes]
        places = [workers_per_node(self.resources, cpus=cpus, gpus=gpus) for cpus, gpus in cores]
        beside = sum(places) // self.num_workers * DRIVER_BYTES
        left = [max(0, int(has.get("memory", 0)) - beside) for has in nodes]
        usable = [(memory, count) for memory, count in zip(left, places, strict=True) if count]
        most = largest_request_per_worker(self.num_workers, usable)
        if not most:
            return 0
        share = min(memory // count for memory, count in usable)
        return MemoryHistory.seen_in(self.folder).request(memory_key(job.kind, job.identity), share=share, node=most)

    def _next(self, line: Any, fit: "_Fit", context: Context) -> Progress:
        """What rank 0 reports next."""
        while True:
            ended = fit.has_ended  # before listening: what was told before the end is heard first
            message = _asked(line.receive.remote(RECEIVE_TIMEOUT_S))
            if message:
                told = _asked(message[0])
                if isinstance(told, Failed):  # not taken: it ends only when the others have been asked
                    _raise_cause(told, line)
                line.ack.remote()
                self.note(told)
                if isinstance(told, Started):  # by when all have joined
                    self._nodes = _asked(line.nodes.remote())
                if (progress := progress_or_raise(told)) is not None:
                    return progress
            elif ended:
                self._raise_end(fit.error)
            elif not _asked(line.ranks.remote()) and context.should_stop():
                fit.abandoned = True
                raise InterruptedJobError(0)

    def _raise_end(self, error: BaseException | None) -> None:
        """Why the run ended without a last word."""
        failure = error.controller_failure if isinstance(error, ControllerError) else error
        if isinstance(failure, WorkerGroupStartupTimeoutError):
            wanted = format_amounts(self._wants)
            head = f"no room for {self.num_workers} workers, each with {wanted}, within {self.resources.place_within_s:g} s"
            raise _NoRoomError("\n".join([*(f"  {line}" for line in describe_usage()), head]))
        if isinstance(failure, WorkerGroupError):
            dead = [
                rank
                for rank, why in failure.worker_failures.items()
                if isinstance(why, WorkerHealthCheckFailedError)
            ]
            if dead:
                raise RankDiedError(
                    f"rank {dead[0]} of {self.num_workers} died: {failure.worker_failures[dead[0]]}"
                )
        if isinstance(failure, (WorkerGroupStartupFailedError, *_GONE)):
            raise RankDiedError(f"a process that the ranks need died: {failure}")
        raise RankFailedError(f"the run of Ray Train ended without a result: {failure}") from error


class _NoRoomError(Exception):
    """The ranks were not placed in time."""


def _raise_cause(failed: Failed, line: Any) -> None:
    """What a rank says is the cause, unless another one died."""
    answers = {rank: actor.__ray_ready__.remote() for rank, actor in _asked(line.ranks.remote()).items()}
    for rank, answer in answers.items():
        try:
            ray.get(answer, timeout=LIVENESS_TIMEOUT_S)
        except (*_GONE, ray.exceptions.GetTimeoutError) as error:
            raise RankDiedError(
                f"rank {rank} died: {error}\nbecause of it rank {failed.rank} raised\n{failed.error}"
            ) from None
    raise RankFailedError(f"rank {failed.rank}\n{failed.error}")


def _asked(answer: Any) -> Any:
    """Of the line, or of a rank by it. Raises `RankDiedError` where its process is gone."""
    try:
        return ray.get(answer)
    except _GONE as error:
        raise RankDiedError(
            f"the process between the ranks and their trial, or rank 0, died: {error}"
        ) from error


class _Fit:
    """A run of Train in a thread of its own."""

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
        """With or without an error."""
        return not self._thread.is_alive()

    def end(self, line: Any) -> None:
        """Lets the ranks end where they stand, and waits until their places are free.

        A run that waits for places when all is to end is left to end with this process.
        """
        if not self.abandoned:
            line.close.remote()
            self._thread.join(SHUTDOWN_TIMEOUT_S)
            if not self.has_ended:
                raise RankDiedError(f"Ray Train did not end its processes within {SHUTDOWN_TIMEOUT_S:g} s")
        ray.kill(line)


class _Trainer(TorchTrainer):
    """Without the actor by which Train frees places after a death: it asks a dashboard that may not be there, or another
    cluster's; see `cluster.groups`. And with a controller that ends at once where its trial's process is gone: Ray takes it
    for dead then, but an idle process of it was seen to outlive its cluster.
    """

    line: Any = None

    def _create_default_callbacks(self) -> list[Any]:
        made = super()._create_default_callbacks()
        kept = [callback for callback in made if not isinstance(callback, PlacementGroupCleanerCallback)]
        return [*kept, _EndsWithTrial(self.line)]


@dataclass(frozen=True)
class _EndsWithTrial(ControllerCallback):
    """In the controller's process."""

    line: Any

    def after_controller_start(self, train_run_context: Any) -> None:
        """Listens in a thread of its own."""

        def watch() -> None:
            try:
                ray.get(self.line.until_closed.remote())
            except Exception:  # whatever Ray says where an actor, or the cluster, is gone
                os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


@dataclass(frozen=True)
class _ByActor:
    """The line as a rank holds it."""

    actor: Any

    def send(self, message: Any) -> None:
        ray.get(self.actor.send.remote([ray.put(message)]))

    def wait_barrier(self, gate: int) -> bool | None:
        answer: bool | None = ray.get(self.actor.wait_barrier.remote(gate))
        return answer


def _rank_of(task: RankTask, data: Mapping[Source, Any], line: Any) -> Callable[[], None]:
    """What Train runs in each process that it started as a rank."""

    def train() -> None:
        os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        rank, here = get_context().get_world_rank(), ray.get_runtime_context()
        ray.get(line.join.remote(rank, here.current_actor, here.get_node_id()))
        train_as_rank(
            task, ranks=Together(), device=get_device(), load_data=shared_data_loader(data), line=_ByActor(line)
        )

    return train
