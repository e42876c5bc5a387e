"""The order in which Tune gets trials, and the next one of those that wait."""

from dataclasses import dataclass, field
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.variant_generator import generate_variants

from pruneyard.orchestrator.ray_backend.runnable_trials import RunnableTrials
from pruneyard.orchestrator.ray_backend.tune_patches import FIFOByIndex


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


class Bundle(list[Any]):
    """A bundle; only its identity matters here."""


def test_every_sample_is_the_next_bundle_and_one_that_became_ready_comes_first() -> None:
    """Tune copies the spec for each trial, which must not restart the count."""
    bundles = [Bundle() for _ in range(4)]
    trials = RunnableTrials(bundles[:3], max_live=2)

    def sample() -> Any:
        ((_, config),) = generate_variants(trials.param_space())
        return config

    assert [sample() for _ in range(2)] == [{"index": 0, "bundle": 0}, {"index": 1, "bundle": 1}]
    trials.add(bundles[3], "its input")
    assert [sample() for _ in range(2)] == [{"index": 2, "bundle": "its input"}, {"index": 3, "bundle": 2}]
    assert [id(bundle) for bundle in trials.created] == [id(bundles[place]) for place in (0, 1, 3, 2)]


def test_trials_are_created_while_slots_are_free_and_end_when_none_can_start_another() -> None:
    trials = RunnableTrials([Bundle(), Bundle(), Bundle()], max_live=2)
    trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 9}})
    first, second = trials.next_trial(), trials.next_trial()
    assert first is not None
    assert second is not None
    assert trials.next_trial() is None  # no slot
    trials.on_trial_complete(first.trial_id)
    third = trials.next_trial()
    assert third is not None
    for trial in (second, third):
        assert not trials.is_finished()  # a job may wait for this trial
        trials.on_trial_complete(trial.trial_id, error=True)
    assert trials.next_trial() is None
    assert trials.is_finished()


def test_a_stopped_study_has_no_more_trials_although_bundles_wait() -> None:
    trials = RunnableTrials([Bundle(), Bundle()], max_live=1)
    trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 2}})
    running = trials.next_trial()
    assert running is not None
    trials.set_finished()  # Tune's way of telling that the study stops
    assert trials.is_finished()
    trials.on_trial_complete(running.trial_id)
    assert trials.next_trial() is None


def test_the_first_that_waits_is_next() -> None:
    waiting = {FakeTrial(index) for index in (7, 3, 12, 5)}
    controller = FakeController(waiting | {FakeTrial(1, TuneTrial.RUNNING), FakeTrial(2, TuneTrial.ERROR)})
    chosen = FIFOByIndex().choose_trial_to_run(controller)
    assert chosen is not None
    assert chosen.config["index"] == 3
    assert FIFOByIndex().choose_trial_to_run(FakeController({FakeTrial(1, TuneTrial.RUNNING)})) is None
