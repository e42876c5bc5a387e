"""Adapts Ray Tune to what a study needs: plain actors, the order of trials, OOM kills, and resources of crashed Train runs.

This file and `train_patches.py` are the only ones of this folder that use private names of Ray; `PRIVATE_NAMES` lists them.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.execution.class_cache import _ActorClassCache
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.result import TRIAL_INFO
from ray.tune.schedulers import FIFOScheduler

from pruneyard.cluster.groups import remove_orphaned_groups
from pruneyard.cluster.pulse import HeadMonitor
from pruneyard.cluster.ray_internals import PrivateName

PRIVATE_NAMES = (
    PrivateName(
        "ray.air.execution._internal.actor_manager",
        "RayActorManager._actor_task_failed",
        ("self", "tracked_actor_task", "exception"),
    ),
    PrivateName(
        "ray.air.execution._internal.actor_manager",
        "RayActorManager.add_actor",
        ("self", "cls", "kwargs", "resource_request", "on_start", "on_stop", "on_error"),
    ),
    PrivateName(
        "ray.air.execution._internal.actor_manager",
        "RayActorManager.schedule_actor_task",
        ("self", "tracked_actor", "method_name", "args", "kwargs", "on_result", "on_error", "_return_future"),
    ),
    PrivateName("ray.air.execution._internal.tracked_actor_task", "TrackedActorTask"),
    PrivateName("ray.tune.execution.class_cache", "_ActorClassCache.get", ("self", "trainable_cls")),
    PrivateName("ray.tune.execution.placement_groups", "resource_dict_to_pg_factory", ("spec",)),
    PrivateName("ray.tune.execution.tune_controller", "TuneController.get_live_trials", ("self",)),
    PrivateName(
        "ray.tune.execution.tune_controller",
        "TuneController._schedule_trial_reset",
        ("self", "trial", "new_config", "new_experiment_tag"),
    ),
    PrivateName("ray.tune.experiment", "Trial.PENDING"),
    PrivateName("ray.tune.experiment", "Trial.RUNNING"),
    PrivateName("ray.tune.experiment", "Trial.error_file"),
    PrivateName("ray.tune.experiment.trial", "_get_trainable_kwargs", ("trial",)),
    PrivateName("ray.tune.result", "TRIAL_INFO"),
    PrivateName("ray.tune.schedulers", "FIFOScheduler.choose_trial_to_run", ("self", "tune_controller")),
    # Methods of `TrialActor` have these names and return what these return.
    PrivateName("ray.tune.trainable.trainable", "Trainable.get_auto_filled_metrics"),
    PrivateName("ray.tune.trainable.trainable", "Trainable.reset", ("self", "new_config", "storage")),
    PrivateName("ray.tune.trainable.trainable", "Trainable.stop", ("self",)),
    PrivateName("ray.tune.trainable.trainable", "Trainable.train", ("self",)),
)

SWEEP_EVERY_S = 1.0


@contextmanager
def isolate_oom_kills() -> Iterator[None]:
    """Makes a trial whose process was killed by Ray's memory monitor fail alone, inside the block.

    Tune treats an `OutOfMemoryError`, like any error that is neither an actor's nor a task's, as a fault of its own and ends
    the study with all its other trials. Inside the block such errors become a `RayActorError`.
    """
    original = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        original(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = original  # type: ignore[method-assign]


class StandIn(tune.Trainable):
    """Stands for the `Trainable` that Tune requires. `plain_actors` replaces it, so it is never instantiated."""


@contextmanager
def plain_actors(
    actor_class: type, arguments: ray.ObjectRef[Mapping[str, Any]], *, is_own_cluster: bool
) -> Iterator[None]:
    """Makes Tune start `actor_class(config, trial_id, arguments)` for a trial, inside the block, where it would a `Trainable`.

    Tune would also pass objects of its own, to the first trial of a process and to `reset` for each of the others. Unpickling
    them imports all of Tune and Train.

    is_own_cluster: whether `session` started the cluster. Then actors run in the processes that Ray has started with it.
        Elsewhere Tune's settings give each actor a process of its own, with what Tune passes on of the driver's environment,
        such as credentials for S3.
    """
    add, schedule = RayActorManager.add_actor, RayActorManager.schedule_actor_task
    remote_class = ray.remote(actor_class) if is_own_cluster else _ActorClassCache().get(actor_class)

    def add_plain(manager: RayActorManager, cls: Any, kwargs: dict[str, Any], *args: Any, **callbacks: Any) -> Any:
        config, trial_id = _config_and_id(kwargs["config"])
        plain = {"config": config, "trial_id": trial_id, "arguments": arguments}
        return add(manager, remote_class, plain, *args, **callbacks)

    def schedule_plain(
        manager: RayActorManager, tracked_actor: Any, method_name: str, args: Any = None, kwargs: Any = None, **others: Any
    ) -> Any:
        if method_name == "reset":
            args, kwargs = _config_and_id(*args), None
        return schedule(manager, tracked_actor, method_name, args, kwargs, **others)

    RayActorManager.add_actor = add_plain  # type: ignore[assignment, method-assign]
    RayActorManager.schedule_actor_task = schedule_plain  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RayActorManager.add_actor = add  # type: ignore[method-assign]
        RayActorManager.schedule_actor_task = schedule  # type: ignore[method-assign]


def _config_and_id(config: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Returns the config that a trial was created with, and the id of the trial, which Tune adds to it with other objects."""
    return {key: value for key, value in config.items() if not key.startswith("__")}, config[TRIAL_INFO].trial_id


class PlacementGroupSweeper(tune.Callback):
    """Removes orphaned placement groups once a second, while the head of the cluster answers."""

    def __init__(self, head: HeadMonitor) -> None:
        self._head, self._swept_at = head, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a file that nobody reads

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if time.monotonic() - self._swept_at >= SWEEP_EVERY_S and not self._head.silent_s:
            self._swept_at = time.monotonic()
            remove_orphaned_groups()


def placement_group_factory(resources: Mapping[str, float]) -> tune.PlacementGroupFactory:
    """Returns the placement group of one trial; Tune accepts it where it would refuse a plain mapping."""
    factory: tune.PlacementGroupFactory = resource_dict_to_pg_factory(dict(resources))
    return factory


class FIFOByIndex(FIFOScheduler):
    """Starts the waiting trial with the smallest `index`, and pauses none.

    Tune's own scheduler searches all trials, finished ones too, for the next one: at 100,000 trials that costs the driver a
    tenth of a second per trial. This one looks only at live trials.

    A trial is chosen once. By the second time Tune has requested a process for it, which takes seconds to start. Tune would stop
    that process to give the trial one that has become free, and request another for the next trial: with trials of less than a
    second all would take turns in one process, and the others would never have started.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: set[str] = set()  # trials that waited at the last call, for which Tune has requested processes since

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """Returns the next trial to start; None if none waits but those of earlier calls, for which Tune starts processes."""
        waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == TuneTrial.PENDING]
        new = [trial for trial in waiting if trial.trial_id not in self._seen]
        self._seen = {trial.trial_id for trial in waiting}
        return min(new, key=lambda trial: trial.config["index"], default=None)
