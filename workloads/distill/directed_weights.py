"""Moves weights uphill along the loss of a batch, so that the images of different batches become more diverse.

Reference: Du et al. 2024, Diversity-Driven Synthesis: Enhancing Dataset Distillation through Directed Weight Adjustment
(DWA, arXiv:2409.17612)
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class DirectedAdjustment:
    """The adjustment of a teacher's weights for a batch; off by default.

    strength: largest distance that the weights can move, published as rho = 0.015. steps: published as 12 or 15.
    """

    strength: float = 0.0
    steps: int = 12

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength is {self.strength}; it must be 0 or more")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")

    def adjust(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        """Moves the parameters of `network` in place; running statistics do not change if it is in eval mode.

        Each step moves along the gradient of the cross-entropy, by the length strength / steps over all parameters together.
        """
        if not self.strength:
            return
        parameters = list(network.parameters())
        # Teachers are built without gradients by their parameters.
        for parameter in parameters:
            parameter.requires_grad_()
        for _ in range(self.steps):
            gradients = torch.autograd.grad(functional.cross_entropy(network(images), labels), parameters)
            length = torch.stack([gradient.norm() for gradient in gradients]).norm()
            if not length > 0:  # a perfectly fitted batch has a zero gradient, which has no direction
                return
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.add_(self.strength / self.steps * gradient / length)
