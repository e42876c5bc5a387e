"""Weight dropout: a random mask over the active weights, sampled anew for every step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from pruneyard.workloads.fields import renamed
from pruneyard.workloads.masks.masks import random_subset


@dataclass(frozen=True, kw_only=True)
class WeightDropout:
    """Sets each active weight to zero in a step with probability `drop`; by default it drops none.

    A dropped weight is zero in the forward and backward pass of the step and gets no gradient of the batch; momentum and the
    correction of a gradient rule still change it. If unscaled, a network without norms is evaluated at another scale than it
    was trained at. Mask updates use the stored weights; no weight is dropped in a step that a mask update replaces, nor in
    evaluations.
    Reference: Wan et al. 2013, Regularization of Neural Networks using DropConnect; as the random mask of CigL, Lei et al.
    2023, Calibrating the Rigged Lottery (arXiv:2302.09369).
    """

    drop: float = 0.0  # in [0, 1)
    scaled: bool = False  # divide the other weights by 1 - drop, so that the expected weight is the stored one
    # drop nothing in the last layer, which no norm follows
    exclude_last: bool = field(default=True, metadata=renamed("spare_last"))

    def __post_init__(self) -> None:
        if not 0 <= self.drop < 1:
            raise ValueError(f"drop is {self.drop}; it must lie in [0, 1)")

    @property
    def scale(self) -> float:
        """Factor of the weights that are not dropped."""
        return 1 / (1 - self.drop) if self.scaled else 1.0

    def layers(self, weights: Mapping[str, Tensor], *, last: str) -> list[str]:
        """Returns the names of those of the prunable `weights` it applies to; `last` is that of the network's last layer."""
        return [name for name in weights if not (self.exclude_last and name == last)] if self.drop else []

    def draw(self, num_active: int, generator: torch.Generator) -> Tensor:
        """Returns the positions, among a layer's active weights, of the dropped ones: (n,) int64.

        Their number is binomial and all sets of this size are equally likely, so each weight is dropped independently of the
        others. This way the work grows with the number of dropped weights and not with that of all weights.
        """
        seed = int(torch.randint(torch.iinfo(torch.int64).max, (), generator=generator))
        count = int(np.random.default_rng(seed).binomial(num_active, self.drop))
        return random_subset(num_active, count, generator)
