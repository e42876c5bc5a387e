"""The ranks of one run of Ray Train and their channel: they serve attempt after attempt until the channel is closed."""

import itertools
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.train import get_context
from ray.train.torch import get_device

from pruneyard.orchestrator.errors import RankDiedError
from pruneyard.orchestrator.execution.process_state import ProcessSnapshot
from pruneyard.orchestrator.execution.worker import train_as_rank
from pruneyard.orchestrator.execution.worker_group import RankTask
from pruneyard.orchestrator.ray_backend.channel import Channel
from pruneyard.orchestrator.ray_backend.shared_data import shared_data_loader
from pruneyard.orchestrator.ray_backend.train_patches import TorchTrainer
from pruneyard.workloads.data.dataset import Source
from pruneyard.workloads.ranks import DistributedRanks
from pruneyard.workloads.user_code.shipping import install, shipment

logger = logging.getLogger(__name__)

SHUTDOWN_TIMEOUT_S = 120.0  # from the last message of the ranks to the end of their processes
RECEIVE_TIMEOUT_S = 0.5

PROCESS_GONE = (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError)
"""The errors of Ray for a process that has ended, also one that its memory monitor killed."""


def get(reference: Any) -> Any:
    """Returns the object from the channel or a rank. Raises `RankDiedError` if the process that holds it is gone."""
    try:
        return ray.get(reference)
    except PROCESS_GONE as error:
        raise RankDiedError(
            f"the process between the ranks and their trial, or rank 0, died: {error}"
        ) from error


class RankGroup:
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
                if get(self.channel.end_attempt.remote(RECEIVE_TIMEOUT_S)):
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


def rank_function(data: Mapping[Source, Any], channel: Any) -> Callable[[], None]:
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
