"""Iterative magnitude pruning: the division of the budget, what a rewinding restores, its reductions, and winning tickets."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pruneyard.testing.trainings import (
    accuracy_on_digits,
    assert_same_numbers,
    checkpoint_at,
    copy_checkpoint,
    digits,
    network_of,
    outcome,
    recipe_of,
    run,
)
from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.sparse.methods.imp import IMP
from pruneyard.workloads.sparse.methods.one_shot import OneShot
from pruneyard.workloads.sparse.rewinding import Rounds
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.workload import Context, Progress

STEPS = 40  # of IMP(rounds=2, rewind_to=0.25): 16 steps, then 12 and 12 from step 4 on
METHOD = IMP(density=0.25, rounds=2, rewind_to=0.25)
SAVING = {"steps": STEPS, "checkpoint_every_s": 0, "evaluate_every": 0}


def test_a_budget_is_one_training_and_rounds_from_the_rewinding_point_on() -> None:
    rounds = Rounds(3, 0.25)
    assert rounds.starts(130) == (40, 70, 100)
    assert rounds.rewinding_point(130) == 10
    assert [rounds.num_started(step, num_steps=130) for step in (0, 39, 40, 69, 129)] == [0, 0, 1, 1, 3]


@pytest.mark.parametrize("rewind_to", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("num", [1, 3, 10])
@pytest.mark.parametrize("num_steps", [97, 500])
def test_every_training_runs_its_schedule_to_the_end_and_rounds_differ_by_one_step_at_most(
    num_steps: int, num: int, rewind_to: float
) -> None:
    rounds = Rounds(num, rewind_to)
    starts, point = rounds.starts(num_steps), rounds.rewinding_point(num_steps)
    trained = [[rounds.position(step, num_steps=num_steps) for step in range(starts[0])]]
    for begin, end in zip(starts, (*starts[1:], num_steps), strict=True):
        trained.append([rounds.position(step, num_steps=num_steps) for step in range(begin + 1, end)])
    assert sum(map(len, trained)) + num == num_steps
    for places, first in zip(trained, (0, *(point for _ in starts)), strict=True):
        length = first + len(places)
        assert places == [(place, length) for place in range(first, length)]
    assert max(map(len, trained[1:])) - min(map(len, trained[1:])) <= 1


@pytest.fixture(scope="module")
def saving(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Progress], Path]:
    """Returns a training with a checkpoint after every step, and its folder."""
    folder = tmp_path_factory.mktemp("saving")
    return run(METHOD, folder, recipe_of(budget=SAVING)), folder


def checkpoints(folder: Path, target: Path, *steps: int) -> list[Checkpoint]:
    return [checkpoint_at(step, folder, target / str(step)) for step in steps]


def num_active(saved: Checkpoint) -> int:
    return sum(int(tensor.sum()) for key, tensor in saved.tensors.items() if key.startswith("mask/"))


def test_rounds_prune_the_same_share_of_the_surviving_weights(saving: Any, tmp_path: Path) -> None:
    kept = [num_active(saved) for saved in checkpoints(saving[1], tmp_path, 16, 17, 28, 29)]
    num = 24 * (64 + 10)
    assert kept == [num, num // 2, num // 2, num // 4]


def test_a_rewinding_restores_the_network_of_the_rewinding_point_and_clears_the_optimizer(saving: Any, tmp_path: Path) -> None:
    at_point, after_forward, *pruned = checkpoints(saving[1], tmp_path, 4, 5, 17, 29)  # 16 and 28 prune and rewind
    for saved in pruned:
        assert saved.state["optimizer"]["state"] == {}
        for name, tensor in network_of(saved).items():
            is_parameter = name.endswith(("weight", "bias"))
            original = network_of(at_point if is_parameter else after_forward)[name]
            assert torch.equal(tensor, original * saved.tensors.get(f"mask/{name}", 1)), name


@pytest.mark.parametrize("step", [3, 10, 20, 35])
def test_a_training_resumed_within_a_round_equals_an_uninterrupted_one(step: int, saving: Any, tmp_path: Path) -> None:
    whole, folder = saving
    resumed = run(METHOD, copy_checkpoint(step, folder, tmp_path), recipe_of(budget=SAVING))
    assert_same_numbers(whole, resumed)


def test_one_round_of_learning_rate_rewinding_at_a_constant_rate_is_one_shot_pruning(tmp_path: Path) -> None:
    recipe = recipe_of(schedule=Constant())
    rewound = IMP(density=0.2, rounds=1, rewind="learning_rate", rewind_to=0.0)
    assert_same_numbers(
        run(rewound, tmp_path / "imp", recipe), run(OneShot(density=0.2, prune_at=0.5), tmp_path / "one_shot", recipe)
    )


def test_the_shuffled_control_has_the_same_masks_and_the_same_values_in_other_places(tmp_path: Path) -> None:
    control = dataclasses.replace(METHOD, rewind="shuffled")
    found = {}
    for name, method in {"ticket": METHOD, "control": control}.items():
        seen: dict[str, Any] = {}
        run(spy(method, seen), tmp_path / name, recipe_of(budget={"steps": STEPS}))
        found[name] = seen["last"]
    ticket, other = found["ticket"], found["control"]
    for name, mask in ticket.masks.items():
        assert torch.equal(mask, other.masks[name])
        assert not torch.equal(ticket.rewound[name], other.rewound[name])
        assert torch.equal(ticket.rewound[name].flatten().sort().values, other.rewound[name].flatten().sort().values)


def spy(method: IMP, seen: dict[str, Any]) -> MaskUpdater:
    """Returns the method, which also puts its last state into `seen`."""

    class Spy(IMP):
        def update(self, state: Any, context: Any) -> Any:
            seen["last"] = super().update(state, context)
            return seen["last"]

    return Spy(**{field.name: getattr(method, field.name) for field in dataclasses.fields(method)})


def test_tickets_stored_sparse_have_the_logits_of_masked_ones(tmp_path: Path) -> None:
    recipe, data, logits = recipe_of(budget={"steps": STEPS}), digits(), []
    executions: tuple[Execution, ...] = ("masked", "sparse")
    for chosen in executions:
        context = Context(checkpoints=CheckpointFolder(tmp_path / chosen))
        parts = train(recipe, model=Mlp(width=24), method=METHOD, data=data, seed=0, execution=chosen, context=context)
        logits.append(outcome(list(parts)).predictions["test"].logits)
    np.testing.assert_allclose(*logits, atol=1e-3)  # rounding in 40 steps of float32


@pytest.mark.slow
def test_a_ticket_beats_the_same_mask_with_shuffled_weights() -> None:
    ticket = accuracy_on_digits(IMP(density=0.02, rounds=5, rewind="weights"), epochs=30)
    assert ticket > accuracy_on_digits(IMP(density=0.02, rounds=5, rewind="shuffled"), epochs=30)
