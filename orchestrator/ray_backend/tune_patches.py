"""Trials of Tune in the order of their bundles, at the same cost for each of them however many there are.

Tune's own ways take longer with every trial: a grid's list of values is copied for each, and its scheduler looks through all
trials, those that have ended too, for the next one. Of 100,000 either would take the driver a tenth of a second a trial.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray import tune
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

from pruneyard.cluster.groups import remove_orphaned_groups
from pruneyard.cluster.pulse import HeadMonitor


@contextmanager
def isolate_oom_kills() -> Iterator[None]:
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


SWEEP_EVERY_S = 1.0


class PlacementGroupSweeper(tune.Callback):
    """Once a second, while the cluster answers."""

    def __init__(self, pulse: HeadMonitor) -> None:
        self._pulse, self._swept_at = pulse, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune saves its callbacks, and nobody reads them

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        if time.monotonic() - self._swept_at >= SWEEP_EVERY_S and not self._pulse.silent_s:
            self._swept_at = time.monotonic()
            remove_orphaned_groups()


def sequential_index() -> Any:
    """For `param_space`: 0, 1, 2, ... for one sample after the other."""
    places = itertools.count()
    return tune.sample_from(lambda _: next(places))


class FIFOByIndex(FIFOScheduler):
    """Of the trials that wait, the one with the smallest `index`. Pauses none."""

    def choose_trial_to_run(self, tune_controller: Any) -> TuneTrial | None:
        """None where none waits."""
        waiting = (trial for trial in tune_controller.get_live_trials() if trial.status == TuneTrial.PENDING)
        return min(waiting, key=lambda trial: trial.config["index"], default=None)
