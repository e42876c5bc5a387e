"""The order in which Tune gets trials, and the next one of those that wait."""

from dataclasses import dataclass, field
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.variant_generator import generate_variants

from pruneyard.orchestrator.ray_backend.tune_patches import FIFOByIndex, sequential_index


@dataclass(frozen=True, eq=False)
class FakeTrial:
    """The part of a trial that a scheduler reads."""

    index: int
    status: str = TuneTrial.PENDING

    @property
    def config(self) -> dict[str, int]:
        return {"index": self.index}


@dataclass
class FakeController:
    """The part of the controller that a scheduler reads: live trials, in no order."""

    trials: set[FakeTrial] = field(default_factory=set)

    def get_live_trials(self) -> set[FakeTrial]:
        return self.trials


def test_every_sample_is_the_next_place() -> None:
    """Tune copies the spec for each trial, which must not restart the count."""
    space = {"index": sequential_index(), "other": 1}
    found: list[Any] = [config for _ in range(50) for _, config in generate_variants(space)]
    assert [config["index"] for config in found] == list(range(50))
    assert next(generate_variants({"index": sequential_index()}))[1] == {"index": 0}, "another study counts for itself"


def test_the_first_that_waits_is_next() -> None:
    waiting = {FakeTrial(index) for index in (7, 3, 12, 5)}
    controller = FakeController(waiting | {FakeTrial(1, TuneTrial.RUNNING), FakeTrial(2, TuneTrial.ERROR)})
    chosen = FIFOByIndex().choose_trial_to_run(controller)
    assert chosen is not None
    assert chosen.config["index"] == 3
    assert FIFOByIndex().choose_trial_to_run(FakeController({FakeTrial(1, TuneTrial.RUNNING)})) is None
