"""Ends of a trial's process that Ray Tune 2.60 does not know, taken for what they are: one trial's death."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import RayActorError, RayError, RayTaskError


@contextmanager
def every_crash_is_one_trials() -> Iterator[None]:
    """Inside the block a trial whose process Ray's memory monitor ended fails alone.

    Tune takes an `OutOfMemoryError`, or whatever else is no actor's and no task's error, for a fault of its own and ends the
    study, with every other trial in it.
    """
    of_tune = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: TrackedActorTask, exception: Exception) -> None:
        if isinstance(exception, RayError) and not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        of_tune(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = of_tune  # type: ignore[method-assign]
