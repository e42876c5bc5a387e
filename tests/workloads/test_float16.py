"""Training in float16: the loss is scaled so that small gradients survive, and steps with an overflow are skipped."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.trainings import (
    assert_same_numbers,
    checkpoint_at,
    copy_checkpoint,
    digits,
    outcome,
    recipe_of,
    run,
)
from pruneyard.workloads.checkpoint import Checkpoint
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.dst_ee import DSTEE
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.snfs import SNFS
from pruneyard.workloads.sparse.methods.snip import SNIP
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training import loss_scale
from pruneyard.workloads.training.loss_scale import (
    GROW_EVERY,
    SMALLEST,
    DynamicLossScale,
    UnscaledLoss,
    make_loss_scale,
)
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Recipe
from pruneyard.workloads.workload import NonFiniteError

CPU = torch.device("cpu")
OFTEN = UpdateSchedule(every=3, until=1.0)
BURST_AT = 3  # an update step of `OFTEN`
NUM_STEPS = 9
MODEL = Mlp(width=24, depth=1)


class OverflowingObjective(StatelessObjective):
    """Cross-entropy that counts its steps, and overflows float16 in one of them, at any scale near the usual."""

    def __init__(self, step: int, factor: float) -> None:
        self.step, self.factor = step, factor

    def start(self) -> Tensors:
        """Returns the initial count of usable steps."""
        return {"counted": torch.zeros(())}

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the cross-entropy, except in the overflowing step."""
        value, _ = CrossEntropy().loss(inputs)
        counted = inputs.memory["counted"]
        if self.step >= 0 and counted == self.step:
            self.step = -1  # once
            value = value * self.factor
        return value, {"counted": counted + 1}


def half(objective: Any = CrossEntropy(), **fields: Any) -> Recipe:  # noqa: B008 - frozen
    budget = {"steps": NUM_STEPS, "precision": "float16", "checkpoint_every_s": 0}
    return recipe_of(budget=budget, objective=objective, **fields)


def of(group: str, checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: t for name, t in checkpoint.tensors.items() if name.startswith(f"{group}/")}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def value_of(name: str, progress: Any) -> float:
    (value,) = [m.value for m in progress[-1].metrics if m.name == name]
    return float(value)


@pytest.mark.parametrize(
    "method",
    [
        RigL(density=0.2, schedule=OFTEN),
        DSTEE(density=0.2, schedule=OFTEN),
        SNFS(density=0.2, schedule=OFTEN),
    ],
    ids=["rigl", "dst_ee", "snfs"],
)
def test_an_overflow_at_an_update_changes_nothing_and_the_update_comes_a_step_later(
    method: MaskUpdater, tmp_path: Path
) -> None:
    progress = run(method, tmp_path / "run", half(OverflowingObjective(BURST_AT, 1e30)), model=MODEL)
    at = {step: checkpoint_at(step, tmp_path / "run", tmp_path / f"at-{step}") for step in range(3, 8)}
    before, after = at[BURST_AT], at[BURST_AT + 1]
    assert before.step + 1 == after.step
    assert before.tensors.keys() == after.tensors.keys()
    assert same(before.tensors, after.tensors)  # weights, masks, what method, rule and objective remember
    momenta = [
        [held["momentum_buffer"] for held in c.state["optimizer"]["state"].values()] for c in (before, after)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*momenta, strict=True))
    assert after.meta["loss_scale"]["scale"] == before.meta["loss_scale"]["scale"] / 2
    assert not same(of("mask", after), of("mask", at[BURST_AT + 2]))  # made up for
    assert same(of("mask", at[6]), of("mask", at[BURST_AT + 2]))
    assert not same(of("mask", at[6]), of("mask", at[7]))  # the next by the schedule
    assert value_of("skipped_steps", progress) == 1
    assert value_of("counted", progress) == NUM_STEPS - 1
    assert progress[-1].step == NUM_STEPS


def test_a_method_that_prunes_once_does_so_at_the_first_step_that_does_not_overflow(tmp_path: Path) -> None:
    progress = run(SNIP(density=0.2), tmp_path / "run", half(OverflowingObjective(0, 1e30)), model=MODEL)
    first, second = (checkpoint_at(step, tmp_path / "run", tmp_path / f"at-{step}") for step in (1, 2))
    assert all(mask.all() for mask in of("mask", first).values())
    assert not any(mask.all() for mask in of("mask", second).values())
    assert value_of("density", progress) == pytest.approx(0.2, abs=0.001)


@pytest.mark.parametrize("rule", [AGENT(), SVRG()], ids=["agent", "svrg"])
def test_resumed_after_any_step_equals_uninterrupted_bit_for_bit_also_where_the_scale_changes(
    rule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**22)
    monkeypatch.setattr(loss_scale, "GROW_EVERY", 2)
    recipe = dataclasses.replace(half(gradient=rule), budget=half().budget)
    method = DSTEE(density=0.2, schedule=OFTEN)
    whole = run(method, tmp_path / "whole", recipe)
    scales = set()
    for step in range(1, NUM_STEPS):
        aside = copy_checkpoint(step, tmp_path / "whole", tmp_path / f"from-{step}")
        scales.add(
            checkpoint_at(step, tmp_path / "whole", tmp_path / f"at-{step}").meta["loss_scale"]["scale"]
        )
        assert_same_numbers(whole, run(method, aside, recipe))
    assert len(scales) > 1


@pytest.mark.parametrize("rule", [AGENT(), SVRG()], ids=["agent", "svrg"])
def test_an_anchor_is_never_made_of_an_overflow(
    rule: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**30)
    progress = run(Dense(), tmp_path / "run", half(gradient=rule), model=MODEL)
    anchors = of("rule", checkpoint_at(1, tmp_path / "run", tmp_path / "at"))
    assert all(torch.isfinite(tensor).all() for tensor in anchors.values())
    assert value_of("skipped_steps", progress) < NUM_STEPS


def test_float16_changes_little_and_not_nothing_and_weights_stay_float32(tmp_path: Path) -> None:
    """Eleven bits of mantissa: logits of order one move by some thousandths within a few small steps."""
    exact = run(Dense(), tmp_path / "a", recipe_of(budget={"steps": NUM_STEPS}), model=MODEL)
    rounded = run(Dense(), tmp_path / "b", half(), model=MODEL)
    logits = [outcome(progress).predictions["test"].logits for progress in (exact, rounded)]
    assert 0 < float(np.abs(logits[0] - logits[1]).max()) < 0.02
    assert all(tensor.dtype == torch.float32 for tensor in outcome(rounded).weights.values())
    assert not any(m.name == "skipped_steps" for m in exact[-1].metrics)
    assert outcome(exact).train_flops == outcome(rounded).train_flops


def test_small_gradients_survive_where_an_unscaled_loss_would_lose_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is divided by 2^24, and float16 ends at 2^-24: logits have gradients below 1/16 of that."""

    def first_gradient(scale: float) -> Tensor:
        """Returns the gradient of the first layer: without decay it is the momentum after one step."""
        monkeypatch.setattr(loss_scale, "FIRST", scale)
        recipe = half(OverflowingObjective(0, 2.0**-24), optimizer=SGD(lr=0.05, weight_decay=0.0))
        run(Dense(), tmp_path / str(scale), recipe, model=MODEL)
        saved = checkpoint_at(1, tmp_path / str(scale), tmp_path / f"at-{scale}")
        momentum: Tensor = saved.state["optimizer"]["state"][0]["momentum_buffer"]
        return momentum

    assert not first_gradient(1.0).any()
    assert first_gradient(2.0**24).any()


def test_a_loss_that_is_no_number_is_named_by_its_step_and_not_skipped_over(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"^train/loss is nan at step 4;"):
        run(RigL(density=0.2, schedule=OFTEN), tmp_path, half(OverflowingObjective(4, float("nan"))), model=MODEL)


def scaled_gradient(scale: DynamicLossScale, weight: nn.Parameter, factor: float) -> bool:
    weight.grad = None
    scale.scale_loss((weight * factor).sum()).backward()
    scale.unscale([weight])
    return scale.finish_step()


def test_the_scale_falls_with_an_overflow_and_rises_after_a_long_time_without_one() -> None:
    scale, weight = DynamicLossScale(device=CPU, scale=8.0), nn.Parameter(torch.ones(3))
    assert not scaled_gradient(scale, weight, torch.inf)
    assert scale.scale == 4
    for _ in range(GROW_EVERY - 1):
        assert scaled_gradient(scale, weight, 0.3)
    assert scale.scale == 4
    assert scaled_gradient(scale, weight, 0.3)
    assert scale.scale == 8
    assert weight.grad is not None
    assert weight.grad.tolist() == pytest.approx([0.3] * 3, rel=1e-7)
    assert dict(scale.metrics()) == {"skipped_steps": 1}


def test_where_no_scale_helps_training_ends_with_a_word() -> None:
    scale, weight = DynamicLossScale(device=CPU, scale=4 * SMALLEST), nn.Parameter(torch.ones(3))
    assert not scaled_gradient(scale, weight, torch.nan)
    assert not scaled_gradient(scale, weight, torch.nan)
    with pytest.raises(NonFiniteError, match="gradients are not finite even with the loss scaled by"):
        scaled_gradient(scale, weight, torch.nan)


def test_other_precisions_are_not_scaled_and_a_device_without_float16_is_named() -> None:
    assert all(isinstance(make_loss_scale(precision, CPU), UnscaledLoss) for precision in ("float32", "bfloat16"))
    assert isinstance(make_loss_scale("float16", CPU), DynamicLossScale)
    with pytest.raises(ValueError, match=r"^precision is float16, in which meta cannot train"):
        make_loss_scale("float16", torch.device("meta"))


def test_the_network_of_these_tests_has_no_running_statistics() -> None:
    """Passes move them, also that of a skipped step."""
    assert not list(MODEL.build(image_shape=digits().image_shape, num_classes=10).buffers())
