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

    @property
    def trial_id(self) -> str:
        return str(self.index)


@dataclass
class FakeController:
    """The part of the controller that a scheduler reads: live trials, in no order."""

    trials: set[FakeTrial] = field(default_factory=set)

    def get_live_trials(self) -> set[FakeTrial]:
        return self.trials


class FakeAttempt(SimpleNamespace):
    """An attempt with what matters here, equal to itself only."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


def job(*, stage: str | None = None, key: str = "", attempt: int = 1, until: float = 1.0, **resources: int) -> Any:
    described = SimpleNamespace(stage=stage, key=key)
    return FakeAttempt(resources=Resources(**resources), job=described, attempt=attempt, until=until)


def running(trials: RunnableTrials) -> list[list[Any]]:
    """Starts as many trials as there is room for, and returns their attempts."""
    if not trials.created:
        trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 10**9}})
    num_before = len(trials.created)
    while trials.next_trial() is not None:
        pass
    return [list(each) for each in trials.created[num_before:]]


def alone(*jobs: Any) -> list[list[Any]]:
    return [[each] for each in jobs]


TWO_CORES = Room([(2.0, 0.0)])


def test_every_sample_is_the_next_job_and_one_that_became_ready_comes_first() -> None:
    """Tune copies the spec for each trial, which must not restart the count."""
    jobs = [job() for _ in range(4)]
    trials = RunnableTrials(jobs[:3], room=TWO_CORES)

    def sample() -> Any:
        ((_, config),) = generate_variants(trials.param_space())
        return config

    assert [sample() for _ in range(2)] == [{"index": 0, "inputs": [0]}, {"index": 1, "inputs": [1]}]
    trials.add(jobs[3], "its input")
    assert [sample() for _ in range(2)] == [{"index": 2, "inputs": ["its input"]}, {"index": 3, "inputs": [2]}]
    assert trials.created == alone(*(jobs[place] for place in (0, 1, 3, 2)))


def test_trials_are_created_while_slots_are_free_and_end_when_none_can_start_another() -> None:
    trials = RunnableTrials([job(), job(), job()], room=TWO_CORES)
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


def test_a_stopped_study_has_no_more_trials_although_jobs_wait() -> None:
    trials = RunnableTrials([job(), job()], room=Room([(1.0, 0.0)]))
    trials.add_configurations({"study": {"run": tune.Trainable, "config": trials.param_space(), "num_samples": 2}})
    running = trials.next_trial()
    assert running is not None
    trials.set_finished()  # Tune's way of telling that the study stops
    assert trials.is_finished()
    trials.on_trial_complete(running.trial_id)
    assert trials.next_trial() is None


def order_of(trials: RunnableTrials) -> list[list[Any]]:
    """Returns the attempts of the trials in the order in which they start, where the trial that started first ends first."""
    order = running(trials)
    while trials._live:
        trials.on_trial_complete(next(iter(trials._live)))
        order += running(trials)
    return order


def test_trials_of_all_shapes_share_the_room_and_take_over_processes_of_their_own_shape() -> None:
    """By hand: on two cores, trials of one core pass one of two while the patience lasts, and later none."""
    small, large = [job() for _ in range(4)], [job(cpus=2) for _ in range(2)]
    given = [small[0], large[0], small[1], large[1], *small[2:]]
    assert order_of(RunnableTrials(given, room=TWO_CORES, patience_s=math.inf)) == alone(*small, *large)
    impatient = RunnableTrials(given, room=TWO_CORES, patience_s=0.0)
    assert order_of(impatient) == alone(small[0], large[0], small[1], large[1], *small[2:])


def test_trials_on_gpus_and_on_cores_alone_run_side_by_side() -> None:
    """By hand: one GPU and four cores hold a trial of the GPU and three others."""
    on_gpu, on_cores = [job(gpus=1) for _ in range(2)], [job() for _ in range(5)]
    trials = RunnableTrials([*on_gpu, *on_cores], room=Room([(4.0, 1.0)]))
    assert running(trials) == alone(on_gpu[0], *on_cores[:3])


def test_the_ranks_of_a_trial_count_all() -> None:
    pair, single = job(workers=2), job()
    trials = RunnableTrials([pair, single], room=TWO_CORES)
    assert running(trials) == alone(pair)


def test_short_jobs_of_a_stage_share_trials_and_all_slots_end_together() -> None:
    """By hand: of 30 jobs two run first; of 28 that are left a trial takes a quarter, and at least five, which take 0.05 s."""
    jobs = [job() for _ in range(30)]
    trials = RunnableTrials(jobs, room=TWO_CORES)
    assert running(trials) == alone(*jobs[:2])
    trials.record(None, 0.01)
    sizes = []
    while trials._live:
        trials.on_trial_complete(next(iter(trials._live)))
        sizes += [len(each) for each in running(trials)]
    assert sizes == [7, 5, 5, 5, 5, 1]
    assert [planned for created in trials.created for planned in created] == jobs


def test_a_trial_takes_no_more_jobs_than_last_a_second_and_one_where_they_take_long() -> None:
    jobs = [job() for _ in range(200)]
    trials = RunnableTrials(jobs, room=Room([(1.0, 0.0)]))
    sizes = []
    for seconds in (0.05, 0.05, 0.11, 0.6, *[0.05] * 9, 0.05):
        sizes += [len(each) for each in running(trials)]
        trials.record(None, seconds)
        trials.on_trial_complete(next(iter(trials._live)))
    # Means in s: 0.05, 0.05, 0.07; then one of the ten newest is too long, until it is forgotten.
    assert sizes == [1, 20, 20, 14, *[1] * 10]
    assert [len(each) for each in running(trials)] == [20]


def test_only_jobs_that_are_alike_share_a_trial_and_none_that_crashed_pauses_or_may_stop() -> None:
    apart = [job(attempt=2), job(until=0.5), job(key="watched"), job(cpus=2), job(workers=2), job(stage="b")]
    like = [job() for _ in range(90)]
    jobs = [each for pair in zip(apart, like, strict=False) for each in pair] + like[len(apart) :]
    trials = RunnableTrials(jobs, room=TWO_CORES, may_stop_early=lambda key: key == "watched")
    trials.record(None, 0.001)
    order = order_of(trials)
    assert all([each] in order for each in apart)
    assert max(map(len, order)) > 10
    assert {each for created in order for each in created} == set(jobs)
    assert sum(map(len, order)) == len(jobs)


def test_jobs_that_a_trial_gives_back_wait_before_all_others_and_are_not_lost() -> None:
    jobs = [job() for _ in range(40)]
    trials = RunnableTrials(jobs, room=Room([(1.0, 0.0)]))
    trials.record(None, 0.01)
    (shared,) = running(trials)
    assert shared == jobs[:20]
    trials.take_back(0, 3)
    assert trials.created == [jobs[:3]]
    assert order_of(trials)[0][0] is jobs[3]
    assert [planned for created in trials.created for planned in created] == jobs


def test_the_first_that_waits_is_next() -> None:
    waiting = {FakeTrial(index) for index in (7, 3, 12, 5)}
    controller = FakeController(waiting | {FakeTrial(1, TuneTrial.RUNNING), FakeTrial(2, TuneTrial.ERROR)})
    chosen = FIFOByIndex().choose_trial_to_run(controller)
    assert chosen is not None
    assert chosen.config["index"] == 3
    assert FIFOByIndex().choose_trial_to_run(FakeController({FakeTrial(1, TuneTrial.RUNNING)})) is None


def test_a_trial_whose_process_is_starting_is_not_chosen_again() -> None:
    """Tune would stop that process for a free one, and with short trials all but one process would never have started."""
    starting, scheduler = FakeTrial(1), FIFOByIndex()
    assert scheduler.choose_trial_to_run(FakeController({starting})) is starting
    assert scheduler.choose_trial_to_run(FakeController({starting})) is None
    later = FakeTrial(2)
    assert scheduler.choose_trial_to_run(FakeController({starting, later})) is later
    assert scheduler.choose_trial_to_run(FakeController({starting, later})) is None
