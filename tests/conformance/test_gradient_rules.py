"""Rules that every gradient rule must keep with every sparse-training method. Both families are found by their files."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from pruneyard.testing.loss_evaluation import NO_SPLIT_LOGITS
from pruneyard.testing.plug_in import build
from pruneyard.testing.trainings import DropoutMlp
from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation, DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.interfaces import GradientRule, Tensors
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.methods.static import Static
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.state import Training
from pruneyard.workloads.workload import Context, Outcome

FAMILY = "gradients"
RULES = names(FAMILY)
DEFAULT_METHODS = ("static", "rigl", "topkast", "cigl")  # fixed, moving and separate forward masks, averaged weights
METHODS = [name if name in DEFAULT_METHODS else pytest.param(name, marks=pytest.mark.slow) for name in names("sparse.methods")]
NUM_STEPS, EVERY = 8, 3  # two epochs of four steps and updates within them


@cache
def digits() -> Dataset:
    dataset: Dataset = find("data.sources", "digits")(max_train=88, max_test=60).load()
    return dataset


def method_of(name: str) -> MaskUpdater:
    """Returns a method at density 0.2, with updates every few steps."""
    method = find("sparse.methods", name)
    field_names = {field.name for field in dataclasses.fields(method)}
    built: MaskUpdater = method(**({"density": 0.2} if "density" in field_names else {}))
    if "schedule" in field_names:
        schedule = dataclasses.replace(built.schedule, every=EVERY)  # type: ignore[attr-defined]
        built = dataclasses.replace(built, schedule=schedule)  # type: ignore[type-var]
    if "every" in field_names:
        built = dataclasses.replace(built, every=min(built.every, EVERY))  # type: ignore[attr-defined,type-var]
    return built


def rule_of(name: str, **fields: Any) -> GradientRule:
    rule: GradientRule = build(FAMILY, name, **fields)
    return rule


def recipe_of(rule: GradientRule, **budget: Any) -> Recipe:
    options = {"steps": NUM_STEPS, "batch_size": 16, "checkpoint_every_s": 1e9} | budget
    return Recipe(
        budget=Budget(**options),
        gradient=rule,
        optimizer=SGD(lr=0.05, weight_decay=5e-3),
        augment=Augmentation(pad=1, flip=True),
    )


def run(rule: GradientRule, method: MaskUpdater, folder: Path, **budget: Any) -> Outcome:
    context = Context(checkpoints=CheckpointFolder(folder, keep=NUM_STEPS))
    recipe = recipe_of(rule, **budget)
    *_, last = train(recipe, model=DropoutMlp(), method=method, data=digits(), seed=3, context=context)
    assert last.outcome is not None
    return last.outcome


Runs = Callable[[str, str], tuple[Outcome, Path]]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns an uninterrupted training of a rule and a method, by name."""
    return cache(lambda name, method: train_by_name(name, method, tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def with_all_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns such a training with a checkpoint after every step."""
    return cache(
        lambda name, method: train_by_name(name, method, tmp_path_factory.mktemp("every"), checkpoint_every_s=0)
    )


def train_by_name(name: str, method: str, folder: Path, **budget: Any) -> tuple[Outcome, Path]:
    return run(rule_of(name), method_of(method), folder, **budget), folder


def saved_at(folder: Path, step: int, scratch: Path) -> Checkpoint:
    """Returns one of the checkpoints of a run."""
    shutil.copytree(folder / f"step-{step:09d}", scratch / f"step-{step:09d}")
    saved = CheckpointFolder(scratch).load(torch.device("cpu"))
    assert saved is not None
    return saved


def assert_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RULES)
def test_neutral_settings_train_as_plain_does_bit_for_bit(
    name: str, method: str, uninterrupted: Runs, tmp_path: Path
) -> None:
    if not find(FAMILY, name).neutral_settings:
        pytest.skip("neutral_settings is empty: no setting is plain training")
    plain, _ = uninterrupted("plain", method)
    assert plain.train_flops is not None
    for index, settings in enumerate(find(FAMILY, name).neutral_settings):
        neutral = run(rule_of(name, **settings), method_of(method), tmp_path / f"neutral-{index}")
        assert_same_tensors(plain.weights, neutral.weights)
        assert_same_tensors(plain.masks, neutral.masks)
        assert neutral.train_flops is not None
        assert neutral.train_flops >= plain.train_flops


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RULES)
def test_resumed_after_any_step_equals_uninterrupted_bit_for_bit(
    name: str, method: str, uninterrupted: Runs, with_all_checkpoints: Runs, tmp_path: Path
) -> None:
    (uninterrupted_outcome, _), (_, checkpoints) = uninterrupted(name, method), with_all_checkpoints(name, method)
    for step in range(1, NUM_STEPS):
        folder = tmp_path / f"from-{step}"
        shutil.copytree(checkpoints / f"step-{step:09d}", folder / f"step-{step:09d}")
        torch.manual_seed(999)  # whatever another training leaves
        resumed = run(rule_of(name), method_of(method), folder)
        assert_same_tensors(uninterrupted_outcome.weights, resumed.weights)
        assert_same_tensors(uninterrupted_outcome.masks, resumed.masks)
        assert uninterrupted_outcome.train_flops == resumed.train_flops


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", RULES)
def test_masked_weights_never_move(name: str, method: str, with_all_checkpoints: Runs, tmp_path: Path) -> None:
    _, folder = with_all_checkpoints(name, method)
    seen = set()  # the layers whose momenta were compared; a method that rewinds weights clears them at some steps
    for step in range(1, NUM_STEPS + 1):
        saved = saved_at(folder, step, tmp_path / f"at-{step}")
        masks = {k.removeprefix("mask/"): t for k, t in saved.tensors.items() if k.startswith("mask/")}
        momenta = [held["momentum_buffer"] for held in saved.state["optimizer"]["state"].values()]
        for layer, mask in masks.items():
            assert not saved.tensors[f"network/{layer}"][~mask].any()
            matching = [m for m in momenta if m is not None and m.shape == mask.shape]
            assert all(not m[~mask].any() for m in matching)
            seen |= {layer} if matching else set()
    assert seen == masks.keys()


@pytest.mark.parametrize("name", RULES)
def test_running_statistics_see_every_batch_once(name: str, tmp_path: Path) -> None:
    """After one step they are plain's: the same batch at the same weights. Later the weights differ."""
    for rule in ("plain", name):
        run(rule_of(rule), Static(density=0.2), tmp_path / rule, checkpoint_every_s=0)
    first, last = (saved_at(tmp_path / name, n, tmp_path / f"{n}").tensors for n in (1, NUM_STEPS))
    plain = saved_at(tmp_path / "plain", 1, tmp_path / "plain-1").tensors
    for statistic in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[f"network/2.{statistic}"], plain[f"network/2.{statistic}"])
    assert int(last["network/2.num_batches_tracked"]) == NUM_STEPS


@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientRecorder(Static):
    """Static masks that record the gradients of every step."""

    grows_by_gradient: ClassVar[bool] = True
    recorded: list[Tensors] = dataclasses.field(default_factory=list)

    def is_due(self, step: int, *, num_steps: int) -> bool:
        return True

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        self.recorded.append({name: gradient.clone() for name, gradient in context.gradients.items()})
        return state


@pytest.mark.parametrize("name", RULES)
def test_a_mask_update_sees_the_gradient_of_the_batch_itself(name: str, tmp_path: Path) -> None:
    plain, other = GradientRecorder(density=0.2), GradientRecorder(density=0.2)
    run(rule_of("plain"), plain, tmp_path / "one", steps=1)
    run(rule_of(name), other, tmp_path / "other", steps=1)
    assert_same_tensors(plain.recorded[0], other.recorded[0])
    assert any(gradient.any() for gradient in plain.recorded[0].values())


def start_training(rule: GradientRule) -> tuple[Training, Any]:
    """Returns a training at its initialisation, and a function that returns its batches."""
    data = digits()
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    training = Training.start(
        DropoutMlp(),
        recipe=recipe_of(rule),
        method=Static(density=0.2),
        seed=3,
        rows=split,
        num_classes=data.num_classes,
    )

    def batch_of(step: int) -> tuple[Tensor, Tensor]:
        rows = torch.arange(16) + 16 * (step % 4)
        return split.batch(rows, Augmentation(), torch.Generator())

    return training, batch_of


def copies(tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("name", RULES)
def test_on_epoch_start_changes_only_the_state_of_the_rule_and_the_cost(name: str) -> None:
    training, batch_of = start_training(rule_of(name))
    training.step = 4
    before, random = copies(training.network.state_dict()), torch.get_rng_state()
    state, flops = training.rule, training.train_flops
    tensors_before, numbers = copies(state.tensors), dict(state.numbers)
    training.on_epoch_start(batch_of, split_logits=NO_SPLIT_LOGITS, should_stop=lambda: False)
    assert_same_tensors(before, training.network.state_dict())
    assert torch.equal(random, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in training.network.parameters())
    assert_same_tensors(tensors_before, state.tensors)  # the state that was passed in is not modified
    assert numbers == state.numbers
    assert (training.train_flops > flops) == (training.rule is not state)  # work at the start of an epoch is counted
    assert training.network.training


@pytest.mark.parametrize("name", RULES)
def test_a_step_writes_into_no_state_and_keeps_nothing_of_the_network(name: str) -> None:
    training, batch_of = start_training(rule_of(name))
    training.on_epoch_start(batch_of, split_logits=NO_SPLIT_LOGITS, should_stop=lambda: False)
    state, tensors_before = training.rule, copies(training.rule.tensors)
    own_pointers = {parameter.data_ptr() for parameter in training.network.parameters()}
    own_pointers |= {buffer.data_ptr() for buffer in training.network.buffers()}
    images, labels = batch_of(0)
    loss, corrected = training.differentiate(images, labels, rule=training.recipe.gradient)
    training.correct_gradients(corrected)
    training.optimizer.step()
    assert loss.ndim == 0
    assert not loss.requires_grad
    assert_same_tensors(tensors_before, state.tensors)
    assert not own_pointers & {tensor.data_ptr() for tensor in training.rule.tensors.values()}
    assert own_pointers >= {parameter.data_ptr() for parameter in training.network.parameters()}


@pytest.mark.parametrize("name", RULES)
def test_the_state_is_tensors_and_plain_numbers(name: str) -> None:
    training, batch_of = start_training(rule_of(name))
    training.on_epoch_start(batch_of, split_logits=NO_SPLIT_LOGITS, should_stop=lambda: False)
    assert all(type(value) in (int, float) for value in training.rule.numbers.values())
    assert all(isinstance(t, Tensor) and not t.requires_grad for t in training.rule.tensors.values())


@pytest.mark.parametrize("name", RULES)
def test_channels_last_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """A checkpoint holds tensors in plain order; convolutions round by layout, so it must come back."""
    model = find("models", "convnet")(width=8, depth=2, norm="batch")
    recipe = recipe_of(rule_of(name), channels_last=True, checkpoint_every_s=0, steps=4)

    def final(folder: Path) -> Mapping[str, Tensor]:
        context = Context(checkpoints=CheckpointFolder(folder, keep=NUM_STEPS))
        *_, last = train(
            recipe, model=model, method=Static(density=0.5), data=digits(), seed=3, context=context
        )
        assert last.outcome is not None
        return last.outcome.weights

    uninterrupted = final(tmp_path / "whole")
    (tmp_path / "part").mkdir()
    shutil.copytree(tmp_path / "whole" / "step-000000002", tmp_path / "part" / "step-000000002")
    assert_same_tensors(uninterrupted, final(tmp_path / "part"))
