import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pruneyard.testing.cases import each_case
from pruneyard.workloads.sparse.update_schedule import CubicSchedule, LastingSchedule, UpdateSchedule


def due_steps(schedule: UpdateSchedule | CubicSchedule, num_steps: int) -> list[int]:
    return [step for step in range(num_steps) if schedule.is_due(step, num_steps=num_steps)]


def test_updates_start_after_the_first_interval_and_stop_before_the_end() -> None:
    assert due_steps(UpdateSchedule(every=10, until=0.5), 100) == [10, 20, 30, 40]
    assert due_steps(UpdateSchedule(every=10, until=0.51), 100) == [10, 20, 30, 40, 50]
    assert due_steps(UpdateSchedule(every=1, until=1.0), 4) == [1, 2, 3]


def test_the_published_imagenet_schedule_is_met_to_the_step() -> None:
    schedule = UpdateSchedule(every=100, until=25 / 32)
    assert schedule.end(32_000) == 25_000
    assert due_steps(schedule, 32_000) == list(range(100, 25_000, 100))


@pytest.mark.parametrize(
    "schedule", [UpdateSchedule(every=1, until=0.0), UpdateSchedule(every=100, until=1.0)]
)
def test_no_update_without_time_for_one(schedule: UpdateSchedule) -> None:
    assert due_steps(schedule, 100) == []


@each_case(
    ("fields", "expected"),
    [
        ({"decay": "cosine"}, [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.0, 0.0]),
        ({"decay": "constant"}, [1.0, 1.0, 1.0, 0.0, 0.0]),
        ({"decay": "inverse_power"}, [1.0, 0.75, 0.5, 0.0, 0.0]),
        ({"decay": "inverse_power", "power": 3.0}, [1.0, 27 / 64, 1 / 8, 0.0, 0.0]),
    ],
)
def test_the_size_of_updates_decays_to_nothing(fields: dict[str, Any], expected: list[float]) -> None:
    schedule = UpdateSchedule(every=1, until=0.5, **fields)
    factors = [schedule.factor(step, num_steps=160) for step in (0, 20, 40, 80, 100)]
    assert factors == pytest.approx(expected, abs=1e-15)


def test_a_lasting_schedule_decays_to_its_floor_and_not_below() -> None:
    # 0.5 to 0.005 as in the published code: half-way 0.5 * (0.01 + 0.99 / 2) = 0.2525.
    schedule = LastingSchedule(every=100)
    factors = [schedule.factor(step, num_steps=1000) for step in (0, 500, 999, 1000)]
    assert factors == pytest.approx([1.0, 0.505, 0.01, 0.0], abs=1e-5)
    assert due_steps(schedule, 1000) == list(range(100, 1000, 100))
    with pytest.raises(ValueError, match=r"^floor is 1\.5"):
        LastingSchedule(floor=1.5)


def test_gradual_pruning_prunes_at_intervals_and_ends_at_the_target() -> None:
    schedule = CubicSchedule(begin=0.2, end=0.75, every=20)
    assert due_steps(schedule, 100) == [40, 60, 75]
    assert schedule.reached(75, num_steps=100) == 1.0
    assert schedule.reached(20, num_steps=100) == schedule.reached(3, num_steps=100) == 0.0


def test_half_way_seven_eighths_of_the_sparsity_are_reached() -> None:
    assert CubicSchedule(begin=0.0, end=0.5, every=1).reached(50, num_steps=200) == 0.875


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 50), st.integers(1, 300))
def test_for_any_budget_the_last_update_reaches_the_target(
    begin: float, end: float, every: int, num_steps: int
) -> None:
    schedule = CubicSchedule(begin=min(begin, end), end=max(begin, end), every=every)
    reached = [schedule.reached(step, num_steps=num_steps) for step in due_steps(schedule, num_steps)]
    assert reached[-1] == 1.0
    assert all(0 <= earlier <= later for earlier, later in pairwise(reached))


@each_case(
    ("field", "value"), [("every", 0), ("until", 1.5), ("until", -0.1), ("decay", "linear"), ("power", 0.0)]
)
def test_update_schedule_refuses_what_makes_no_sense(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*; it must"):
        UpdateSchedule(**{field: value})


@each_case(("field", "value"), [("every", 0), ("begin", -0.1), ("end", 0.1), ("end", 1.1)])
def test_cubic_schedule_refuses_what_makes_no_sense(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} is .*; it must"):
        CubicSchedule(**{field: value})
