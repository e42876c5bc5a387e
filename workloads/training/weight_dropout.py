"""A random mask over the active weights, drawn anew for every step (weight dropout)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.masks.masks import random_subset


@dataclass(frozen=True, kw_only=True)
class WeightDropout:
    """Each active weight is left out of a step with probability `drop`; neutral by default.

    What is left out is zero in the step's passes and gets no gradient of the batch; momentum, and what a gradient rule adds, move
    it all the same. Unscaled, a network without norms is evaluated at another scale than it was trained at. Masks are
    moved by the stored weights; an update in the place of a step leaves nothing out, and neither do evaluations.
    Reference: Wan et al. 2013, Regularization of Neural Networks using DropConnect; as the random mask of CigL, Lei et al.
    2023, Calibrating the Rigged Lottery (arXiv:2302.09369).
    """

    drop: float = 0.0  # in [0, 1)
    scaled: bool = False  # what stays is divided by 1 - drop, so that the mean of a weight is the stored one
    spare_last: bool = True  # the last layer, which no norm follows, keeps all its weights

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1)")

    @property
    def scale(self) -> float:
        """What the weights that stay are multiplied by."""
        return 1 / (1 - self.drop) if self.scaled else 1.0

    def layers(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Names of the layers it applies to, of all prunable ones in module order."""
        return list(weights)[: len(weights) - self.spare_last] if self.drop else []

    def draw(self, num_active: int, generator: torch.Generator) -> Tensor:
        """Places, among a layer's active weights, of those left out: (n,) int64.

        Their number is binomial and every set of that number equally likely, so that each weight is left out independently of
        the others; the work grows with the number left out.
        """
        seed = int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))
        count = int(np.random.default_rng(seed).binomial(num_active, self.drop))
        return random_subset(num_active, count, generator)
