"""The protocol of a probe, what it returns, and the networks that it measures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset, Source, Split
from pruneyard.workloads.masks.masks import prunable_weights
from pruneyard.workloads.networks.finished import FinishedNetwork
from pruneyard.workloads.parents import FinishedRun
from pruneyard.workloads.workload import CurvePoint

BATCH_SIZE = 500  # rows of one forward pass; results do not depend on it beyond rounding


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One of the finished runs that a probe measures; everything is read when it is first used."""

    run: FinishedRun
    device: torch.device
    load_data: Callable[[Source], Dataset]

    @cached_property
    def finished(self) -> FinishedNetwork:
        """The network as stored, on the CPU, with its masks."""
        return self.run.network()

    @cached_property
    def data(self) -> Dataset:
        """The data that the run was trained on. Raises `ValueError` if they have changed since."""
        return self.run.training_data(self.load_data)

    @property
    def num_classes(self) -> int:
        """The outputs of the network that are classes; further ones come last."""
        return self.finished.blueprint.num_outputs - self.run.num_extra

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The prunable weights on the CPU, zero outside their masks."""
        return {name: weight.detach() for name, weight in prunable_weights(self.finished.network).items()}

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """A mask on the CPU for every prunable weight, all True where the run has none."""
        found = self.finished.masks
        return {name: found.get(name, torch.ones_like(weight, dtype=torch.bool)) for name, weight in self.weights.items()}

    def network(self) -> nn.Module:
        """Returns a copy of the network on the job's device, in evaluation mode; its parameters need no gradient."""
        return deepcopy(self.finished.network).to(self.device)

    def split(self, name: str, max_samples: int | None = None) -> Split:
        """Returns rows of a split of the run's data: all, or at most `max_samples` that are evenly spread.

        Raises `ValueError` if the split has no rows.
        """
        rows: Split = getattr(self.data, name)
        if not len(rows):
            raise ValueError(f"the data of {self.run.run_key} have no {name} rows")
        return rows.take(evenly_spread(len(rows), max_samples).numpy())

    def on_device(self, split: Split) -> DeviceSplit:
        """Returns rows on the job's device, normalised as the network expects."""
        blueprint = self.finished.blueprint
        rows = DeviceSplit(split, mean=blueprint.mean, std=blueprint.std, device=self.device)
        if rows.image_shape != blueprint.image_shape:
            raise ValueError(f"inputs have the shape {rows.image_shape}; {self.run.run_key} expects {blueprint.image_shape}")
        return rows


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of a probe. metrics: by split and name; values that are not finite are not recorded. files: of the artifact."""

    metrics: Mapping[tuple[str, str], float]
    curves: tuple[CurvePoint, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)


class Probe(Protocol):
    """A frozen dataclass in `workloads/probe/methods`."""

    fewest_runs: ClassVar[int]
    most_runs: ClassVar[int | None]  # None: any number
    reads_data: ClassVar[bool]  # whether it reads the data that the runs were trained on

    def measure(self, subjects: Sequence[Subject], *, seed: int) -> Finding:
        """Returns what was measured: a function of the runs, the fields and the seed, on any device.

        The networks of `subjects` are not modified. Raises `ValueError` for runs that cannot be measured.
        """
        ...


def evenly_spread(num_rows: int, max_samples: int | None) -> Tensor:
    """Returns the indices of at most `max_samples` evenly spread rows: (n,) int64, ascending."""
    num = min(num_rows, max_samples or num_rows)
    return torch.arange(num) * num_rows // num


def check_max_samples(max_samples: int | None) -> None:
    """Raises `ValueError` for a limit below 1."""
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"max_samples is {max_samples}; it must be 1 or more")


@torch.no_grad()
def logits_of(network: nn.Module, rows: DeviceSplit, *, num_classes: int) -> Tensor:
    """Returns the logits of the classes on all rows, (N, K) float32 on the CPU."""
    return torch.cat([network(images)[:, :num_classes].float().cpu() for images, _ in rows.batches(BATCH_SIZE)])


@contextmanager
def with_gradients(network: nn.Module) -> Iterator[None]:
    """Lets the parameters need gradients inside the block."""
    network.requires_grad_(True)
    try:
        yield
    finally:
        network.requires_grad_(False)
