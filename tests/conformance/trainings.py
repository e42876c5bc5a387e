"""Whole trainings on the embedded digits, of a network with every kind of state that a training saves."""

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneyard.workloads.checkpoint import Checkpoint, CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome, Progress

SEED = 3


@dataclass(frozen=True)
class BatchNormMlp:
    """Builds a network with running statistics and a last layer that no norm follows."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        units = math.prod(image_shape)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(units, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, num_classes)
        )


@dataclass(frozen=True, kw_only=True)
class DropoutMlp:
    """Builds a network with all a checkpoint must hold: weights, running statistics, a forward pass that draws."""

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        units = math.prod(image_shape)
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(units, 24),
            nn.BatchNorm1d(24),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(24, num_classes),
        )


@cache
def digits(max_train: int = 120) -> Dataset:
    """Returns the digits with 96 training rows: six batches of 16."""
    return Digits(max_train=max_train, max_test=60).load()


def recipe_of(*, budget: Mapping[str, Any] | None = None, **fields: Any) -> Recipe:
    """Returns a recipe of three epochs of six steps, unless `budget` says otherwise."""
    options = {"steps": 18, "batch_size": 16, "checkpoint_every_s": 1e9} | dict(budget or {})
    defaults: dict[str, Any] = {
        "optimizer": SGD(lr=0.05, momentum=0.9, weight_decay=5e-3),
        "augment": Augmentation(pad=1, flip=True),
    }
    return Recipe(budget=Budget(**options), **(defaults | fields))


def run(
    method: MaskUpdater,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    data: Dataset | None = None,
    model: Any = BatchNormMlp(),
    keep: int = 100,
) -> list[Progress]:
    """Trains to the end, from the newest checkpoint in the folder where there is one."""
    context = Context(checkpoints=CheckpointFolder(folder, keep=keep))
    arguments = {"model": model, "method": method, "data": data or digits(), "seed": SEED, "context": context}
    return list(train(recipe or recipe_of(), **arguments))


def accuracy_on_digits(method: MaskUpdater, *, epochs: int, num_seeds: int = 3) -> float:
    """Returns the mean test accuracy of an MLP on all digits over seeds."""
    recipe = Recipe(budget=Budget(epochs=epochs, batch_size=64, evaluate_every=0, checkpoint_every_s=1e9))
    found = []
    for seed in range(num_seeds):
        with tempfile.TemporaryDirectory() as folder:
            context = Context(checkpoints=CheckpointFolder(Path(folder)))
            *_, last = train(recipe, model=Mlp(), method=method, data=Digits().load(), seed=seed, context=context)
        found += [metric.value for metric in last.metrics if (metric.split, metric.name) == ("test", "accuracy")]
    return sum(found) / len(found)


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def checkpoint_at(step: int, folder: Path, target: Path) -> Checkpoint:
    """Returns the checkpoint that the folder has of a step."""
    copy_checkpoint(step, folder, target)
    saved = CheckpointFolder(target).load(torch.device("cpu"))
    assert saved is not None
    return saved


def copy_checkpoint(step: int, folder: Path, target: Path) -> Path:
    """Copies the checkpoint of a step, without the others, to another folder; returns that folder."""
    name = f"step-{step:09d}"
    shutil.copytree(folder / name, target / name)
    return target


def network_of(saved: Checkpoint) -> dict[str, Tensor]:
    return {k.removeprefix("network/"): t for k, t in saved.tensors.items() if k.startswith("network/")}


def assert_same_numbers(first: list[Progress], second: list[Progress]) -> None:
    """Checks that two trainings have the same numbers bit for bit, except for times."""
    one, other = outcome(first), outcome(second)
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
    assert one.masks.keys() == other.masks.keys()
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())
    for split, predictions in one.predictions.items():
        assert (predictions.logits == other.predictions[split].logits).all()
    assert numbers(first) == numbers(second)


def numbers(progress: list[Progress]) -> list[tuple[object, ...]]:
    """Returns all that a training reported, except for times."""
    return [(metric.step, metric.epoch, metric.split, metric.name, metric.value) for part in progress for metric in part.metrics]
