"""The state of a network on its training path, and its training between two steps of the images."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.data.batches import split_rows
from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.augment import Strategy, check_transforms
from pruneyard.workloads.distill.distiller import DistillContext, RealSet
from pruneyard.workloads.distill.evaluate import cutmix
from pruneyard.workloads.distill.matching import GradientFunctions, choose_chunk_size
from pruneyard.workloads.fields import renamed

Batch = tuple[Tensor, Tensor]
"""Normalised images, and labels or probabilities."""

WEIGHT_PREFIX, MOMENTUM_PREFIX = "network/", "momentum/"  # start the names of the network's tensors in a state


@dataclass(frozen=True, kw_only=True)
class NetworkState:
    """The state of a network in training: its `state_dict`, and the momentum of its parameters by name."""

    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]

    @classmethod
    def initial(cls, network: nn.Module) -> "NetworkState":
        """Creates the state of a network with zero momentum."""
        momentum = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
        return cls(weights=network.state_dict(), momentum=momentum)

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "NetworkState":
        """Reads the state of a network from the tensors of a distillation state, where `tensors` stored it."""

        def select(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        return cls(weights=select(WEIGHT_PREFIX), momentum=select(MOMENTUM_PREFIX))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors that are stored in a distillation state, by prefixed name."""
        weights = {WEIGHT_PREFIX + name: tensor for name, tensor in self.weights.items()}
        return weights | {MOMENTUM_PREFIX + name: tensor for name, tensor in self.momentum.items()}

    def network(self, context: DistillContext) -> nn.Module:
        """Builds the network in training mode with copies of the weights, so that training it does not change this state."""
        with torch.device("meta"):
            network = context.model.build(
                image_shape=context.real.split.image_shape, num_classes=context.real.num_classes
            )
        # A network on the meta device has no memory to copy into; it takes the tensors themselves.
        network.load_state_dict({name: tensor.clone() for name, tensor in self.weights.items()}, assign=True)
        return network


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """SGD training between two steps of the synthetic images; the defaults are those of IDC for CIFAR.

    train_on: train on the real set, or on the current synthetic set.
    num_images: number of images per training; with 0 the network is not trained. If there are fewer images than that, several
        passes are made, each in a new random order. Published settings of 2,000 (500) are 2,048 (512), as the released code
        makes whole batches of 64.
    augment: as in an evaluation, with parameters per image; color, flip and cutout are always applied, and one of the other
        transforms is sampled.
    cutmix: share of batches that are mixed.
    """

    revision: ClassVar[int] = 2

    train_on: Literal["real", "synthetic"] = field(default="real", metadata=renamed("on"))
    num_images: int = field(default=2048, metadata=renamed("rows"))
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "color_crop"
    cutmix: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("num_images", 0), ("batch_size", 1), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix is {self.cutmix}; it must lie in [0, 1], a share of the batches")
        check_transforms("augment", self.augment)

    def batches(self, training_images: "LabelledImages", generator: torch.Generator, strategy: Strategy) -> Iterator[Batch]:
        """Yields the batches of one training of `num_images` images."""
        remaining = self.num_images
        while remaining > 0:
            order = torch.randperm(training_images.num_images, generator=generator)[:remaining]
            remaining -= len(order)
            for rows in split_rows(order, self.batch_size):
                images, labels = training_images.batch(rows)
                images = strategy.sample(generator, num=len(images))(images)
                if self.cutmix and float(torch.rand((), generator=generator)) < self.cutmix:
                    # Mixed batches need probabilities; the others keep class indices.
                    targets = functional.one_hot(labels, training_images.num_classes).to(images.dtype)
                    yield cutmix(images, targets, generator)
                else:
                    yield images, labels

    def run(
        self,
        network: nn.Module,
        momentum: Mapping[str, Tensor],
        training_images: "LabelledImages",
        generator: torch.Generator,
        *,
        strategy: Strategy,
        chunk: int | None = None,
        gradient_functions: GradientFunctions = matching,
    ) -> NetworkState:
        """Trains `network` in place and returns its new state; `momentum` is not modified."""
        named = dict(network.named_parameters())
        optimizer = torch.optim.SGD(
            named.values(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
        if self.momentum:
            for name, parameter in named.items():
                optimizer.state[parameter]["momentum_buffer"] = momentum[name].clone()
        for images, targets in self.batches(training_images, generator, strategy):
            chunk_size = choose_chunk_size(network, images, chunk)
            gradients = gradient_functions.chunked_gradient(network, list(named.values()), images, targets, chunk=chunk_size)
            for parameter, gradient in zip(named.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        new_momentum = (
            {n: optimizer.state[p]["momentum_buffer"] for n, p in named.items()}
            if self.momentum
            else dict(momentum)
        )
        return NetworkState(weights=network.state_dict(), momentum=new_momentum)


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Labelled images from which batches are taken."""

    num_images: int
    num_classes: int
    batch: Callable[[Tensor], Batch]  # returns the batch of some rows, (B,) int64 on the CPU

    @classmethod
    def from_real_set(cls, real: RealSet) -> "LabelledImages":
        """Creates a source of batches of all training rows."""
        labels = real.split.labels
        return cls(
            num_images=len(real.split),
            num_classes=real.num_classes,
            batch=lambda rows: (real.images(rows), labels[rows.to(labels.device)]),
        )

    @classmethod
    def from_tensors(cls, images: Tensor, labels: Tensor, *, num_classes: int) -> "LabelledImages":
        """Creates a source of batches of normalised images."""
        return cls(
            num_images=len(images),
            num_classes=num_classes,
            batch=lambda rows: (images[rows.to(images.device)], labels[rows.to(labels.device)]),
        )
