"""Fully connected layers with ReLU on the flattened image.

Initialised as PyTorch does by default (uniform, bound 1 / sqrt(fan-in)), where the small MLPs of pruning
papers usually start.

Reference: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998
"""

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from torch import nn

__all__ = ["Mlp"]


@dataclass(frozen=True, kw_only=True)
class Mlp:
    width: int = 256  # units of each hidden layer
    depth: int = 2  # hidden layers; 0 is logistic regression

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it must be at least 1")
        if self.depth < 0:
            raise ValueError(f"depth is {self.depth}; it must be at least 0")

    def build(self, *, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """See `workloads.networks.builder.ModelBuilder`."""
        sizes = [prod(image_shape), *[self.width] * self.depth]
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
