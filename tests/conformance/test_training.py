"""Rules that a training must keep with every sparse-training method. Methods are found by their files."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pruneyard.testing.trainings import DropoutMlp
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.interfaces import OptimizerBuilder, Tensors
from pruneyard.workloads.optimizers.adamw import AdamW
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find, names
from pruneyard.workloads.sparse.updater import DropAndGrow
from pruneyard.workloads.training.functional_network import FunctionalModule
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome, Progress

FAMILY = "sparse.methods"
METHODS = names(FAMILY)
NUM_STEPS, EVERY = 14, 3
OPTIMIZERS: dict[str, OptimizerBuilder] = {
    "momentum": SGD(lr=0.05, momentum=0.9, weight_decay=5e-3),
    "nesterov": SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-3, decay_bias_and_norm=False),
    "adamw": AdamW(lr=1e-2, weight_decay=0.1),
}


@cache
def digits() -> Dataset:
    dataset: Dataset = find("data.sources", "digits")(max_train=120, max_test=60).load()
    return dataset


def build(name: str, **fields: Any) -> MaskUpdater:
    """Returns the method at density 0.2 with updates every few steps; it gets those of `fields` that it has."""
    method = find(FAMILY, name)
    field_names = {field.name for field in dataclasses.fields(method)}
    built: MaskUpdater = method(
        **{key: value for key, value in ({"density": 0.2} | fields).items() if key in field_names}
    )
    if "schedule" in field_names and "schedule" not in fields:
        schedule = dataclasses.replace(built.schedule, every=EVERY)  # type: ignore[attr-defined]
        built = dataclasses.replace(built, schedule=schedule)  # type: ignore[type-var]
    if "every" in field_names and "every" not in fields:
        built = dataclasses.replace(built, every=min(built.every, EVERY))  # type: ignore[attr-defined,type-var]
    return built


def recipe_of(optimizer: Any = OPTIMIZERS["momentum"], **budget: Any) -> Recipe:
    options = {"steps": NUM_STEPS, "batch_size": 16, "checkpoint_every_s": 1e9} | budget
    return Recipe(budget=Budget(**options), optimizer=optimizer, augment=Augmentation(pad=1, flip=True))


def run(
    method: MaskUpdater,
    folder: Path,
    *,
    optimizer: Any = OPTIMIZERS["momentum"],
    keep: int = 2,
    like: MaskUpdater | None = None,
    **budget: Any,
) -> list[Progress]:
    """Trains to the end, from the folder's checkpoints where it has some; `like`: a method whose recipe is used."""
    recipe = (like or method).complete(recipe_of(optimizer, **budget))
    context = Context(checkpoints=CheckpointFolder(folder, keep=keep))
    return list(train(recipe, model=DropoutMlp(), method=method, data=digits(), seed=3, context=context))


Runs = Callable[[str, str], tuple[list[Progress], Path]]


@pytest.fixture(scope="module")
def with_all_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Returns a training with a checkpoint after every step, and its folder, by the names of a method and an optimizer."""

    @cache
    def saving(name: str, optimizer: str) -> tuple[list[Progress], Path]:
        folder, chosen = tmp_path_factory.mktemp("every"), OPTIMIZERS[optimizer]
        return run(build(name), folder, optimizer=chosen, keep=NUM_STEPS, checkpoint_every_s=0), folder

    return saving


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def assert_same_tensors(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def assert_same_outcome(first: list[Progress], second: list[Progress]) -> None:
    """Checks that two trainings have the same outcome bit for bit, except for times."""
    first_outcome, second_outcome = outcome(first), outcome(second)
    assert_same_tensors(first_outcome.weights, second_outcome.weights)
    assert_same_tensors(first_outcome.masks, second_outcome.masks)
    for split, predictions in first_outcome.predictions.items():
        assert (predictions.logits == second_outcome.predictions[split].logits).all()
    assert first_outcome.train_flops == second_outcome.train_flops
    assert first_outcome.num_active == second_outcome.num_active
    assert first[-1].curves == second[-1].curves


def metrics(progress: list[Progress]) -> list[tuple[object, ...]]:
    """Returns all metrics that a training reported, except for times."""
    return [(m.step, m.epoch, m.split, m.name, m.value) for part in progress for m in part.metrics]


@pytest.mark.parametrize("name", METHODS)
def test_the_steps_of_this_suite_are_enough_to_move_the_masks(name: str) -> None:
    method = find(FAMILY, name)
    settings = {"density": 0.2} if "density" in {field.name for field in dataclasses.fields(method)} else {}
    steps_of_long_training = (step for step in range(100_000) if method(**settings).is_due(step, num_steps=100_000))
    due = [step for step in range(NUM_STEPS) if build(name).is_due(step, num_steps=NUM_STEPS)]
    assert len(due) >= len(list(itertools.islice(steps_of_long_training, 2)))  # some methods prune once, whatever the budget


@pytest.mark.parametrize(
    ("optimizer", "steps"),
    [
        pytest.param("momentum", (1, 4, 7, 13), id="momentum"),
        pytest.param("adamw", (4,), id="adamw"),
        pytest.param("momentum", range(1, NUM_STEPS + 1), id="momentum-every-step", marks=pytest.mark.slow),
        pytest.param("adamw", range(1, NUM_STEPS + 1), id="adamw-every-step", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", METHODS)
def test_resumed_after_any_step_equals_uninterrupted_bit_for_bit(
    name: str, optimizer: str, steps: Sequence[int], with_all_checkpoints: Runs, tmp_path: Path
) -> None:
    chosen = OPTIMIZERS[optimizer]
    uninterrupted = run(build(name), tmp_path / "whole", optimizer=chosen)
    saving, saved = with_all_checkpoints(name, optimizer)
    assert_same_outcome(uninterrupted, saving)
    for step in steps:
        folder = tmp_path / f"from-{step}"
        shutil.copytree(saved / f"step-{step:09d}", folder / f"step-{step:09d}")
        resumed = run(build(name), folder, optimizer=chosen)
        assert_same_outcome(uninterrupted, resumed)
        assert metrics(resumed) == metrics(uninterrupted)


@pytest.mark.parametrize("name", METHODS)
def test_a_training_closed_at_an_evaluation_resumes_from_its_checkpoint(
    name: str, with_all_checkpoints: Runs, tmp_path: Path
) -> None:
    uninterrupted, _ = with_all_checkpoints(name, "momentum")
    recipe = recipe_of(checkpoint_every_s=0)
    context = Context(checkpoints=CheckpointFolder(tmp_path / "dropped"))
    training = train(recipe, model=DropoutMlp(), method=build(name), data=digits(), seed=3, context=context)
    next(training)
    training.close()  # type: ignore[attr-defined]
    torch.manual_seed(999)  # whatever another training leaves
    resumed = list(
        train(recipe, model=DropoutMlp(), method=build(name), data=digits(), seed=3, context=context)
    )
    assert_same_outcome(uninterrupted, resumed)
    assert metrics(resumed) == metrics(uninterrupted)


@pytest.mark.parametrize(
    "optimizer", ["momentum", *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS if name != "momentum")]
)
@pytest.mark.parametrize("name", METHODS)
def test_weights_and_optimizer_state_are_zero_outside_masks_after_every_step(
    name: str, optimizer: str, with_all_checkpoints: Runs, tmp_path: Path
) -> None:
    _, folder = with_all_checkpoints(name, optimizer)
    network = DropoutMlp().build(image_shape=digits().image_shape, num_classes=10)
    parameters = list(network.named_parameters())
    groups = OPTIMIZERS[optimizer].build(parameters).param_groups
    order = {id(p): i for i, p in enumerate(p for group in groups for p in group["params"])}
    index = {name: order[id(parameter)] for name, parameter in parameters}
    num_checked = 0
    for path in sorted(folder.glob("step-*")):
        single = tmp_path / path.name / "alone"
        shutil.copytree(path, single / path.name)
        saved = CheckpointFolder(single).load(torch.device("cpu"))
        assert saved is not None
        masks = {k.removeprefix("mask/"): t for k, t in saved.tensors.items() if k.startswith("mask/")}
        for layer, mask in masks.items():
            assert not saved.tensors[f"network/{layer}"][~mask].any()
            for buffer in saved.state["optimizer"]["state"].get(index[layer], {}).values():
                if isinstance(buffer, Tensor) and buffer.shape == mask.shape:
                    assert not buffer[~mask].any()
                    num_checked += 1
    assert num_checked or not masks


@pytest.mark.parametrize("name", METHODS)
def test_the_finished_network_is_zero_outside_the_masks_it_comes_with(name: str, tmp_path: Path) -> None:
    finished = outcome(run(build(name), tmp_path / "run"))
    assert finished.masks or build(name).target_density == 1
    assert all(not finished.weights[key][~mask].any() for key, mask in finished.masks.items())
    assert finished.num_parameters is not None
    num_inactive = sum(int((~mask).sum()) for mask in finished.masks.values())
    assert finished.num_active == finished.num_parameters - num_inactive


@pytest.mark.parametrize("name", METHODS)
def test_density_one_trains_as_dense_does_bit_for_bit(name: str, tmp_path: Path) -> None:
    method = build(name, **find(FAMILY, name).dense_settings)
    dense = outcome(run(build("dense"), tmp_path / "dense", like=method))
    full = outcome(run(method, tmp_path / "full"))
    assert_same_tensors(dense.weights, full.weights)
    assert full.train_flops == dense.train_flops
    assert full.num_active == full.num_parameters


@pytest.mark.parametrize("frozen", ["drop_fraction", "until"])
@pytest.mark.parametrize("name", METHODS)
def test_masks_that_may_not_move_train_as_static_ones_do(name: str, frozen: str, tmp_path: Path) -> None:
    method = build(name)
    if not isinstance(method, DropAndGrow):
        pytest.skip("does not move masks by dropping and growing")
    frozen_method = (
        dataclasses.replace(method, drop_fraction=0.0)
        if frozen == "drop_fraction"
        else dataclasses.replace(method, schedule=dataclasses.replace(method.schedule, until=0.0))
    )
    static, frozen_run = run(build("static"), tmp_path / "static", like=frozen_method), run(frozen_method, tmp_path / "still")
    if method.follows_gradient:  # at the cost of dense gradients in every step, whether or not masks move
        assert_same_tensors(outcome(static).weights, outcome(frozen_run).weights)
        assert_same_tensors(outcome(static).masks, outcome(frozen_run).masks)
    else:
        assert_same_outcome(static, frozen_run)


@pytest.mark.parametrize("name", METHODS)
def test_explored_is_the_share_of_weights_active_in_any_step(name: str, tmp_path: Path) -> None:
    method = build(name)
    folder = tmp_path / "all"
    progress = run(method, folder, keep=NUM_STEPS, checkpoint_every_s=0, evaluate_every=0)
    finished = outcome(progress)
    sizes = sizes_of(finished)
    explored_masks = dict(_state_before(1, method, folder, finished).used)  # of step 0 itself, if it updated masks
    for step in range(2, NUM_STEPS):
        for key, mask in _state_before(step, method, folder, finished).used.items():
            explored_masks[key] = explored_masks[key] | mask
    explored_masks = {key: explored_masks[key] | mask for key, mask in finished.masks.items()}
    (explored,) = [m.value for m in progress[-1].metrics if (m.split, m.name) == ("train", "explored")]
    assert explored == pytest.approx(num_active(explored_masks, sizes) / sum(sizes.values()), rel=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_counted_flops_follow_from_the_masks_of_every_step(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build(name)
    folder = tmp_path / "all"
    rows_run, passes_counted = record_forward_passes(monkeypatch)
    finished = outcome(run(method, folder, keep=NUM_STEPS, checkpoint_every_s=0))
    sizes = sizes_of(finished)
    rows = 0.0  # times weights that they meet
    for step in range(NUM_STEPS):
        before = _state_before(step, method, folder, finished)
        grows = method.is_due(step, num_steps=NUM_STEPS) and method.grows_by_gradient
        trained_masks = {} if grows or method.follows_gradient else before.masks
        forward = num_active(before.used, sizes)
        backward = forward + num_active(trained_masks, sizes)
        rows += 16 * (forward + backward)
    rows += sum(passes_counted) * sum(sizes.values())  # passes that the method ran outside of steps
    if (
        method.complete(recipe_of()).average.begin < 1
    ):  # an epoch's forward passes, for statistics of the mean
        rows += 6 * 16 * num_active(before.used, sizes)
    assert finished.train_flops == pytest.approx(2 * rows, rel=1e-12)  # multiply and add
    assert sum(passes_counted) >= sum(rows_run)


def sizes_of(finished: Outcome) -> dict[str, int]:
    """Returns the numbers of elements of the prunable weights."""
    return {key: t.numel() for key, t in finished.weights.items() if key.endswith("weight") and t.ndim == 2}


def num_active(masks: Tensors, sizes: Mapping[str, int]) -> int:
    return sum(int(masks[key].sum()) if key in masks else size for key, size in sizes.items())


def record_forward_passes(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[float]]:
    """Records the rows that a method runs through the network outside of steps, and the forward passes counted for them."""
    rows_run: list[int] = []
    passes_counted: list[float] = []
    logits, count = FunctionalModule.logits, FunctionalModule.count

    def recorded_logits(network: FunctionalModule, weights: Tensors, images: Tensor, *, training: bool) -> Tensor:
        rows_run.append(len(images))
        return logits(network, weights, images, training=training)

    def recorded_count(network: FunctionalModule, forwards: float, rows: int) -> None:
        passes_counted.append(forwards * rows)
        count(network, forwards, rows)

    monkeypatch.setattr(FunctionalModule, "logits", recorded_logits)
    monkeypatch.setattr(FunctionalModule, "count", recorded_count)
    return rows_run, passes_counted


def _state_before(step: int, method: MaskUpdater, folder: Path, finished: Outcome) -> SparseState:
    """Returns the masks at the start of a step: from the checkpoint after the step before, or the initial ones."""
    if step == 0:
        shapes = {key: torch.randn(finished.weights[key].shape) for key in finished.masks}
        return method.start(shapes, generator=torch.Generator().manual_seed(0))  # only the numbers matter, not the places
    single = folder.parent / f"before-{step}"
    shutil.copytree(folder / f"step-{step:09d}", single / f"step-{step:09d}")
    saved = CheckpointFolder(single).load(torch.device("cpu"))
    assert saved is not None

    def group(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in saved.tensors.items() if k.startswith(prefix)}

    return SparseState(group("mask/"), forward=group("forward/"))
