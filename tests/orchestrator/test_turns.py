"""The order in which Tune gets trials, and the next one of those that wait."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.variant_generator import generate_variants

from pruneyard.orchestrator.execution.capacity import Room
from pruneyard.orchestrator.ray_backend.runnable_trials import RunnableTrials
from pruneyard.orchestrator.ray_backend.tune_patches import FIFOByIndex
from pruneyard.orchestrator.spec.job import Resources


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


def bundle(**resources: int) -> list[Any]:
    """Returns a bundle; only its identity and its resources matter here."""
    return [SimpleNamespace(resources=Resources(**resources))]


def running(trials: RunnableTrials) -> list[list[Any]]:
    """Starts as many trials as there is room for, and returns their bundles."""
    if not trials.created:
        trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 10**9}})
    num_before = len(trials.created)
    while trials.next_trial() is not None:
        pass
    return [list(each) for each in trials.created[num_before:]]


TWO_CORES = Room([(2.0, 0.0)])


def test_every_sample_is_the_next_bundle_and_one_that_became_ready_comes_first() -> None:
    """Tune copies the spec for each trial, which must not restart the count."""
    bundles = [bundle() for _ in range(4)]
    trials = RunnableTrials(bundles[:3], room=TWO_CORES)

    def sample() -> Any:
        ((_, config),) = generate_variants(trials.param_space())
        return config

    assert [sample() for _ in range(2)] == [{"index": 0, "bundle": 0}, {"index": 1, "bundle": 1}]
    trials.add(bundles[3], "its input")
    assert [sample() for _ in range(2)] == [{"index": 2, "bundle": "its input"}, {"index": 3, "bundle": 2}]
    assert [id(created) for created in trials.created] == [id(bundles[place]) for place in (0, 1, 3, 2)]


def test_trials_are_created_while_slots_are_free_and_end_when_none_can_start_another() -> None:
    trials = RunnableTrials([bundle(), bundle(), bundle()], room=TWO_CORES)
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
    trials = RunnableTrials([bundle(), bundle()], room=Room([(1.0, 0.0)]))
    trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 2}})
    running = trials.next_trial()
    assert running is not None
    trials.set_finished()  # Tune's way of telling that the study stops
    assert trials.is_finished()
    trials.on_trial_complete(running.trial_id)
    assert trials.next_trial() is None


def order_of(trials: RunnableTrials) -> list[list[Any]]:
    """Returns the bundles in the order in which they start, where the trial that started first ends first."""
    order = running(trials)
    while trials._live:
        trials.on_trial_complete(next(iter(trials._live)))
        order += running(trials)
    return order


def test_trials_of_all_shapes_share_the_room_and_take_over_processes_of_their_own_shape() -> None:
    """By hand: on two cores, trials of one core pass one of two while the patience lasts, and later none."""
    small, large = [bundle() for _ in range(4)], [bundle(cpus=2) for _ in range(2)]
    given = [small[0], large[0], small[1], large[1], *small[2:]]
    assert order_of(RunnableTrials(given, room=TWO_CORES, patience_s=math.inf)) == [*small, *large]
    impatient = RunnableTrials(given, room=TWO_CORES, patience_s=0.0)
    assert order_of(impatient) == [small[0], large[0], small[1], large[1], *small[2:]]


def test_trials_on_gpus_and_on_cores_alone_run_side_by_side() -> None:
    """By hand: one GPU and four cores hold a trial of the GPU and three others."""
    on_gpu, on_cores = [bundle(gpus=1) for _ in range(2)], [bundle() for _ in range(5)]
    trials = RunnableTrials([*on_gpu, *on_cores], room=Room([(4.0, 1.0)]))
    assert running(trials) == [on_gpu[0], *on_cores[:3]]


def test_the_ranks_of_a_trial_count_all() -> None:
    pair, alone = bundle(workers=2), bundle()
    trials = RunnableTrials([pair, alone], room=TWO_CORES)
    assert running(trials) == [pair]


def test_the_first_that_waits_is_next() -> None:
    waiting = {FakeTrial(index) for index in (7, 3, 12, 5)}
    controller = FakeController(waiting | {FakeTrial(1, TuneTrial.RUNNING), FakeTrial(2, TuneTrial.ERROR)})
    chosen = FIFOByIndex().choose_trial_to_run(controller)
    assert chosen is not None
    assert chosen.config["index"] == 3
    assert FIFOByIndex().choose_trial_to_run(FakeController({FakeTrial(1, TuneTrial.RUNNING)})) is None
