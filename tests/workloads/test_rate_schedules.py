import math

import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.schedules.cosine import Cosine
from pruneyard.workloads.schedules.step import Step


def factors(schedule: Constant | Cosine | Step, num_steps: int) -> list[float]:
    return [schedule.factor(step, num_steps) for step in range(num_steps)]


def test_constant_stays() -> None:
    assert factors(Constant(), 3) == [1.0, 1.0, 1.0]


def test_cosine_falls_by_half_a_period_over_the_budget() -> None:
    root = math.sqrt(0.5)
    assert factors(Cosine(), 4) == pytest.approx([1.0, (1 + root) / 2, 0.5, (1 - root) / 2])


def test_cosine_ends_at_its_floor() -> None:
    assert factors(Cosine(floor=0.2), 4) == pytest.approx(
        [1.0, 0.2 + 0.8 * 0.8535534, 0.6, 0.2 + 0.8 * 0.1464466]
    )


def test_cosine_holds_its_floor_from_a_share_of_the_steps_on() -> None:
    """MOON's published schedule: from 0.12 to 0.008 over 80 of 100 epochs, then constant; here with an epoch a step."""
    given = factors(Cosine(floor=1 / 15, until=0.8), 100)
    assert given[:80] == pytest.approx(factors(Cosine(floor=1 / 15), 80))
    assert [0.12 * factor for factor in given[80:]] == pytest.approx([0.008] * 20)
    assert factors(Cosine(floor=0.5, until=0.5, warmup=0.2), 10)[6:] == pytest.approx([0.5] * 4)


def test_steps_multiply_at_their_milestones() -> None:
    assert factors(Step(milestones=(0.5, 0.75), gamma=0.1), 8) == pytest.approx(
        [1.0] * 4 + [0.1] * 2 + [0.01] * 2
    )


def test_warm_up_rises_linearly_from_the_first_step_and_the_decay_has_the_rest() -> None:
    assert factors(Constant(warmup=0.5), 8) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0])
    rest = factors(Cosine(), 6)
    assert factors(Cosine(warmup=0.25), 8) == pytest.approx([0.5, 1.0, *rest])
    assert factors(Step(milestones=(0.5,), warmup=0.5), 8)[4:] == pytest.approx([1.0, 1.0, 0.1, 0.1])


@each_case("name", names("schedules"))
@each_case("num_steps", [1, 2, 3, 7, 100])
def test_every_schedule_gives_a_usable_factor_for_every_step_of_any_budget(name: str, num_steps: int) -> None:
    for warmup in (0.0, 0.1, 0.5, 0.99):
        given = factors(find("schedules", name)(warmup=warmup), num_steps)
        assert all(0 < factor <= 1 for factor in given)


@each_case(
    ("make", "rule"),
    [
        (lambda: Cosine(warmup=1.0), r"^warmup is 1.0; it must lie in \[0, 1\)"),
        (lambda: Constant(warmup=-0.1), r"^warmup is -0.1"),
        (lambda: Cosine(floor=1.5), r"^floor is 1.5"),
        (lambda: Cosine(until=0.0), r"^until is 0.0; it must lie in \(0, 1\]"),
        (lambda: Step(milestones=(0.75, 0.5)), r"^milestones are"),
        (lambda: Step(milestones=(0.5, 0.5)), r"^milestones are"),
        (lambda: Step(milestones=(1.0,)), r"^milestones are"),
        (lambda: Step(gamma=0.0), r"^gamma is 0.0"),
    ],
)
def test_values_outside_their_range_are_refused(make: type, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        make()
