"""The protocol of distillers, which make synthetic sets, and the context that they work with.

A distiller has no state of its own and modifies no argument: it receives a state and returns the next one, so the state can be
saved between any two iterations. All random numbers come from streams of the job's seed, by name and iteration.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.synthetic_set import SyntheticSet
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.seeding import global_stream, stream
from pruneyard.workloads.workload import no_open_run


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """The training rows, on the device, by class."""

    split: DeviceSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows_of_class: tuple[Tensor, ...]  # int64, on the CPU

    @classmethod
    def of(cls, split: DeviceSplit, *, mean: tuple[float, ...], std: tuple[float, ...], num_classes: int) -> "RealSet":
        """Groups the rows by class. Raises `ValueError` for a class without rows."""
        labels = split.labels.cpu()
        rows = tuple((labels == label).nonzero().squeeze(1) for label in range(num_classes))
        empty = [label for label, found in enumerate(rows) if not len(found)]
        if empty:
            raise ValueError(f"class {empty[0]} has no training rows; each must have at least one")
        return cls(split=split, mean=mean, std=std, rows_of_class=rows)

    @property
    def num_classes(self) -> int:
        return len(self.rows_of_class)

    def sample_rows(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Samples different rows of a class, (count,) int64 on the CPU; returns all of them if there are at most `count`."""
        rows = self.rows_of_class[label]
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def images(self, rows: Tensor) -> Tensor:
        """Returns normalised images (B, C, H, W) of rows, not augmented."""
        return self.split.normalise(self.split.images[rows.to(self.split.device)])


@dataclass(frozen=True, kw_only=True)
class DistillContext:
    """Everything that a distiller works with. `open_run` reads the artifact folder of an earlier run."""

    real: RealSet
    model: ModelBuilder
    seed: int
    data: str = ""  # fingerprint of the data set; empty: unknown, so that no results are shared with other jobs
    open_run: Callable[[str], FinishedRun] = no_open_run

    @property
    def device(self) -> torch.device:
        return self.real.split.device

    def stream(self, name: str, index: int = 0) -> torch.Generator:
        """Returns a generator on the CPU, a function of the job's seed, the name and the index."""
        return stream(self.seed, f"distill/{name}", index)

    def network(self, name: str, index: int = 0) -> nn.Module:
        """Returns a new network in training mode; equal names and indices give equal weights."""
        # Layers initialise themselves from torch's global generator.
        with global_stream(self.seed, f"distill/network/{name}/{index}"):
            network = self.model.build(image_shape=self.real.split.image_shape, num_classes=self.real.num_classes)
        # Built on the CPU and then moved, so that initial weights are the same on every device.
        return network.to(self.device)


@dataclass(frozen=True)
class DistillState:
    """The state of a distiller between iterations; `numbers` are reported as metrics of the split train."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Distiller(Protocol):
    """A method that makes a synthetic set."""

    @property
    def ipc(self) -> int | None:
        """Number of stored images per class; None if the set is all training images, which are not stored again."""
        ...

    @property
    def num_iterations(self) -> int:
        """Number of calls of `iterate`; 0 if `start` completes the set."""
        ...

    def start(self, context: DistillContext) -> DistillState:
        """Returns the state before the first iteration."""
        ...

    def iterate(self, state: DistillState, iteration: int, context: DistillContext) -> DistillState:
        """Returns the state after an iteration, counted from 0."""
        ...

    def synthetic_set(self, state: DistillState, context: DistillContext) -> SyntheticSet:
        """Returns the set of a state; called at evaluations and at the end."""
        ...


@runtime_checkable
class UsesNetworks(Protocol):
    """A distiller that evaluates its images only when it has finished with a network, as they may stray in between."""

    def ends_network(self, iteration: int) -> bool:
        """Returns whether no network is in use after the first `iteration` iterations."""
        ...


@runtime_checkable
class LearnsRate(Protocol):
    """A distiller that also learns the learning rate of networks that are trained on its images."""

    def learned_rate(self, state: DistillState) -> float:
        """Returns the learning rate that belongs to the images of a state."""
        ...


@runtime_checkable
class WritesFiles(Protocol):
    """A distiller that writes more artifacts than the set."""

    def files(self, state: DistillState, context: DistillContext) -> Mapping[str, bytes]:
        """Returns the content of additional files by name, after the last iteration."""
        ...


def extra_files(method: Distiller, state: DistillState, context: DistillContext) -> Mapping[str, bytes]:
    """Returns the files that the method writes in addition to the set; most methods write none."""
    return method.files(state, context) if isinstance(method, WritesFiles) else {}


def should_evaluate(method: Distiller, iteration: int, *, every: int, newest: int) -> bool:
    """Returns whether to evaluate after the first `iteration` iterations, the newest evaluation being that after `newest`.

    Due are the multiples of `every`; a method that uses networks is evaluated as soon as it has finished with one.
    """
    if every == 0 or iteration // every == newest // every:
        return False
    return not isinstance(method, UsesNetworks) or method.ends_network(iteration)


def count_evaluations(method: Distiller, *, every: int) -> int:
    """Returns the number of evaluations of a job, the last one included."""
    newest, num = 0, 1
    for iteration in range(every or method.num_iterations, method.num_iterations):
        if should_evaluate(method, iteration, every=every, newest=newest):
            newest, num = iteration, num + 1
    return num
