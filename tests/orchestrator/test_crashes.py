"""How Tune handles the end of a trial's process, tested with Tune's actor manager; no cluster is needed."""

from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayActorError

from pruneyard.orchestrator.ray_backend.tune_patches import isolate_oom_kills


class Places:
    """Where actors are placed; Ray's own managers would start a cluster."""

    def free_resources(self, acquired_resource: None) -> None:
        """Nothing was reserved."""


def heard_of(error: Exception) -> list[Any]:
    """The exception that the owner of an actor gets when a task of it ends in this way."""
    heard: list[Any] = []
    actor = TrackedActor(1, on_error=lambda _, told: heard.append(told))
    manager = RayActorManager(resource_manager=Places())
    manager._live_actors_to_ray_actors_resources[actor] = (None, None)
    manager._actor_task_failed(tracked_actor_task=TrackedActorTask(actor), exception=error)
    return heard


def test_a_process_killed_for_memory_is_a_crashed_actor_and_keeps_the_name() -> None:
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory")
    with pytest.raises(RuntimeError, match="unexpected exception"):
        heard_of(killed)
    with isolate_oom_kills():
        (told,) = heard_of(killed)
    assert isinstance(told, RayActorError)
    assert str(told) == f"OutOfMemoryError: {killed}"
    with pytest.raises(RuntimeError):
        heard_of(killed)


def test_a_crashed_actor_is_reported_as_one() -> None:
    died = ActorDiedError()
    with isolate_oom_kills():
        assert heard_of(died) == [died]


def test_what_ray_did_not_raise_is_still_a_fault_of_the_program() -> None:
    with isolate_oom_kills(), pytest.raises(RuntimeError, match="unexpected exception"):
        heard_of(KeyError("ours"))
