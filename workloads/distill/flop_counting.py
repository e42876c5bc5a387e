"""FLOPs of distillation, counted by passing two images through networks on the meta device.

A multiply-add counts as two FLOPs. The count includes the convolutions and matrix products of every pass as torch runs it,
gradients of gradients included. It excludes augmentation, norms, activations, biases, the distance of gradients and the
optimizers. Results read from the cache of shared paths count as if they were computed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.distill.matching import loss_gradient, match_gradients, matched_parameters
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.features import features
from pruneyard.workloads.networks.flops import ProductCounter

META = torch.device("meta")
BATCH = 2  # images passed at once: batch norm refuses a single image


@dataclass(frozen=True, kw_only=True)
class ProblemSize:
    """The quantities that the work depends on, besides a method's own fields."""

    model: ModelBuilder
    image_shape: tuple[int, ...]
    class_sizes: tuple[int, ...]  # training rows of each class

    @classmethod
    def for_data(cls, model: ModelBuilder, data: Dataset) -> "ProblemSize":
        """Creates the problem size of a job on these data."""
        # `minlength`, so that a class without rows at the end still has a size.
        sizes = np.bincount(data.train.labels, minlength=data.num_classes)
        return cls(model=model, image_shape=data.image_shape, class_sizes=tuple(sizes.tolist()))

    @property
    def num_classes(self) -> int:
        return len(self.class_sizes)

    @property
    def num_rows(self) -> int:
        """Number of all training rows."""
        return sum(self.class_sizes)

    def num_sampled(self, per_class: int) -> int:
        """Returns the number of rows if `per_class` rows are sampled of each class, or all where a class has fewer."""
        return sum(min(per_class, size) for size in self.class_sizes)

    @property
    def network_spec(self) -> "NetworkSpec":
        """The quantities that the work per image depends on."""
        return NetworkSpec(self.model, self.image_shape, self.num_classes)


class NetworkSpec(NamedTuple):
    """A model and the sizes of its inputs and outputs."""

    model: ModelBuilder
    image_shape: tuple[int, ...]
    num_classes: int

    def network(self) -> nn.Module:
        """Builds the network on the meta device, in training mode."""
        with META:
            return self.model.build(image_shape=self.image_shape, num_classes=self.num_classes)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Returns images and labels on the meta device."""
        labels = torch.zeros(BATCH, dtype=torch.int64, device=META)
        return torch.empty((BATCH, *self.image_shape), device=META), labels


@cache
def training_flops(spec: NetworkSpec) -> float:
    """Returns the FLOPs of the gradient by all weights, per image."""
    network = spec.network()
    return measure_flops(lambda: loss_gradient(network, list(network.parameters()), *spec.batch())) / BATCH


@cache
def first_order_flops(spec: NetworkSpec, *, classifier: bool) -> float:
    """Returns the FLOPs of the gradient by the matched weights, per image."""
    network = spec.network()
    parameters = matched_parameters(network, classifier=classifier)
    return measure_flops(lambda: loss_gradient(network, parameters, *spec.batch())) / BATCH


@cache
def second_order_flops(spec: NetworkSpec, *, classifier: bool) -> float:
    """Returns the FLOPs of the gradient by the matched weights and of the distance's gradient by the image, per image."""
    network = spec.network()
    parameters = matched_parameters(network, classifier=classifier)
    targets = [torch.empty_like(parameter) for parameter in parameters]
    return measure_flops(lambda: match_gradients(network, parameters, *spec.batch(), targets, distance="squared")) / BATCH


@cache
def forward_flops(spec: NetworkSpec) -> float:
    """Returns the FLOPs of a forward pass, per image."""
    network = spec.network()
    with torch.no_grad():
        return measure_flops(lambda: network(spec.batch()[0])) / BATCH


@cache
def feature_gradient_flops(spec: NetworkSpec) -> float:
    """Returns the FLOPs of a forward pass and of the gradient of features by the image, per image."""
    network, leaf = spec.network(), spec.batch()[0].requires_grad_()
    return measure_flops(lambda: torch.autograd.grad(features(network, leaf).sum(), leaf)) / BATCH


@runtime_checkable
class CountsFlops(Protocol):
    """A distiller that counts its FLOPs."""

    def flops(self, iterations: int, problem: ProblemSize) -> float:
        """Returns the FLOPs of the first `iterations` iterations."""
        ...


def count_flops(method: object, iterations: int, problem: ProblemSize) -> float | None:
    """Returns the FLOPs of the first `iterations` iterations; None for a method that does not count them."""
    return method.flops(iterations, problem) if isinstance(method, CountsFlops) else None


def measure_flops(compute: Callable[[], object]) -> float:
    """Returns the FLOPs of the operations that `compute` runs."""
    with ProductCounter() as counter:
        compute()
    return float(counter.by_factors.total())
