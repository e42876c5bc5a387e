"""The slots of a training step and what may stand in them; each has a neutral member, so the loop has no `if`."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

Network = Callable[[Tensor], Tensor]
"""Images `(B, C, H, W)` to logits `(B, K)`."""

Differentiate = Callable[[Tensor, Tensor], Tensor]
"""Fills every parameter's `.grad` with the gradient of the objective on `(images, labels)` and returns the loss."""

NamedParameters = Iterable[tuple[str, nn.Parameter]]


class Objective(Protocol):
    """What is minimised. The neutral member is `cross_entropy`."""

    def loss(self, network: Network, images: Tensor, labels: Tensor) -> Tensor:
        """Scalar mean over the batch: `images: (B, C, H, W)`, `labels: (B,)`."""
        ...


class GradientRule(Protocol):
    """What becomes of the gradient before masks and optimizer see it. The neutral member is `plain`."""

    def gradients(self, differentiate: Differentiate, images: Tensor, labels: Tensor) -> Tensor:
        """Leaves the gradients in `.grad` and returns the batch's loss (a scalar)."""
        ...


class OptimizerBuilder(Protocol):
    """An optimizer's table in the spec."""

    @property
    def lr(self) -> float:
        """The base learning rate."""
        ...

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Must leave a weight at zero whose value, gradient and state are zero: masks rely on it."""
        ...


class RateSchedule(Protocol):
    """The learning rate over the budget, as a factor of the optimizer's `lr`."""

    def factor(self, step: int, num_steps: int) -> float:
        """Factor for the 0-based `step` of `num_steps`."""
        ...
