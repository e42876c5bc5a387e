from typing import Any

import pytest

from pruneyard.testing.cases import each_case
from pruneyard.workloads.training.recipe import Budget


def test_an_epoch_is_the_whole_batches_of_one_shuffle() -> None:
    budget = Budget(epochs=3, batch_size=32)
    assert budget.steps_per_epoch(100) == 3
    assert budget.num_steps(100) == 9
    assert budget.evaluation_interval(100) == 3


def test_a_set_smaller_than_a_batch_is_one_batch() -> None:
    budget = Budget(epochs=5, batch_size=128)
    assert budget.steps_per_epoch(100) == 1
    assert budget.num_steps(100) == 5


def test_a_budget_in_steps_does_not_depend_on_the_data() -> None:
    assert Budget(steps=7, batch_size=32).num_steps(1000) == 7


@pytest.mark.parametrize("evaluate_every", [0, 10**12])
def test_evaluation_comes_at_the_end_where_no_other_falls_into_the_budget(evaluate_every: int) -> None:
    budget = Budget(steps=7, batch_size=32, evaluate_every=evaluate_every)
    assert budget.evaluation_interval(1000) == 7


@each_case(
    ("fields", "rule"),
    [
        ({}, r"^epochs is missing, and so is steps"),
        ({"epochs": 1, "steps": 1}, r"^epochs is 1 and steps is 1"),
        ({"epochs": 0}, r"^epochs is 0; it must be 1 or more"),
        ({"steps": -1}, r"^steps is -1"),
        ({"epochs": 1, "batch_size": 0}, r"^batch_size is 0"),
        ({"epochs": 1, "evaluate_every": -1}, r"^evaluate_every is -1"),
        ({"epochs": 1, "checkpoint_every_s": -0.5}, r"^checkpoint_every_s is -0.5"),
    ],
)
def test_a_budget_that_cannot_be_met_is_refused(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        Budget(**fields)
