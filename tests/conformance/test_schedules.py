"""Rules that every learning-rate schedule must keep. Members are found by their files."""

import math

import pytest

from pruneyard.testing.plug_in import build_with, examples
from pruneyard.workloads.interfaces import RateSchedule
from pruneyard.workloads.plugins import names

FAMILY = "schedules"
BUDGETS = (1, 2, 3, 7, 100)  # in steps

pytestmark = pytest.mark.parametrize("name", names(FAMILY))


def schedules(name: str) -> list[RateSchedule]:
    return [build_with(FAMILY, name, settings) for settings in examples(FAMILY, name)]


def test_every_step_of_any_budget_has_a_finite_factor_that_is_not_negative(name: str) -> None:
    for schedule in schedules(name):
        for num_steps in BUDGETS:
            factors = [schedule.factor(step, num_steps) for step in range(num_steps)]
            assert all(isinstance(factor, float | int) for factor in factors)
            assert all(math.isfinite(factor) and factor >= 0 for factor in factors), factors
            assert any(factors), "a rate of zero at every step trains nothing"


def test_a_factor_depends_only_on_the_step(name: str) -> None:
    """A resumed training asks for the later steps only."""
    for schedule in schedules(name):
        forwards = [schedule.factor(step, 20) for step in range(20)]
        assert [schedule.factor(step, 20) for step in reversed(range(20))] == forwards[::-1]
