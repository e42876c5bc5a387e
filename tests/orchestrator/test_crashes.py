"""How Tune handles the end of a trial's process, tested with Tune's actor manager; no cluster is needed."""

from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from pruneyard.orchestrator.ray_backend.tune_patches import isolate_oom_kills


class NoClusterResources:
    """A manager of actor resources that needs no cluster, unlike Ray's own ones."""

    def free_resources(self, acquired_resource: None) -> None:
        """Does nothing, as nothing was reserved."""


def actor_error(error: Exception) -> list[Any]:
    """Returns the exception that the owner of an actor gets when one of its tasks fails with `error`."""
    reported: list[Any] = []
    actor = TrackedActor(1, on_error=lambda _, error_: reported.append(error_))
    manager = RayActorManager(resource_manager=NoClusterResources())
    manager._live_actors_to_ray_actors_resources[actor] = (None, None)
    manager._actor_task_failed(tracked_actor_task=TrackedActorTask(actor), exception=error)
    return reported


def test_a_process_killed_for_memory_is_a_crashed_actor_and_keeps_the_name() -> None:
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
    with pytest.raises(RuntimeError, match="unexpected exception"):
        actor_error(killed)
    with isolate_oom_kills():
        (error_,) = actor_error(killed)
    assert isinstance(error_, RayActorError)
    assert str(error_) == f"OutOfMemoryError: {killed}"
    with pytest.raises(RuntimeError):
        actor_error(killed)


def test_a_crashed_actor_is_reported_as_one() -> None:
    failed = ActorDiedError()
    with isolate_oom_kills():
        assert actor_error(failed) == [failed]


def test_what_ray_did_not_raise_is_still_a_fault_of_the_program() -> None:
    with isolate_oom_kills(), pytest.raises(RuntimeError, match="unexpected exception"):
        actor_error(KeyError("ours"))
