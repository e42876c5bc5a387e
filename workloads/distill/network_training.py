"""How the network moves between two steps of the images, and where on its path it stands."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruneyard.workloads.distill import matching
from pruneyard.workloads.distill.augment import Strategy
from pruneyard.workloads.distill.distiller import Lab, RealSet
from pruneyard.workloads.distill.evaluate import cutmix
from pruneyard.workloads.distill.matching import Ways, chunk_of

Batch = tuple[Tensor, Tensor]
"""Normalised images, and labels or probabilities."""

WEIGHTS, MOMENTUM = "network/", "momentum/"  # what the names of a position's tensors start with in a state


@dataclass(frozen=True, kw_only=True)
class Position:
    """A network somewhere on its path: its `state_dict`, and the momentum of its parameters by name."""

    weights: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]

    @classmethod
    def start(cls, network: nn.Module) -> "Position":
        """Standing still."""
        momentum = {name: torch.zeros_like(parameter) for name, parameter in network.named_parameters()}
        return cls(weights=network.state_dict(), momentum=momentum)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Position":
        """Out of a state, where `tensors` has put it."""

        def named(start: str) -> dict[str, Tensor]:
            return {
                name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)
            }

        return cls(weights=named(WEIGHTS), momentum=named(MOMENTUM))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """For a state."""
        weights = {WEIGHTS + name: tensor for name, tensor in self.weights.items()}
        return weights | {MOMENTUM + name: tensor for name, tensor in self.momentum.items()}

    def network(self, lab: Lab) -> nn.Module:
        """In training mode, with weights of its own: changing them leaves the position as it is."""
        with torch.device("meta"):
            network = lab.model.build(
                image_shape=lab.real.split.image_shape, num_classes=lab.real.num_classes
            )
        network.load_state_dict({name: tensor.clone() for name, tensor in self.weights.items()}, assign=True)
        return network


@dataclass(frozen=True, kw_only=True)
class NetworkTraining:
    """SGD on `rows` images between two steps of the synthetic images; the defaults are those of IDC for CIFAR.

    on: the real set, or the synthetic one as it is then. rows: 0 leaves the network as it is; where there are fewer images
    than rows, one pass follows another, each in an order of its own.
    augment: as in an evaluation, with parameters per image; color, flip and cutout are always applied, one of the rest drawn.
    cutmix: share of batches that are mixed.
    """

    on: Literal["real", "synthetic"] = "real"
    rows: int = 2000
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "color_crop"
    cutmix: float = 0.5

    def __post_init__(self) -> None:
        for name, least in (("rows", 0), ("batch_size", 1), ("weight_decay", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be {least} or more")
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix is {self.cutmix}; it must lie in [0, 1], a share of the batches")
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    def batches(self, pile: "Pile", draws: torch.Generator, strategy: Strategy) -> Iterator[Batch]:
        """Those of one step."""
        left = self.rows
        while left > 0:
            order = torch.randperm(pile.num_images, generator=draws)[:left]
            left -= len(order)
            for rows in order.split(self.batch_size):
                images, labels = pile.batch(rows)
                images = strategy.draw(draws, num=len(images))(images)
                if self.cutmix and float(torch.rand((), generator=draws)) < self.cutmix:
                    targets = functional.one_hot(labels, pile.num_classes).to(images.dtype)
                    yield cutmix(images, targets, draws)
                else:
                    yield images, labels

    def follow(
        self,
        network: nn.Module,
        momentum: Mapping[str, Tensor],
        pile: "Pile",
        draws: torch.Generator,
        *,
        strategy: Strategy,
        chunk: int | None = None,
        ways: Ways = matching,
    ) -> Position:
        """Where one step leads. `network` is trained in place; `momentum` is left as it is."""
        named = dict(network.named_parameters())
        optimizer = torch.optim.SGD(
            named.values(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
        if self.momentum:
            for name, parameter in named.items():
                optimizer.state[parameter]["momentum_buffer"] = momentum[name].clone()
        for images, targets in self.batches(pile, draws, strategy):
            pieces = chunk_of(network, images, chunk)
            gradients = ways.chunked_gradient(network, list(named.values()), images, targets, chunk=pieces)
            for parameter, gradient in zip(named.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
        moved = (
            {n: optimizer.state[p]["momentum_buffer"] for n, p in named.items()}
            if self.momentum
            else dict(momentum)
        )
        return Position(weights=network.state_dict(), momentum=moved)


@dataclass(frozen=True, kw_only=True)
class Pile:
    """Labelled images that batches are taken from."""

    num_images: int
    num_classes: int
    batch: Callable[[Tensor], Batch]  # of rows, (B,) int64 on the CPU

    @classmethod
    def of_real(cls, real: RealSet) -> "Pile":
        """All training rows."""
        labels = real.split.labels
        return cls(
            num_images=len(real.split),
            num_classes=real.num_classes,
            batch=lambda rows: (real.images(rows), labels[rows.to(labels.device)]),
        )

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, *, num_classes: int) -> "Pile":
        """Of normalised images."""
        return cls(
            num_images=len(images),
            num_classes=num_classes,
            batch=lambda rows: (images[rows.to(images.device)], labels[rows.to(labels.device)]),
        )
