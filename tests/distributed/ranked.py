"""Trainings that a pair of ranks runs, and what they return. Imported by the ranks; imports no test."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pruneyard.workloads import workload
from pruneyard.workloads.checkpoint import CheckpointFolder
from pruneyard.workloads.data.batches import Augmentation
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find
from pruneyard.workloads.ranks import SINGLE_RANK, DistributedRanks, Ranks, RanksDisagreeError, checksums
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.training import loss_scale
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

NUM_STEPS, EVERY, BATCH = 8, 3, 17  # five steps an epoch; shares of 8 and 9 rows

AT_ONCE: Mapping[str, Mapping[str, Any]] = {"cape": {"warmup_epochs": 0, "plain_epochs": 1}}
"""Settings under which a plug-in does within these steps what it does by default in more of them."""


@dataclasses.dataclass(frozen=True)
class Wayward(SET):
    """Moves its masks differently from the generator, where asked to."""

    strays: bool = False

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """One place rolled on."""
        updated = super().update(state, context)
        name = next(iter(updated.masks))
        astray = {name: updated.masks[name].roll(1)} if self.strays else {}
        return SparseState({**updated.masks, **astray}, updated.tensors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A training of the digits, by names where plug-ins are found by them."""

    folder: Path
    method: str = "rigl"
    rule: str = "plain"
    objective: str = "cross_entropy"
    model: Any = Mlp(width=24, depth=2)
    average: Averaging = Averaging()
    budget: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    first_scale: float = loss_scale.FIRST
    straying_rank: int | None = None  # its method is `Wayward`
    stop: tuple[int, int] | None = None  # the rank that wants to stop, and at which of its questions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What one rank says after a training."""

    agreed: list[tuple[int, dict[str, int]]]  # steps, and checksums by name, of everything that was compared
    metrics: Sequence[tuple[int, str, str, float]] = ()  # step, split, name, value
    stopped_at: int | None = None
    disagreed: tuple[int, Mapping[int, list[str]]] | None = None  # step; rank and names
    refused: str = ""


class Watching(DistributedRanks):
    """Remembers what it compared."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, dict[str, int]]] = []

    def assert_ranks_equal(self, step: int, held: Callable[[], Mapping[str, Tensor]]) -> None:
        """As it does."""
        self.seen.append((step, checksums(held())))
        super().assert_ranks_equal(step, held)


@cache
def digits() -> Dataset:
    """Ninety-six rows to train on."""
    return Digits(max_train=120, max_test=60).load()


def built(family: str, name: str) -> Any:
    """A plug-in at density 0.2, with mask updates every few steps, where it has such fields."""
    plugin = find(family, name)
    own = {field.name for field in dataclasses.fields(plugin)}
    made = plugin(**({"density": 0.2} if "density" in own else {}), **AT_ONCE.get(name, {}))
    if "schedule" in own and family == "sparse.methods":
        made = dataclasses.replace(made, schedule=dataclasses.replace(made.schedule, every=EVERY))
    if "every" in own:
        made = dataclasses.replace(made, every=min(made.every, EVERY))
    return made


def method_of(case: Case, rank: int = 0) -> MaskUpdater:
    """The case's; another one on the rank that is to go astray."""
    if case.straying_rank is None:
        made: MaskUpdater = built("sparse.methods", case.method)
        return made
    usual = built("sparse.methods", "set")
    return Wayward(density=0.2, schedule=usual.schedule, strays=rank == case.straying_rank)


def recipe_of(case: Case) -> Recipe:
    """With augmentation, momentum and weight decay."""
    options = {"steps": NUM_STEPS, "batch_size": BATCH, "checkpoint_every_s": 0.0} | dict(case.budget)
    return Recipe(
        budget=Budget(**options),
        objective=built("objectives", case.objective),
        gradient=built("gradients", case.rule),
        optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=5e-3),
        augment=Augmentation(pad=1, flip=True, cutout=3),
        average=case.average,
    )


def training(
    case: Case, *, ranks: Ranks = SINGLE_RANK, should_stop: Callable[[], bool] = lambda: False
) -> list[Progress]:
    """Returns its reports; resumes from the folder of the case."""
    workload.STOP_CHECK_EVERY_S = 0.0
    loss_scale.FIRST = case.first_scale
    context = Context(
        checkpoints=CheckpointFolder(case.folder, keep=100), ranks=ranks, should_stop=should_stop
    )
    method = method_of(case, ranks.rank)
    return list(
        train(recipe_of(case), model=case.model, method=method, data=digits(), seed=3, context=context)
    )


def train_together(case: Case) -> Report:
    """On this rank."""
    torch.manual_seed(999)  # whatever another training leaves
    ranks, questions = Watching(), itertools.count(1)

    def should_stop() -> bool:
        return (ranks.rank, next(questions)) == case.stop

    try:
        progress = training(case, ranks=ranks, should_stop=should_stop)
    except InterruptedJobError as error:
        return Report(agreed=ranks.seen, stopped_at=error.step)
    except RanksDisagreeError as error:
        differing = {rank: list(found) for rank, found in error.differing.items()}
        return Report(agreed=ranks.seen, disagreed=(error.step, differing))
    except ValueError as error:
        return Report(agreed=ranks.seen, refused=str(error))
    metrics = [(m.step, m.split, m.name, m.value) for part in progress for m in part.metrics]
    return Report(agreed=ranks.seen, metrics=metrics)
