"""Counted work of distillation: FLOPs of what is computed on images, by passing two of them without storage.

Two FLOPs to a multiply-add. Counted are the convolutions and matrix products of every pass as torch runs it, gradients of
gradients included; not counted are augmentation, norms, activations, biases, the distance of gradients and the optimizers.
The work is that of the method: what is read from a cache of shared paths counts as if it were computed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from pruneyard.workloads.data.dataset import Dataset
from pruneyard.workloads.distill.matching import loss_gradient, matched, matched_parameters
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.networks.features import features

META = torch.device("meta")
BATCH = 2  # images that are counted at once: batch norm refuses a single one


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What work depends on beside a method's own table."""

    model: ModelBuilder
    image_shape: tuple[int, int, int]
    class_sizes: tuple[int, ...]  # training rows

    @classmethod
    def of(cls, model: ModelBuilder, data: Dataset) -> "Scene":
        """Of a job on these data."""
        sizes = np.bincount(data.train.labels, minlength=data.num_classes)
        return cls(model=model, image_shape=data.image_shape, class_sizes=tuple(sizes.tolist()))

    @property
    def num_classes(self) -> int:
        return len(self.class_sizes)

    @property
    def num_rows(self) -> int:
        """All training rows."""
        return sum(self.class_sizes)

    def drawn(self, most: int) -> int:
        """Rows, where at most so many of each class are drawn."""
        return sum(min(most, size) for size in self.class_sizes)

    @property
    def kind(self) -> "Kind":
        """What work per image depends on."""
        return Kind(self.model, self.image_shape, self.num_classes)


class Kind(NamedTuple):
    """A kind of network."""

    model: ModelBuilder
    image_shape: tuple[int, int, int]
    num_classes: int

    def network(self) -> nn.Module:
        """Without storage, in training mode."""
        with META:
            return self.model.build(image_shape=self.image_shape, num_classes=self.num_classes)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Images and labels without storage."""
        labels = torch.zeros(BATCH, dtype=torch.int64, device=META)
        return torch.empty((BATCH, *self.image_shape), device=META), labels


@cache
def training(kind: Kind) -> float:
    """Of the gradient by all weights, per image."""
    network = kind.network()
    return counted(lambda: loss_gradient(network, list(network.parameters()), *kind.batch())) / BATCH


@cache
def first_gradient(kind: Kind, *, classifier: bool) -> float:
    """Of the gradient by the weights that are matched, per image."""
    network = kind.network()
    parameters = matched_parameters(network, classifier=classifier)
    return counted(lambda: loss_gradient(network, parameters, *kind.batch())) / BATCH


@cache
def second_gradient(kind: Kind, *, classifier: bool) -> float:
    """Of the same and of its distance's gradient by the image, per image."""
    network = kind.network()
    parameters = matched_parameters(network, classifier=classifier)
    wanted = [torch.empty_like(parameter) for parameter in parameters]
    return counted(lambda: matched(network, parameters, *kind.batch(), wanted, by="squared")) / BATCH


@cache
def looking(kind: Kind) -> float:
    """Of a forward pass, per image."""
    network = kind.network()
    with torch.no_grad():
        return counted(lambda: network(kind.batch()[0])) / BATCH


@cache
def features_gradient(kind: Kind) -> float:
    """Of a forward pass and the gradient of features by the image, per image."""
    network, leaf = kind.network(), kind.batch()[0].requires_grad_()
    return counted(lambda: torch.autograd.grad(features(network, leaf).sum(), leaf)) / BATCH


@runtime_checkable
class Countable(Protocol):
    """A distiller whose work can be counted."""

    def flops(self, iterations: int, scene: Scene) -> float:
        """Of the first so many iterations."""
        ...


def flops_of(method: object, iterations: int, scene: Scene) -> float | None:
    """None for a method that is not counted."""
    return method.flops(iterations, scene) if isinstance(method, Countable) else None


def counted(compute: Callable[[], object]) -> float:
    """FLOPs of what `compute` does."""
    with _Counter() as counter:
        compute()
    return float(counter.total)


class _Counter(TorchDispatchMode):
    """Adds up every operation that torch has a formula for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self,
        function: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=found)
        return found
