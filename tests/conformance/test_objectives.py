"""Rules that every objective must keep. Members are found by their files."""

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pruneyard.testing.cases import each_case
from pruneyard.testing.loss_evaluation import FixedLogits, loss_inputs
from pruneyard.testing.plug_in import build
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.gradients.agent import AGENT
from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.gradients.svrg import SVRG
from pruneyard.workloads.interfaces import GradientRule, Objective, Tensors
from pruneyard.workloads.networks.flops import forward_flops
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.seeding import fork_rng
from pruneyard.workloads.sparse.methods.dense import Dense
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.split_logits import TrainingLogits
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context, Outcome

FAMILY = "objectives"
OBJECTIVES = names(FAMILY)
NUM_STEPS, STEPS_PER_EPOCH, BATCH = 8, 4, 16
@dataclass(frozen=True, kw_only=True)
class Model:
    """Builds a network with running statistics, and with a forward pass that draws."""

    dropout: float = 0.2

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        units = math.prod(image_shape)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(units, 24, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            nn.Linear(24, num_classes),
        )


RANDOM_MODEL, DETERMINISTIC_MODEL = Model(), Model(dropout=0.0)


@cache
def digits() -> Dataset:
    dataset: Dataset = find("data.sources", "digits")(max_train=88, max_test=60).load()
    return dataset


def objective_of(name: str, **fields: Any) -> Objective:
    objective: Objective = build(FAMILY, name, **fields)
    return objective


def recipe_of(objective: Objective, rule: GradientRule = Plain(), **budget: Any) -> Recipe:  # noqa: B008
    options = {"steps": NUM_STEPS, "batch_size": BATCH, "checkpoint_every_s": 1e9} | budget
    return Recipe(
        budget=Budget(**options),
        objective=objective,
        gradient=rule,
        optimizer=SGD(lr=0.05, weight_decay=5e-3),
        augment=Augmentation(pad=1, flip=True),
    )


def run(objective: Objective, folder: Path, method: Any = Static(density=0.3), **budget: Any) -> Outcome:  # noqa: B008
    context = Context(checkpoints=CheckpointFolder(folder, keep=NUM_STEPS))
    recipe = recipe_of(objective, **budget)
    *_, last = train(recipe, model=RANDOM_MODEL, method=method, data=digits(), seed=3, context=context)
    assert last.outcome is not None
    return last.outcome


def start_training(
    objective: Objective,
    *,
    model: Model = RANDOM_MODEL,
    rule: GradientRule = Plain(),  # noqa: B008
    **budget: Any,
) -> tuple[Training, Callable[[int], tuple[Tensor, Tensor]]]:
    """Returns a training at its initialisation, and a function that returns its batches."""
    data = digits()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    training = Training.start(
        model,
        recipe=recipe_of(objective, rule, **budget),
        method=Static(density=0.3),
        seed=3,
        rows=split,
        num_classes=data.num_classes,
    )

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(BATCH) + BATCH * (step % STEPS_PER_EPOCH)
        return split.batch(rows, Augmentation(), torch.Generator())

    return training, batch_of


def memories_of_epochs(objective: Objective, num_epochs: int = 8) -> list[Tensors]:
    """Returns its memory at the start of every epoch, if no step changes it and all logits are random."""
    labels = torch.from_numpy(digits().train.labels)
    random_logits = torch.randn(len(labels), digits().num_classes, generator=torch.Generator().manual_seed(4))
    fixed_logits, memories = FixedLogits(random_logits, labels), [objective.start()]
    for epoch in range(num_epochs):
        memories.append(objective.on_epoch_start(memories[-1], epoch=epoch, num_epochs=num_epochs, split_logits=fixed_logits))
    return memories[1:]


def copies(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def assert_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@each_case("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_finite_scalar_and_its_gradient_reaches_every_parameter(
    name: str, precision: str
) -> None:
    training, batch_of = start_training(objective_of(name), precision=precision)
    loss, _ = training.compute_loss(*batch_of(0), 0)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    loss.backward()
    for key, parameter in training.network_tensors.parameters.items():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_a_mean_over_the_batch(name: str) -> None:
    """Every row twice is the same loss; where an objective draws, each twin draws for itself, so up to what that makes."""
    objective = objective_of(name)
    num_outputs = digits().num_classes + objective.num_extra
    weight = torch.randn(num_outputs, 64, generator=torch.Generator().manual_seed(1)) / 8
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(32) % digits().num_classes

    def loss(copies_of_each: int, memory: Tensors) -> tuple[float, bool]:
        inputs = loss_inputs(
            lambda x: x.flatten(1) @ weight.T,
            images.repeat(copies_of_each, 1, 1, 1),
            labels.repeat(copies_of_each),
            memory=memory,
        )
        inputs.rows = lambda: torch.arange(32).repeat(copies_of_each)
        make_generator = inputs.make_generator
        calls: list[int] = []

        def counting_generator() -> torch.Generator:
            calls.append(1)
            return make_generator()

        inputs.make_generator = counting_generator
        value, _ = objective.loss(inputs)
        return float(value), bool(calls)

    for memory in memories_of_epochs(objective):
        (once, draws), (twice, _) = loss(1, memory), loss(2, memory)
        assert twice == pytest.approx(once, rel=0.02 if draws else 1e-5)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_computing_the_loss_modifies_no_input_and_sets_no_gradient(name: str) -> None:
    objective = objective_of(name)
    training, batch_of = start_training(objective)
    images, labels = batch_of(0)
    for memory in memories_of_epochs(objective):
        before = copies(
            {
                "images": images,
                "labels": labels,
                **training.network_tensors.parameters,
                **{f"m/{n}": t for n, t in memory.items()},
            }
        )
        training.memory = memory
        training.compute_loss(images, labels, 0)
        after = {
            "images": images,
            "labels": labels,
            **training.network_tensors.parameters,
            **{f"m/{n}": t for n, t in memory.items()},
        }
        assert_same_tensors(before, after)
        assert all(parameter.grad is None for parameter in training.network.parameters())
        assert training.network.training


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_is_remembered_keeps_its_names_and_is_numbers_without_gradient(name: str) -> None:
    objective = objective_of(name)
    training, batch_of = start_training(objective)
    for memory in memories_of_epochs(objective):
        assert memory.keys() == objective.start().keys()
        training.memory = memory
        _, after = training.compute_loss(*batch_of(0), 0)
        assert after.keys() <= memory.keys()  # those that are new
        assert not any(tensor.requires_grad for tensor in after.values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_without_gradients_the_loss_is_the_same(name: str) -> None:
    training, batch_of = start_training(objective_of(name))

    def answer() -> tuple[float, dict[str, float]]:
        with fork_rng(training.device, 5), training.network_tensors.preserve_buffers():
            loss, memory = training.compute_loss(*batch_of(0), 0)
        return float(loss.detach()), {key: float(tensor) for key, tensor in memory.items()}

    with torch.no_grad():
        off = answer()
    assert off == answer()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_resumed_after_any_step_equals_uninterrupted_bit_for_bit(name: str, tmp_path: Path) -> None:
    uninterrupted = run(objective_of(name), tmp_path / "whole")
    with_all_checkpoints = tmp_path / "every"
    run(objective_of(name), with_all_checkpoints, checkpoint_every_s=0)
    for step in range(1, NUM_STEPS):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(with_all_checkpoints / f"step-{step:09d}", folder / f"step-{step:09d}")
        torch.manual_seed(999)  # whatever another training leaves
        resumed = run(objective_of(name), folder)
        assert_same_tensors(uninterrupted.weights, resumed.weights)
        assert uninterrupted.train_flops == resumed.train_flops


@pytest.mark.parametrize("name", OBJECTIVES)
def test_neutral_settings_train_as_cross_entropy_does_bit_for_bit(name: str, tmp_path: Path) -> None:
    if not find(FAMILY, name).neutral_settings:
        pytest.skip("neutral_settings is empty: no setting is cross-entropy")
    plain = run(objective_of("cross_entropy"), tmp_path / "plain")
    for index, fields in enumerate(find(FAMILY, name).neutral_settings):
        neutral = run(objective_of(name, **fields), tmp_path / f"neutral-{index}")
        assert_same_tensors(plain.weights, neutral.weights)
        assert neutral.train_flops == plain.train_flops


@pytest.mark.parametrize("name", OBJECTIVES)
def test_neutral_settings_have_the_loss_and_gradient_of_cross_entropy_bit_for_bit_in_float64(
    name: str,
) -> None:
    images = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    labels = torch.arange(32) % digits().num_classes

    def loss_and_gradient(objective: Objective) -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(1)
        weight = torch.randn(
            digits().num_classes, 64, generator=draws, dtype=torch.float64, requires_grad=True
        )
        inputs = loss_inputs(lambda x: x.flatten(1) @ weight.T, images, labels, memory=dict(objective.start()))
        value, _ = objective.loss(inputs)
        torch.autograd.backward(value)
        assert weight.grad is not None
        return value.detach(), weight.grad

    value, gradient = loss_and_gradient(objective_of("cross_entropy"))
    for fields in find(FAMILY, name).neutral_settings:
        neutral_value, neutral_gradient = loss_and_gradient(objective_of(name, **fields))
        assert torch.equal(neutral_value, value)
        assert torch.equal(neutral_gradient, gradient)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_waits_for_no_number_of_the_batch(name: str) -> None:
    """Tensors without numbers: whoever reads one, or makes a shape of one, raises."""
    objective = objective_of(name)
    num_outputs = digits().num_classes + objective.num_extra
    weight = torch.empty(num_outputs, 64, device="meta", requires_grad=True)
    images, labels = (
        torch.empty(32, 1, 8, 8, device="meta"),
        torch.empty(32, dtype=torch.int64, device="meta"),
    )
    for memory in memories_of_epochs(objective, num_epochs=2):
        meta_memory = {name: tensor.to("meta") for name, tensor in memory.items()}
        inputs = loss_inputs(lambda x: x.flatten(1) @ weight.T, images, labels, memory=meta_memory)
        inputs.rows = lambda: labels
        value, _ = objective.loss(inputs)
        value.backward()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_work_beyond_three_passes_is_counted_as_the_objective_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the forward passes of the rows that it asks about between epochs."""
    objective = objective_of(name)
    num_rows: list[int] = []
    logits = TrainingLogits.logits

    def counting_logits(training_logits: TrainingLogits, split: Literal["train", "val"]) -> tuple[Tensor, Tensor]:
        rows = logits(training_logits, split)
        num_rows.append(len(rows[1]))
        return rows

    monkeypatch.setattr(TrainingLogits, "logits", counting_logits)
    macs = {"1.weight": 64 * 24, "5.weight": 24 * (digits().num_classes + objective.num_extra)}
    flops = run(objective, tmp_path, method=Dense()).train_flops
    forwards = NUM_STEPS * BATCH * (3 + objective.extra_forwards) + sum(num_rows)
    assert flops == pytest.approx(forwards * forward_flops(macs, {}), rel=1e-12)


@each_case("rule", [SVRG(), AGENT(gamma=1.0, initial=1.0)], ids=["svrg", "agent"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_control_variate_s_anchor_is_of_the_same_loss_so_that_it_moves_no_mean(
    name: str, rule: GradientRule
) -> None:
    """Over the batches of an epoch, at weights other than the snapshot's, the mean of what the optimizer sees is the mean of
    the gradients: the objective (an attack, say) is the same in the look and in the step. Without draws in the network."""
    training, batch_of = start_training(objective_of(name), model=DETERMINISTIC_MODEL, rule=rule)
    training.on_epoch_start(batch_of, split_logits=TrainingLogits(training), should_stop=lambda: False)
    generator, memory = torch.Generator().manual_seed(0), training.memory
    with torch.no_grad():
        for parameter in training.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    gradients: list[dict[str, Tensor]] = []
    corrected_gradients: list[dict[str, Tensor]] = []
    for step in range(STEPS_PER_EPOCH):
        training.step, training.memory = step, memory
        _, corrected = training.differentiate(*batch_of(step), rule=rule)
        gradients.append(copies(training.network_tensors.gradients()))
        corrected_gradients.append(copies(corrected))
    for key in gradients[0]:
        means = [torch.stack([step[key].double() for step in steps]).mean(0) for steps in (gradients, corrected_gradients)]
        torch.testing.assert_close(means[1], means[0], atol=1e-6, rtol=0)
        assert not torch.allclose(corrected_gradients[0][key], gradients[0][key], atol=1e-4)
