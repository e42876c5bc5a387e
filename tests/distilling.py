"""Small problems for distillation: digits of 8x8 pixels, and networks of two narrow blocks."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from pruneyard.workloads.data.batches import DeviceSplit
from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.data.sources.digits import Digits
from pruneyard.workloads.distill.distiller import DistillContext, Distiller, DistillState, RealSet
from pruneyard.workloads.models.convnet import ConvNet
from pruneyard.workloads.networks.builder import ModelBuilder


@dataclass(frozen=True, kw_only=True)
class Double:
    """A model in float64."""

    model: ModelBuilder

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        return self.model.build(image_shape=image_shape, num_classes=num_classes).double()


class DoubleRealSet(RealSet):
    """A real set whose images are in float64, so that everything computed from them is too."""

    def images(self, rows: Tensor) -> Tensor:
        return super().images(rows).double()


@cache
def digits(num_train: int = 240) -> Dataset:
    return Digits(max_train=num_train, max_test=60).load()


def context(seed: int = 0, *, double: bool = False, model: ModelBuilder | None = None) -> DistillContext:
    data, model = digits(), model or ConvNet(width=4, depth=2)
    split = DeviceSplit(data.train, mean=data.mean, std=data.std)
    kind = DoubleRealSet if double else RealSet
    real = kind.of(split, mean=data.mean, std=data.std, num_classes=data.num_classes)
    if double:
        real = DoubleRealSet(split=real.split, mean=real.mean, std=real.std, rows_of_class=real.rows_of_class)
    return DistillContext(real=real, model=Double(model=model) if double else model, seed=seed)


def states(method: Distiller, at: DistillContext, *, start: DistillState | None = None) -> list[DistillState]:
    """Returns the states at the start and after every iteration."""
    found = [method.start(at) if start is None else start]
    for iteration in range(method.num_iterations):
        found.append(method.iterate(found[-1], iteration, at))
    return found


def images(state: DistillState) -> Tensor:
    return state.tensors["images"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
