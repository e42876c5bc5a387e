"""Whole trainings on the embedded digits, of a network with every kind of state that a training saves."""

import math
import shutil
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
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.workload import Context, Outcome, Progress

SEED = 3


@dataclass(frozen=True)
class Normed:
    """Builds a network with running statistics and a last layer that no norm follows."""

    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        units = math.prod(image_shape)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(units, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, num_classes)
        )


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Builds a network with all a checkpoint must hold: weights, running statistics, a forward pass that draws."""

    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
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
    """96 training rows: six batches of 16."""
    return Digits(max_train=max_train, max_test=60).load()


def recipe_of(*, budget: Mapping[str, Any] | None = None, **fields: Any) -> Recipe:
    """Three epochs of six steps unless said otherwise."""
    options = {"steps": 18, "batch_size": 16, "checkpoint_every_s": 1e9} | dict(budget or {})
    usual: dict[str, Any] = {
        "optimizer": SGD(lr=0.05, momentum=0.9, weight_decay=5e-3),
        "augment": Augmentation(pad=1, flip=True),
    }
    return Recipe(budget=Budget(**options), **(usual | fields))


def run(
    method: MaskUpdater,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    data: Dataset | None = None,
    model: Any = Normed(),
    keep: int = 100,
) -> list[Progress]:
    """A whole training, or what is left of it by the folder's checkpoints."""
    context = Context(checkpoints=CheckpointFolder(folder, keep=keep))
    given = {"model": model, "method": method, "data": data or digits(), "seed": SEED, "context": context}
    return list(train(recipe or recipe_of(), **given))


def outcome(progress: list[Progress]) -> Outcome:
    last = progress[-1].outcome
    assert last is not None
    return last


def checkpoint_at(step: int, folder: Path, aside: Path) -> Checkpoint:
    """The folder's checkpoint after so many steps."""
    only(step, folder, aside)
    saved = CheckpointFolder(aside).load(torch.device("cpu"))
    assert saved is not None
    return saved


def only(step: int, folder: Path, aside: Path) -> Path:
    """A copy of the folder with that checkpoint alone."""
    name = f"step-{step:09d}"
    shutil.copytree(folder / name, aside / name)
    return aside


def network_of(saved: Checkpoint) -> dict[str, Tensor]:
    return {k.removeprefix("network/"): t for k, t in saved.tensors.items() if k.startswith("network/")}


def assert_same_numbers(first: list[Progress], second: list[Progress]) -> None:
    """Bit for bit, all but the clock."""
    one, other = outcome(first), outcome(second)
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name]), name
    assert one.masks.keys() == other.masks.keys()
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())
    for split, predictions in one.predictions.items():
        assert (predictions.logits == other.predictions[split].logits).all()
    assert numbers(first) == numbers(second)


def numbers(progress: list[Progress]) -> list[tuple[object, ...]]:
    """All that a training reported, but for the clock."""
    return [(m.step, m.epoch, m.split, m.name, m.value) for part in progress for m in part.metrics]
