"""A training in segments that resume from one another, or that pauses: numbers equal those of an uninterrupted one."""

import dataclasses
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pruneyard.testing.cases import each_case
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.sparse.methods.magnitude import Magnitude
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.segment import WHOLE, Segment
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.training.weight_dropout import WeightDropout
from pruneyard.workloads.workload import Context, InterruptedJobError, Metric, Outcome, Progress

BUDGET = Budget(steps=30, batch_size=16, checkpoint_every_s=1e9)  # six steps an epoch
RECIPE = Recipe(
    budget=BUDGET, optimizer=SGD(lr=0.05), augment=Augmentation(pad=1), weight_dropout=WeightDropout(drop=0.1)
)
EVERY_3 = UpdateSchedule(every=3)
MOVING = SET(density=0.5, schedule=EVERY_3)


@cache
def digits(max_train: int = 120) -> Dataset:
    return Digits(max_train=max_train, max_test=60).load()


def run(
    folder: Path,
    recipe: Recipe = RECIPE,
    *,
    method: Any = MOVING,
    segment: Segment = WHOLE,
    data: Dataset | None = None,
    should_pause: Any = lambda: False,
) -> list[Progress]:
    context = Context(
        checkpoints=CheckpointFolder(folder),
        open_checkpoints=lambda artifact: CheckpointFolder(Path(artifact)),
        should_pause=should_pause,
    )
    model = Mlp(width=24, depth=2, dropout=0.2)
    return list(
        train(
            recipe,
            model=model,
            method=method,
            data=data or digits(),
            segment=segment,
            seed=3,
            context=context,
        )
    )


def in_parts(
    folder: Path, shares: list[float], recipes: list[Recipe], method: Any = MOVING
) -> list[list[Progress]]:
    """Runs one job after the other, each from the end of the one before."""
    parts = []
    for place, (share, recipe) in enumerate(zip(shares, recipes, strict=True)):
        before = {"runs": ("before",), "artifacts": (str(folder / str(place - 1)),)} if place else {}
        parts.append(run(folder / str(place), recipe, method=method, segment=Segment(until=share, **before)))
    return parts


def values(progress: list[Progress]) -> dict[tuple[int, str, str], float]:
    """Returns all metrics except times."""
    found: list[Metric] = [metric for part in progress for metric in part.metrics]
    return {(m.step, m.split, m.name): m.value for m in found}


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def assert_same_end(first: list[Progress], second: list[Progress]) -> None:
    one, other = outcome(first), outcome(second)
    for split, predicted in one.predictions.items():
        assert (predicted.logits == other.predictions[split].logits).all(), split
    for name, weights in one.weights.items():
        assert torch.equal(weights, other.weights[name]), name
    for name, mask in one.masks.items():
        assert torch.equal(mask, other.masks[name]), name
    assert one.train_flops == other.train_flops


@pytest.mark.parametrize("shares", [[0.2, 0.6, 1.0], [0.5, 1.0], [0.13, 0.71, 0.8, 1.0]])
@pytest.mark.parametrize(
    ("recipe", "method"),
    [
        (RECIPE, MOVING),
        (
            dataclasses.replace(RECIPE, average=Averaging(begin=0.4)),
            RigL(density=0.5, schedule=UpdateSchedule(every=3, until=0.3)),
        ),
        (dataclasses.replace(RECIPE, optimizer=AdamW(lr=0.01)), Magnitude(density=0.3)),
    ],
    ids=["set", "rigl averaged", "pruned with adam"],
)
def test_segments_that_change_nothing_equal_one_uninterrupted_training(
    recipe: Recipe, method: Any, shares: list[float], tmp_path: Path
) -> None:
    """Ends of parts on evaluations and between them, on epochs and inside them."""
    whole = run(tmp_path / "whole", recipe, method=method)
    parts = in_parts(tmp_path, shares, [recipe] * len(shares), method)
    assert_same_end(parts[-1], whole)
    values_of_parts, expected = [values(part) for part in parts], values(whole)
    for one, other in itertools.pairwise(values_of_parts):
        assert max(step for step, *_ in one) < min(step for step, *_ in other), "a number was reported twice"
    both = [(found[key], expected[key]) for found in values_of_parts for key in found.keys() & expected.keys()]
    assert len(both) > 20
    assert [one for one, _ in both] == [other for _, other in both]


def test_a_segment_trains_with_its_own_settings_for_any_optimizer_state(tmp_path: Path) -> None:
    """Without a rate the second half changes nothing; its momentum and decay are its own as well."""
    still = dataclasses.replace(
        RECIPE, optimizer=SGD(lr=1e-30, momentum=0.5, weight_decay=0.0), schedule=Constant()
    )
    first, second = in_parts(tmp_path, [0.5, 1.0], [RECIPE, still], method=MOVING)
    saved = CheckpointFolder(tmp_path / "1").load(torch.device("cpu"))
    assert saved is not None
    group = saved.state["optimizer"]["param_groups"][0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-30, 0.5, 0.0)
    biases = [name for name in outcome(first).weights if name.endswith("bias")]
    assert biases
    for name in biases:
        assert torch.equal(outcome(first).weights[name], outcome(second).weights[name])


def test_a_killed_segment_resumes_from_its_own_checkpoint(tmp_path: Path) -> None:
    before = run(tmp_path / "before", segment=Segment(until=0.4))
    segment = Segment(runs=("before",), artifacts=(str(tmp_path / "before"),))
    with pytest.raises(InterruptedJobError):
        run(tmp_path / "mine", segment=segment, should_pause=lambda: True)
    assert_same_end(run(tmp_path / "mine", segment=segment), run(tmp_path / "whole"))
    assert values(before).keys().isdisjoint(values(run(tmp_path / "mine", segment=segment)).keys())


def test_a_pause_comes_right_after_the_evaluation_that_asked_for_it(tmp_path: Path) -> None:
    num_checks = []

    def should_pause() -> bool:
        num_checks.append(True)
        return len(num_checks) == 2

    with pytest.raises(InterruptedJobError) as caught:
        run(tmp_path / "paused", should_pause=should_pause)
    assert caught.value.step == 12
    saved = CheckpointFolder(tmp_path / "paused").load(torch.device("cpu"))
    assert saved is not None
    assert saved.step == 12
    again, whole = run(tmp_path / "paused"), run(tmp_path / "whole")
    assert_same_end(again, whole)
    assert values(again) == values(whole)


@pytest.mark.parametrize(
    ("segment", "changed", "message"),
    [
        ({"until": 0.4}, {}, "ended at step 12, so until must be larger"),
        (
            {},
            {"recipe": dataclasses.replace(RECIPE, budget=dataclasses.replace(BUDGET, steps=31))},
            "belongs to a run of 30 steps",
        ),
        ({}, {"data": digits(110)}, "made on data"),
        ({"artifacts": ("nowhere",)}, {}, "has no checkpoint in"),
        ({"artifacts": ()}, {}, "only a study that contains it"),
    ],
)
def test_a_parent_that_cannot_be_resumed_is_reported(
    segment: dict[str, Any], changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    run(tmp_path / "before", segment=Segment(until=0.4))
    options = {"runs": ("before",), "artifacts": (str(tmp_path / "before"),), **segment}
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "mine", segment=Segment(**options), **changed)


@each_case(
    ("fields", "message"),
    [
        ({"until": 0.0}, r"until is 0.0; it must lie in \(0, 1\]"),
        ({"until": 1.5}, "must lie in"),
        ({"runs": ("a", "b")}, "it must name 1"),
        ({"folder": "out"}, "but runs is missing"),
    ],
)
def test_what_is_no_segment_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segment(**fields)
