"""Ends of a trial's process that Ray Tune 2.60 does not know, taken for what they are: one trial's death."""

from collections.abc import Iterator
from contextlib import contextmanager

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import RayActorError, RayError, RayTaskError


@contextmanager
def every_crash_is_one_trials() -> Iterator[None]:
    """Inside the block a trial whose process Ray's memory monitor ended fails alone.

    Tune takes an `OutOfMemoryError`, or whatever else is no actor's and no task's error, for a fault of its own and ends the
    study, with every other trial in it.
    """
    of_tune = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, task: object, error: Exception) -> None:
        if isinstance(error, RayError) and not isinstance(error, RayActorError | RayTaskError):
            error = RayActorError(error_msg=f"{type(error).__name__}: {error}")
        of_tune(manager, task, error)  # type: ignore[arg-type]

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        RayActorManager._actor_task_failed = of_tune  # type: ignore[method-assign]
