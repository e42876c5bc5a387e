"""A teacher: a network that the job trains on the real set, and that then evaluates synthetic images with fixed weights."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, runtime_checkable

import safetensors.torch
import torch
from torch import Tensor, nn

from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext
from pruneyard.workloads.distill.network_tensors import prefixed_tensors, rebuild_network
from pruneyard.workloads.distill.real_training import train_epoch
from pruneyard.workloads.models.resnet18 import ResNet18
from pruneyard.workloads.networks.builder import ModelBuilder
from pruneyard.workloads.plugins import Plugin

WEIGHT_PREFIX, MOMENTUM_PREFIX = "teacher/", "teacher_momentum/"  # start the names of its tensors in a state
EVAL_BATCH_SIZE = 500  # images per forward pass


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The training of a teacher: SGD with a cosine learning rate schedule, one epoch per iteration of the distiller.

    Published teachers are ResNets; the papers do not describe their training, so these defaults are unverified (U).
    augment: as in an evaluation, but all transforms are applied to every image.
    Memory: the state contains the weights and, until training ends, the momentum.
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
        check_transforms("augment", self.augment)

    def start(self, context: DistillContext) -> dict[str, Tensor]:
        """Returns the tensors of the untrained network with zero momentum."""
        network = self._teacher_context(context).network("teacher")
        momentum = {MOMENTUM_PREFIX + name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
        return prefixed_tensors(WEIGHT_PREFIX, network) | momentum

    def train_epoch(self, tensors: Mapping[str, Tensor], epoch: int, context: DistillContext) -> tuple[dict[str, Tensor], float]:
        """Returns the tensors after an epoch, counted from 0, and its mean loss; `tensors` is not modified."""
        network = rebuild_network(WEIGHT_PREFIX, tensors, self._teacher_context(context))
        optimizer = torch.optim.SGD(
            network.parameters(), lr=self.rate(epoch), momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
        if self.momentum:
            for name, parameter in network.named_parameters():
                optimizer.state[parameter]["momentum_buffer"] = tensors[MOMENTUM_PREFIX + name].clone()
        strategy = Strategy.of(self.augment)
        loss = train_epoch(
            network,
            optimizer,
            context.real,
            batch_size=self.batch_size,
            # All transforms at once, not one sampled per batch as in evaluations.
            strategy=replace(strategy, always=strategy.names),
            generator=context.stream("teacher", epoch),
        )
        momentum = {} if epoch == self.epochs - 1 else self._momentum(network, optimizer)
        return prefixed_tensors(WEIGHT_PREFIX, network) | momentum, loss

    def rate(self, epoch: int) -> float:
        """Returns the learning rate of an epoch, counted from 0."""
        return self.lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2

    def network(self, tensors: Mapping[str, Tensor], context: DistillContext) -> nn.Module:
        """Returns a copy of the network in eval mode, without gradients."""
        return rebuild_network(WEIGHT_PREFIX, tensors, self._teacher_context(context)).eval().requires_grad_(False)

    def weights(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns parameters and buffers by the network's own names."""
        return {name.removeprefix(WEIGHT_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(WEIGHT_PREFIX)}

    def _teacher_context(self, context: DistillContext) -> DistillContext:
        return replace(context, model=self.model)

    def _momentum(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        named = network.named_parameters()
        if not self.momentum:
            return {MOMENTUM_PREFIX + name: torch.zeros_like(parameter) for name, parameter in named}
        return {MOMENTUM_PREFIX + name: optimizer.state[parameter]["momentum_buffer"] for name, parameter in named}


@runtime_checkable
class HasTeacher(Protocol):
    """A distiller whose state contains a teacher, which can label augmented views of the images."""

    @property
    def teacher(self) -> Teacher: ...


def size_bytes_of(weights: Mapping[str, Tensor]) -> int:
    """Returns the size of the weights in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


def serialize_weights(weights: Mapping[str, Tensor]) -> bytes:
    """Returns the content of a safetensors file of the weights; the model's fields are part of the job's spec."""
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in weights.items()})


@torch.no_grad()
def soft_labels(network: nn.Module, images: Tensor, *, temperature: float) -> Tensor:
    """Returns probabilities (N, K) float32 of normalised images, softened by the temperature."""
    return torch.cat([(network(part).float() / temperature).softmax(1) for part in images.split(EVAL_BATCH_SIZE)])
