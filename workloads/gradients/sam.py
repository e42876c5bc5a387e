"""Take the gradient at the worst nearby weights, which favours flat minima over sharp ones (SAM).

Reference: Foret et al. 2021, Sharpness-Aware Minimization for Efficiently Improving Generalization (arXiv:2010.01412)

With g the gradient at w, the optimizer sees the gradient at w + rho g / ||g||, of the same batch with the same random
numbers; the norm is over all parameters. Under masks g counts where weights are active, so that the perturbed network is as
sparse as the trained one. A step costs two gradients. Only the pass at w updates running statistics, and the reported loss is
that at w. Growth by gradient uses g.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.gradients.plain import Plain
from pruneyard.workloads.interfaces import Batch, Gradient, RuleState, Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["SAM"]

SMALLEST_NORM = 1e-12  # below it a gradient has no reliable direction, and weights move by less than rho


@dataclass(frozen=True, kw_only=True)
class SAM(Plain):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"rho": 0.0},)
    rho: float = 0.05  # how far the weights are moved, Euclidean; 0 trains as `plain` does

    def __post_init__(self) -> None:
        if not 0 <= self.rho < float("inf"):
            raise ValueError(f"rho is {self.rho}; it must be 0 or more")

    def gradient(self, state: RuleState, batch: Batch) -> tuple[Gradient, RuleState]:
        """Returns the loss at w and the gradient at the worst weights of the ball."""
        loss = batch.differentiate()
        own, weights = batch.own_gradient(), batch.weights
        moved = self._worst({name: weights[name] for name in own}, own, batch.masks)
        _, there = batch.gradient_at({**weights, **moved})
        return Gradient(loss=loss, corrected={name: there[name] for name in own if name in there}), state

    def _worst(self, weights: Tensors, gradient: Tensors, masks: Tensors) -> Mapping[str, Tensor]:
        """Returns w + rho g / ||g|| for the parameters with a gradient; g is zero for inactive weights."""
        uphill = [g * masks[name] if name in masks else g for name, g in gradient.items()]
        norm = torch.stack(torch._foreach_norm(uphill)).norm()
        moves = torch._foreach_mul(uphill, self.rho / norm.clamp_min(SMALLEST_NORM))
        return dict(zip(gradient, torch._foreach_add([weights[n] for n in gradient], moves), strict=True))
