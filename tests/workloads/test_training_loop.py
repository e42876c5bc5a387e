"""The loop's behaviour that does not depend on the method; what does is in tests/conformance."""

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.metrics.classification import standard_metrics
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.objectives.cross_entropy import CrossEntropy
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.schedules.constant import Constant
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.rigl import RigL
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.sparse.update_schedule import UpdateSchedule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, InterruptedJobError, NonFiniteError, Outcome, Progress

SMALL = Recipe(budget=Budget(steps=10, batch_size=16, checkpoint_every_s=1e9), optimizer=SGD(lr=0.05))


@cache
def digits(**fields: Any) -> Dataset:
    return Digits(**({"max_train": 120, "max_test": 60} | fields)).load()


def with_budget(**fields: Any) -> Recipe:
    return dataclasses.replace(SMALL, budget=dataclasses.replace(SMALL.budget, **fields))


def run(
    folder: Path,
    recipe: Recipe = SMALL,
    *,
    model: Any = Mlp(width=24, depth=1),  # noqa: B008 - frozen
    method: Any = Dense(),  # noqa: B008 - frozen
    data: Dataset | None = None,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Progress]:
    context = Context(checkpoints=CheckpointFolder(folder), should_stop=should_stop)
    return list(train(recipe, model=model, method=method, data=data or digits(), seed=seed, context=context))


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def largest_difference(first: Outcome, second: Outcome) -> float:
    return float(np.abs(first.predictions["test"].logits - second.predictions["test"].logits).max())


def test_the_same_seed_gives_the_same_network_for_any_state_of_torchs_generator(tmp_path: Path) -> None:
    first = outcome(run(tmp_path / "a"))
    torch.rand(7)
    second = outcome(run(tmp_path / "b"))
    assert largest_difference(first, second) == 0
    assert largest_difference(first, outcome(run(tmp_path / "c", seed=1))) > 0


def test_reports_come_after_each_epoch_and_at_the_end(tmp_path: Path) -> None:
    progress = run(tmp_path)  # 96 training rows, so six steps an epoch
    assert [part.step for part in progress] == [6, 10]
    assert all(part.num_steps == 10 for part in progress)
    assert [part.outcome is not None for part in progress] == [False, True]
    assert {(m.split, m.name) for m in progress[0].metrics} >= {("val", "accuracy"), ("train", "loss")}
    assert not any(m.split == "calib" for m in progress[0].metrics)
    assert any(m.split == "calib" for m in progress[-1].metrics)
    assert {m.epoch for m in progress[-1].metrics} == {10 / 6}


def test_reported_metrics_are_those_of_the_predictions_left(tmp_path: Path) -> None:
    last = run(tmp_path)[-1]
    for split, predicted in outcome([last]).predictions.items():
        expected = standard_metrics(predicted.logits, predicted.labels)
        given = {m.name: m.value for m in last.metrics if m.split == split}
        assert given == expected
    assert (outcome([last]).predictions["test"].row_ids == digits().test.row_ids).all()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    losses = [
        m.value for part in run(tmp_path, with_budget(steps=60)) for m in part.metrics if m.name == "loss"
    ]
    assert losses[-1] < 0.5 * losses[0]


def test_empty_splits_are_left_out(tmp_path: Path) -> None:
    progress = run(tmp_path, data=digits(val_fraction=0.0, calib_fraction=0.0))
    assert {m.split for part in progress for m in part.metrics} == {"train", "test"}
    assert outcome(progress).predictions.keys() == {"test"}
    assert {point.key for point in progress[-1].curves if point.name == "reliability"} == {"test"}


def test_density_is_reported_for_network_and_layers(tmp_path: Path) -> None:
    last = run(tmp_path, method=Static(density=0.25, distribution="uniform"))[-1]
    weights = 64 * 24 + 24 * 10
    (density,) = [m.value for m in last.metrics if m.name == "density"]
    assert density == pytest.approx(round(0.25 * weights) / weights)
    layers: dict[str, Any] = {
        point.key: (point.y, point.count) for point in last.curves if point.name == "density"
    }
    assert layers == {
        "hidden1.weight": (pytest.approx(0.25), 64 * 24),
        "classifier.weight": (pytest.approx(0.25), 240),
    }
    finished = outcome([last])
    assert finished.num_parameters == weights + 24 + 10
    assert finished.num_active == round(0.25 * weights) + 34


@pytest.mark.parametrize(
    ("step", "method"), [(5, Dense()), (6, Dense()), (6, RigL(density=0.5)), (4, SET(density=0.5))]
)
def test_a_loss_that_is_not_finite_is_named_by_its_step(step: int, method: Any, tmp_path: Path) -> None:
    class Breaking(StatelessObjective):
        calls = 0

        def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
            self.calls += 1
            value, memory = CrossEntropy().loss(inputs)
            return value * (torch.nan if self.calls == step + 1 else 1), memory

    if method.target_density < 1:
        method = dataclasses.replace(method, schedule=UpdateSchedule(every=3))
    recipe = dataclasses.replace(SMALL, objective=Breaking())
    with pytest.raises(NonFiniteError, match=rf"^train/loss is nan at step {step}; it must be finite"):
        run(tmp_path, recipe, method=method)


def test_a_rate_that_diverges_is_reported_as_such(tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, optimizer=SGD(lr=1e30), schedule=Constant())
    with pytest.raises(NonFiniteError, match=r"^train/loss is (nan|inf) at step \d;"):
        run(tmp_path, recipe)


def test_a_stop_saves_a_checkpoint_from_which_the_run_ends_as_uninterrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole")
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    num_checks = 0

    def should_stop() -> bool:
        nonlocal num_checks
        num_checks += 1
        return num_checks == 4

    with pytest.raises(InterruptedJobError, match="after step 4") as caught:
        run(tmp_path / "stopped", should_stop=should_stop)
    assert caught.value.step == 4
    resumed = run(tmp_path / "stopped")
    assert [part.step for part in resumed] == [6, 10]
    assert largest_difference(outcome(whole), outcome(resumed)) == 0
    assert outcome(resumed).train_s > 0


def test_a_finished_run_is_evaluated_again_without_training(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path)
    assert [part.step for part in again] == [10]
    assert largest_difference(outcome(first), outcome(again)) == 0
    values = [(m.step, m.split, m.name, m.value) for part in first for m in part.metrics]
    assert [(m.step, m.split, m.name, m.value) for m in again[0].metrics] == values


@pytest.mark.parametrize(("before", "after"), [(0, 1), (1, 0)])
def test_a_run_resumes_with_another_evaluation_interval(
    before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole", with_budget(steps=20))
    monkeypatch.setattr("pruneyard.workloads.workload.STOP_CHECK_EVERY_S", 0.0)
    stop_requests = iter([False] * 9 + [True])
    with pytest.raises(InterruptedJobError):
        run(tmp_path / "x", with_budget(steps=20, evaluate_every=before), should_stop=lambda: next(stop_requests))
    resumed = run(tmp_path / "x", with_budget(steps=20, evaluate_every=after))
    assert largest_difference(outcome(whole), outcome(resumed)) == 0


def test_a_checkpoint_of_another_budget_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ValueError, match="10 steps, but this run has 20"):
        run(tmp_path, with_budget(steps=20))


def test_damaged_checkpoints_cost_time_and_no_number(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", with_budget(checkpoint_every_s=0))
    for path in (tmp_path / "whole").iterdir():
        (path / "model.safetensors").write_bytes(b"\0" * 100)
    assert largest_difference(outcome(whole), outcome(run(tmp_path / "whole"))) == 0


def test_bfloat16_changes_little_and_not_nothing(tmp_path: Path) -> None:
    """Eight bits of mantissa: logits of order one may move by some hundredths within a few small steps."""
    exact = outcome(run(tmp_path / "a"))
    rounded = outcome(run(tmp_path / "b", with_budget(precision="bfloat16")))
    assert 0 < largest_difference(exact, rounded) < 0.1
    assert all(tensor.dtype == torch.float32 for tensor in rounded.weights.values())


def test_channels_last_lays_out_weights_and_keeps_the_numbers_to_rounding(tmp_path: Path) -> None:
    model = ConvNet(width=8, depth=1)
    plain = outcome(run(tmp_path / "a", model=model, method=RigL(density=0.5)))
    other = outcome(
        run(tmp_path / "b", with_budget(channels_last=True), model=model, method=RigL(density=0.5))
    )
    assert largest_difference(plain, other) < 1e-3
    # a single input channel is both layouts at once, so ask the batch-independent flag of a wider network
    wide = outcome(
        run(
            tmp_path / "c",
            with_budget(channels_last=True, steps=1),
            model=ConvNet(width=8, depth=2),
            method=Dense(),
        )
    )
    kernels = [t for t in wide.weights.values() if t.ndim == 4 and t.shape[1] > 1]
    assert kernels
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_a_compiled_network_trains_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, genuine = [], torch.compile

    def compiling(network: nn.Module) -> Any:
        compiled.append(network)
        return genuine(network)

    monkeypatch.setattr(torch, "compile", compiling)
    one_shape = digits(val_fraction=0.0, calib_fraction=0.0, max_test=16)
    plain = outcome(run(tmp_path / "a", data=one_shape))
    assert not compiled
    fused = outcome(run(tmp_path / "b", with_budget(compile=True, evaluate_every=0), data=one_shape))
    assert len(compiled) == 1
    assert largest_difference(plain, fused) < 1e-3


@pytest.mark.slow
def test_moving_masks_beats_fixed_ones_at_low_density_as_the_papers_say(tmp_path: Path) -> None:
    """Mean test accuracy over three seeds on digits at density 0.02; Mocanu et al. 2018, Evci et al. 2020."""
    recipe = Recipe(budget=Budget(epochs=30, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    frequent = UpdateSchedule(every=20)
    methods = {
        "static": Static(density=0.02),
        "set": SET(density=0.02, schedule=frequent),
        "rigl": RigL(density=0.02, schedule=frequent),
    }
    accuracy = {}
    for name, method in methods.items():
        values = []
        for seed in range(3):
            folder = tmp_path / f"{name}-{seed}"
            last = run(folder, recipe, model=Mlp(), method=method, data=Digits().load(), seed=seed)[-1]
            values += [m.value for m in last.metrics if (m.split, m.name) == ("test", "accuracy")]
        accuracy[name] = float(np.mean(values))
    assert accuracy["static"] < accuracy["set"], accuracy
    assert accuracy["static"] < accuracy["rigl"], accuracy
