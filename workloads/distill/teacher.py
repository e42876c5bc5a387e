"""A network trained on the real set by the job itself, which then judges synthetic images and never changes again."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import Lab
from pruneyard.workloads.distill.kept_network import kept, rebuilt
from pruneyard.workloads.distill.real_training import one_pass
from pruneyard.workloads.models.resnet18 import ResNet18
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin

WEIGHTS, MOMENTUM = "teacher/", "teacher_momentum/"  # what the names of its tensors start with in a state
ROWS = 500  # images per forward pass


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """SGD with a rate that falls along a cosine, one epoch per iteration of the distiller.

    Published teachers are ResNets; their training is not in our sources, so that its numbers here are unverified (U).
    Memory: the state holds the weights, and the momentum until training ends.
    augment: as in an evaluation, but all names are applied to every image.
    """

    model: Annotated[ModelBuilder, Plugin("models")] = ResNet18()
    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "crop_flip"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    def start(self, lab: Lab) -> dict[str, Tensor]:
        """Tensors of the untrained network, standing still."""
        network = self._own(lab).network("teacher")
        still = {MOMENTUM + name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
        return kept(WEIGHTS, network) | still

    def after(self, tensors: Mapping[str, Tensor], epoch: int, lab: Lab) -> tuple[dict[str, Tensor], float]:
        """Tensors after the epoch of this number, counted from 0, and its mean loss; those before stay as they are."""
        network = rebuilt(WEIGHTS, tensors, self._own(lab))
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.rate(epoch), momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
        if self.momentum:
            for name, parameter in network.named_parameters():
                optimizer.state[parameter]["momentum_buffer"] = tensors[MOMENTUM + name].clone()
        strategy = Strategy.of(self.augment)
        loss = one_pass(
            network,
            optimizer,
            lab.real,
            batch_size=self.batch_size,
            strategy=replace(strategy, always=strategy.names),
            draws=lab.stream("teacher", epoch),
        )
        moved = {} if epoch == self.epochs - 1 else self._momentum(network, optimizer)
        return kept(WEIGHTS, network) | moved, loss

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def network(self, tensors: Mapping[str, Tensor], lab: Lab) -> nn.Module:
        """In evaluation mode, its weights fixed; a copy."""
        return rebuilt(WEIGHTS, tensors, self._own(lab)).eval().requires_grad_(False)

    def weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters and buffers by the network's own names."""
        return {name.removeprefix(WEIGHTS): tensor for name, tensor in tensors.items() if name.startswith(WEIGHTS)}

    def _own(self, lab: Lab) -> Lab:
        return replace(lab, model=self.model)

    def _momentum(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        named = network.named_parameters()
        if not self.momentum:
            return {MOMENTUM + name: torch.zeros_like(parameter) for name, parameter in named}
        return {MOMENTUM + name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in named}


@runtime_checkable
class Taught(Protocol):
    """A distiller whose state holds a teacher, which can label whatever is made of its images."""

    @property
    def teacher(self) -> Teacher: ...


def size_of(weights: Mapping[str, Tensor]) -> int:
    """Bytes, as stored."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def file_of(weights: Mapping[str, Tensor]) -> bytes:
    """A safetensors file; the model's table is the one of the job."""
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})


@torch.no_grad()
def soft_labels(network: nn.Module, images: Tensor, *, temperature: float) -> Tensor:
    """Probabilities (N, K) float32 of normalised images, softened by the temperature."""
    return torch.cat([(network(part).float() / temperature).softmax(1) for part in images.split(ROWS)])
