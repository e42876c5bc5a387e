"""Weights moved uphill along the loss of a batch, so that what is made from each batch differs.

Reference: Du et al. 2024, Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment
(DWA, arXiv:2409.17612)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class DirectedAdjustment:
    """Off by default. strength: the farthest that weights can move together, 0.015 as published (rho); steps: 12 or 15."""

    strength: float = 0.0
    steps: int = 12

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength is {self.strength}; it must be 0 or more")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")

    def move(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Moves the parameters of `network` in place; its statistics stay if it is in evaluation mode.

        Each step has the length strength / steps over all parameters together, along the gradient of the cross-entropy.
        """
        if not self.strength:
            return
        parameters = list(network.parameters())
        for parameter in parameters:
            parameter.requires_grad_()
        for _ in range(self.steps):
            gradients = torch.autograd.grad(functional.cross_entropy(network(images), labels), parameters)
            length = torch.stack([gradient.norm() for gradient in gradients]).norm()
            if not length > 0:  # a batch that is fitted to the last bit has no direction
                return
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(self.strength / self.steps * gradient / length)
