"""The protocol of a way to make a synthetic set, and what it is given to work with.

A distiller keeps nothing and writes into nothing that it is handed: its state goes in and comes out, so that it can be saved
between any two iterations. All randomness comes from streams of the job's seed, by name and iteration.
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
from pruneyard.workloads.workload import no_runs


@dataclass(frozen=True, kw_only=True)
class RealSet:
    """The training rows, on the device, by class."""

    split: DeviceSplit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rows_of_class: tuple[Tensor, ...]  # int64, on the CPU

    @classmethod
    def of(cls, split: DeviceSplit, *, mean: tuple[float, ...], std: tuple[float, ...], num_classes: int) -> "RealSet":
        """Raises `ValueError` for a class without rows."""
        labels = split.labels.cpu()
        rows = tuple((labels == label).nonzero().squeeze(1) for label in range(num_classes))
        empty = [label for label, found in enumerate(rows) if not len(found)]
        if empty:
            raise ValueError(f"class {empty[0]} has no training rows; each must have at least one")
        return cls(split=split, mean=mean, std=std, rows_of_class=rows)

    @property
    def num_classes(self) -> int:
        return len(self.rows_of_class)

    def draw(self, label: int, count: int, generator: torch.Generator) -> Tensor:
        """Different random rows of a class, (count,) int64 on the CPU; all of them where there are no more."""
        rows = self.rows_of_class[label]
        return rows[torch.randperm(len(rows), generator=generator)[:count]]

    def images(self, rows: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) of rows, not augmented."""
        return self.split.normalise(self.split.images[rows.to(self.split.device)])


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What a distiller works with. `open_run` reads what lies in the artifact folder of an earlier run."""

    real: RealSet
    model: ModelBuilder
    seed: int
    data: str = ""  # fingerprint of the data set; empty: unknown, so that nothing made of it is shared with other jobs
    open_run: Callable[[str], FinishedRun] = no_runs

    @property
    def device(self) -> torch.device:
        return self.real.split.device

    def stream(self, name: str, index: int = 0) -> torch.Generator:
        """A generator on the CPU of the job's own."""
        return stream(self.seed, f"distill/{name}", index)

    def network(self, name: str, index: int = 0) -> nn.Module:
        """A fresh network in training mode; equal names and indices give equal weights."""
        with global_stream(self.seed, f"distill/network/{name}/{index}"):
            network = self.model.build(image_shape=self.real.split.image_shape, num_classes=self.real.num_classes)
        return network.to(self.device)


@dataclass(frozen=True)
class DistillState:
    """All that a distiller remembers between iterations; `numbers` are reported as metrics of train."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)


class Distiller(Protocol):
    """How a synthetic set is made."""

    @property
    def ipc(self) -> int | None:
        """Images per class that are stored; None: all of the training images, which are not stored again."""
        ...

    @property
    def num_iterations(self) -> int:
        """How often `iterate` is called; 0 where `start` says all."""
        ...

    def start(self, lab: Lab) -> DistillState:
        """Before the first iteration."""
        ...

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """The state after the iteration of this number, counted from 0."""
        ...

    def synthetic_set(self, state: DistillState, lab: Lab) -> SyntheticSet:
        """What the state stands for; asked at evaluations and at the end."""
        ...


@runtime_checkable
class LeavesFiles(Protocol):
    """A distiller whose artifact holds more than the set."""

    def files(self, state: DistillState, lab: Lab) -> Mapping[str, bytes]:
        """By name, after the last iteration."""
        ...


def own_files(method: Distiller, state: DistillState, lab: Lab) -> Mapping[str, bytes]:
    """What the method leaves beside its set; mostly nothing."""
    return method.files(state, lab) if isinstance(method, LeavesFiles) else {}
