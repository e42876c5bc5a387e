"""The time left counts from the first report, stage by stage, and is not told before it is known."""

import pytest

from pruneyard.orchestrator.progress.time_left import TimeLeft
from pruneyard.testing.cases import each_case


def population(num: int, stage: str | None = None, *, into: TimeLeft | None = None) -> TimeLeft:
    left = into or TimeLeft()
    for number in range(num):
        left.expect(f"{stage}{number}", stage)
    return left


def simulate(left: TimeLeft, stage: str | None, *, num: int, begin: float, each_s: float, until: float) -> None:
    """Simulates jobs of `each_s` in two slots from `begin` on, with reports half-way and at the end; ends at the time `until`."""
    for first in range(0, num, 2):
        start = begin + first / 2 * each_s
        if start > until:
            return
        pair = [f"{stage}{number}" for number in (first, first + 1) if number < num]
        for key in pair:
            left.start(key)
        for key in pair:
            if start + each_s / 2 <= until:
                left.report(key, 0.5, now=start + each_s / 2)
        for key in pair:
            if start + each_s <= until:
                left.end(key, now=start + each_s)


def test_a_slow_start_is_not_taken_for_a_slow_pace() -> None:
    """Ten jobs of 10 s in two slots take 50 s; 60 s of start-up do not change what is left after the first two."""
    left = population(10)
    simulate(left, None, num=10, begin=60.0, each_s=10.0, until=70.0)
    assert left.seconds(now=70.0) == pytest.approx(40.0)
    simulate(left, None, num=10, begin=60.0, each_s=10.0, until=90.0)
    assert left.seconds(now=90.0) == pytest.approx(20.0)


def test_nothing_is_told_before_two_trials_have_ended() -> None:
    left = population(10)
    assert left.seconds(now=100.0) is None
    simulate(left, None, num=10, begin=60.0, each_s=10.0, until=69.0)
    assert left.seconds(now=69.0) is None
    left.end("None0", now=70.0)
    assert left.seconds(now=70.0) is None
    left.end("None1", now=70.0)
    assert left.seconds(now=70.0) is not None


def test_a_single_training_is_judged_by_its_steps() -> None:
    left = population(1)
    left.start("None0")
    left.report("None0", 0.05, now=20.0)
    assert left.seconds(now=20.0) is None
    left.report("None0", 0.25, now=40.0)  # a fifth in 20 s
    assert left.seconds(now=40.0) == pytest.approx(75.0)


def test_each_stage_has_its_own_pace_and_the_next_one_is_judged_by_its_cost() -> None:
    """Four jobs of 10 s that were expected to take 5 s, then six expected to take 1 s each: those take 2 s."""
    left = population(6, "train", into=population(4, "distil"))
    left.weigh({f"distil{number}": 5.0 for number in range(4)} | {f"train{number}": 1.0 for number in range(6)})
    simulate(left, "distil", num=4, begin=30.0, each_s=10.0, until=50.0)
    assert not left.is_lower_bound
    assert left.seconds(now=50.0) == pytest.approx(6.0)  # six jobs of 2 s in two slots
    # They take 4 s in fact. The pause before the stage is its start, and the pace of the first stage stays what it was.
    simulate(left, "train", num=6, begin=100.0, each_s=4.0, until=104.0)
    assert left.seconds(now=104.0) == pytest.approx(8.0)


def test_a_stage_of_which_nothing_is_known_makes_it_a_lower_bound() -> None:
    left = population(6, "train", into=population(4, "distil"))
    left.weigh({f"distil{number}": 5.0 for number in range(4)} | {"train0": 0.0})
    simulate(left, "distil", num=4, begin=30.0, each_s=10.0, until=50.0)
    assert left.is_lower_bound
    simulate(left, "train", num=6, begin=50.0, each_s=4.0, until=54.0)
    assert not left.is_lower_bound


def test_a_job_that_runs_again_is_work_again() -> None:
    left = population(4)
    simulate(left, None, num=4, begin=0.0, each_s=10.0, until=20.0)
    assert left.seconds(now=20.0) == 0.0
    left.expect("None3", None)
    assert left.seconds(now=20.0) == pytest.approx(1 / (2 / 15))  # from second 5 to 20: all four but half of two, less this one


def test_what_a_search_has_yet_to_propose_counts_as_its_mean_job() -> None:
    left = population(4)
    simulate(left, None, num=4, begin=0.0, each_s=10.0, until=20.0)
    left.num_unproposed = 6
    assert left.seconds(now=20.0) == pytest.approx(6 / (3 / 15))


@each_case(("seconds", "text"), [(0.2, "0 s"), (45, "45 s"), (978, "16 min"), (7500, "2 h 5 min"), (273_600, "3 days 4 h")])
def test_times_are_in_units_that_a_person_reads(seconds: float, text: str) -> None:
    from pruneyard.reports.formats import time_span

    assert time_span(seconds) == text
