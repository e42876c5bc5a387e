"""Match, class by class, the gradients of networks on synthetic and on real images (DC).

Reference: Zhao, Mopuri and Bilen 2021, Dataset Condensation with Gradient Matching (arXiv:2006.05929)

An iteration draws a fresh network and takes `outer` steps with it: gradients of each class are matched, by rows of every
weight, the classifier included; the images take one step by the sum over classes; and the network is trained for `inner`
epochs on the synthetic set, but not after the last step. outer and inner follow from IPC as published; between published
values those of the nearest lower one are taken, which is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from workloads.distill.augment import Drawn, Strategy
from workloads.distill.distiller import DistillState, Lab
from workloads.distill.matching import DISTANCES, chunked_gradient, loss_gradient, matched_parameters
from workloads.distill.starting import Distilled, labels_of, momentum_step

__all__ = ["DC"]

STEPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}  # IPC: outer, inner


@dataclass(frozen=True, kw_only=True)
class DC(Distilled):
    """One network per iteration; without augmentation."""

    init: Literal["real", "noise"] = "noise"
    iterations: int = 1000
    outer: int | None = None  # steps of the images per network; by default as published for the IPC
    inner: int | None = None  # epochs of the network on the synthetic set between two of them; by default likewise
    real_batch: int = 256  # real images per class
    lr: float = 0.1  # of the images
    momentum: float = 0.5
    network_lr: float = 0.01
    network_batch: int = 256
    distance: Literal["cosine", "squared", "absolute"] = "cosine"
    chunk: int = 32  # real images per backward pass: changes rounding only
    augment: str = field(default="")  # transforms shared by the real and the synthetic images of a class

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("iterations", "real_batch", "network_batch", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name, least in (("outer", 1), ("inner", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}; it must be {least} or more")
        if not self.lr > 0 or not self.network_lr > 0:
            name = "network_lr" if self.lr > 0 else "lr"
            raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if self.distance not in DISTANCES:
            raise ValueError(f"distance is {self.distance!r}; it must be {', '.join(DISTANCES)}")
        try:
            Strategy.of(self.augment)
        except ValueError as error:
            raise ValueError(f"augment is {self.augment!r}; {error}") from error

    @property
    def num_iterations(self) -> int:
        return self.iterations

    @property
    def steps(self) -> tuple[int, int]:
        """outer and inner."""
        outer, inner = STEPS[max(ipc for ipc in STEPS if ipc <= self.ipc)]
        return (outer if self.outer is None else self.outer), (inner if self.inner is None else self.inner)

    def iterate(self, state: DistillState, iteration: int, lab: Lab) -> DistillState:
        """One network's path."""
        network, draws = lab.network("match", iteration), lab.stream("iterate", iteration)
        images, velocity = state.tensors["images"], state.tensors["velocity"]
        outer, inner = self.steps
        total = torch.zeros((), device=lab.device)
        for step in range(outer):
            loss, gradient = self.matched(network, images, lab, draws)
            images, velocity = momentum_step(images, velocity, gradient, lr=self.lr, momentum=self.momentum)
            total += loss
            if step < outer - 1:
                self._train(network, images, inner, lab, draws)
        mean = float(total) / (outer * lab.real.num_classes)
        return DistillState({"images": images, "velocity": velocity}, {"matching_loss": mean})

    def matched(
        self, network: nn.Module, images: Tensor, lab: Lab, draws: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The sum of distances over classes, and its gradient by the images. Each class has a graph of its own."""
        parameters = matched_parameters(network, classifier=True)
        strategy = Strategy.of(self.augment)
        total, gradients = torch.zeros((), device=images.device), []
        for label, mine in enumerate(images.split(self.ipc)):
            real = lab.real.images(lab.real.draw(label, self.real_batch, draws))
            loss, gradient = self.of_class(network, parameters, mine, real, label, strategy.draw(draws))
            total += loss
            gradients.append(gradient)
        return total, torch.cat(gradients)

    def of_class(
        self, network: nn.Module, parameters: Sequence[Tensor], mine: Tensor, real: Tensor, label: int, drawn: Drawn
    ) -> tuple[Tensor, Tensor]:
        """Distance of one class and its gradient by its images."""
        of_real = torch.full((len(real),), label, device=real.device)
        wanted = chunked_gradient(network, parameters, drawn(real), of_real, chunk=self.chunk)
        leaf = mine.detach().requires_grad_()
        labels = torch.full((len(mine),), label, device=mine.device)
        found = loss_gradient(network, parameters, drawn(leaf), labels, graph=True)
        loss = DISTANCES[self.distance](found, wanted)
        (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient

    def _train(self, network: nn.Module, images: Tensor, epochs: int, lab: Lab, draws: torch.Generator) -> None:
        """On the synthetic set, with plain SGD."""
        labels, strategy = labels_of(lab.real.num_classes, self.ipc).to(images.device), Strategy.of(self.augment)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.network_lr, fused=True)
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=draws).to(images.device).split(self.network_batch):
                batch = strategy.draw(draws, num=len(rows))(images[rows])
                optimizer.zero_grad(set_to_none=True)
                functional.cross_entropy(network(batch), labels[rows]).backward()
                optimizer.step()
