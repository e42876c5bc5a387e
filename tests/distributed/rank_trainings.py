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
from pruneyard.workloads.execution.layers import Execution
from pruneyard.workloads.models.mlp import Mlp
from pruneyard.workloads.optimizers.sgd import SGD
from pruneyard.workloads.plugins import find
from pruneyard.workloads.ranks import SINGLE_RANK, DistributedRanks, Ranks, RanksDisagreeError, checksums
from pruneyard.workloads.sparse.methods.set import SET
from pruneyard.workloads.sparse.pattern import Pattern
from pruneyard.workloads.sparse.patterns.unstructured import Unstructured
from pruneyard.workloads.training import loss_scale
from pruneyard.workloads.training.loop import train
from pruneyard.workloads.training.mask_updater import MaskUpdater, SparseState, UpdateContext
from pruneyard.workloads.training.recipe import Budget, Recipe
from pruneyard.workloads.training.weight_averaging import Averaging
from pruneyard.workloads.workload import Context, InterruptedJobError, Progress

NUM_STEPS, EVERY, BATCH = 8, 3, 17  # five steps an epoch; shares of 8 and 9 rows

SHORT_SCHEDULES: Mapping[str, Mapping[str, Any]] = {"cape": {"warmup_epochs": 0, "plain_epochs": 1}}
"""Settings with which a plug-in does within these few steps what it does by default in more steps."""


@dataclasses.dataclass(frozen=True)
class DivergingSET(SET):
    """Moves its masks differently on one rank, if asked to."""

    diverges: bool = False

    def update(self, state: SparseState, context: UpdateContext) -> SparseState:
        """Shifts the first mask by one place."""
        updated = super().update(state, context)
        name = next(iter(updated.masks))
        changed = {name: updated.masks[name].roll(1)} if self.diverges else {}
        return SparseState({**updated.masks, **changed}, updated.tensors)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A training of the digits; plug-ins are given by name."""

    folder: Path
    method: str = "rigl"
    rule: str = "plain"
    objective: str = "cross_entropy"
    model: Any = Mlp(width=24, depth=2)
    average: Averaging = Averaging()
    execution: Execution = "masked"
    pattern: Pattern = Unstructured()
    budget: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    first_scale: float = loss_scale.FIRST
    diverging_rank: int | None = None  # its method is `DivergingSET`
    stop_request: tuple[int, int] | None = None  # the rank that wants to stop, and at which of its checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a training that one rank returns."""

    compared: list[tuple[int, dict[str, int]]]  # steps, and checksums by name, of everything that was compared
    metrics: Sequence[tuple[int, str, str, float]] = ()  # step, split, name, value
    stopped_at: int | None = None
    difference: tuple[int, Mapping[int, list[str]]] | None = None  # step; rank and names
    refused: str = ""


class RecordingRanks(DistributedRanks):
    """Ranks that record what they compared."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: list[tuple[int, dict[str, int]]] = []

    def assert_ranks_equal(self, step: int, buffers: Callable[[], Mapping[str, Tensor]]) -> None:
        """Records the checksums, then compares them."""
        self.compared.append((step, checksums(buffers())))
        super().assert_ranks_equal(step, buffers)


@cache
def digits() -> Dataset:
    """Returns digits with 96 training rows."""
    return Digits(max_train=120, max_test=60).load()


def build_plugin(family: str, name: str) -> Any:
    """Returns a plug-in at density 0.2, with mask updates every few steps, where it has such fields."""
    plugin = find(family, name)
    field_names = {field.name for field in dataclasses.fields(plugin)}
    built = plugin(**({"density": 0.2} if "density" in field_names else {}), **SHORT_SCHEDULES.get(name, {}))
    if "schedule" in field_names and family == "sparse.methods":
        built = dataclasses.replace(built, schedule=dataclasses.replace(built.schedule, every=EVERY))
    if "every" in field_names:
        built = dataclasses.replace(built, every=min(built.every, EVERY))
    return built


def method_of(case: Case, rank: int = 0) -> MaskUpdater:
    """Returns the method of the case, or a diverging one on its diverging rank."""
    if case.diverging_rank is None:
        built: MaskUpdater = build_plugin("sparse.methods", case.method)
        return dataclasses.replace(built, pattern=case.pattern) if hasattr(built, "pattern") else built  # type: ignore[type-var]
    default = build_plugin("sparse.methods", "set")
    return DivergingSET(density=0.2, schedule=default.schedule, diverges=rank == case.diverging_rank)


def recipe_of(case: Case) -> Recipe:
    """Returns a recipe with augmentation, momentum and weight decay."""
    options = {"steps": NUM_STEPS, "batch_size": BATCH, "checkpoint_every_s": 0.0} | dict(case.budget)
    return Recipe(
        budget=Budget(**options),
        objective=build_plugin("objectives", case.objective),
        gradient=build_plugin("gradients", case.rule),
        optimizer=SGD(lr=0.05, momentum=0.9, weight_decay=5e-3),
        augment=Augmentation(pad=1, flip=True, cutout=3),
        average=case.average,
    )


def training(
    case: Case, *, ranks: Ranks = SINGLE_RANK, should_stop: Callable[[], bool] = lambda: False
) -> list[Progress]:
    """Runs the training of the case; resumes from its folder."""
    workload.STOP_CHECK_EVERY_S = 0.0
    loss_scale.FIRST = case.first_scale
    context = Context(
        checkpoints=CheckpointFolder(case.folder, keep=100), ranks=ranks, should_stop=should_stop
    )
    method = method_of(case, ranks.rank)
    return list(
        train(
            recipe_of(case),
            model=case.model,
            method=method,
            data=digits(),
            seed=3,
            context=context,
            execution=case.execution,
        )
    )


def train_together(case: Case) -> Report:
    """Runs the training of the case on this rank."""
    torch.manual_seed(999)  # whatever another training leaves
    ranks, checks = RecordingRanks(), itertools.count(1)

    def should_stop() -> bool:
        return (ranks.rank, next(checks)) == case.stop_request

    try:
        progress = training(case, ranks=ranks, should_stop=should_stop)
    except InterruptedJobError as error:
        return Report(compared=ranks.compared, stopped_at=error.step)
    except RanksDisagreeError as error:
        differing = {rank: list(found) for rank, found in error.differing.items()}
        return Report(compared=ranks.compared, difference=(error.step, differing))
    except ValueError as error:
        return Report(compared=ranks.compared, refused=str(error))
    metrics = [(m.step, m.split, m.name, m.value) for part in progress for m in part.metrics]
    return Report(compared=ranks.compared, metrics=metrics)
