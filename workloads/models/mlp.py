"""Fully connected layers with ReLU on features or on the flattened image.

Initialised as PyTorch does by default (uniform, bound 1 / sqrt(fan-in)), where the small MLPs of pruning
papers usually start.

Reference: LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 86, 1998
"""

from dataclasses import dataclass, field
from math import prod

from torch import nn

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.networks.builder import check_dropout

__all__ = ["Mlp"]


@dataclass(frozen=True, kw_only=True)
class Mlp:
    width: int = 256  # units of each hidden layer
    depth: int = 2  # hidden layers; 0 is logistic regression
    dropout: float = field(default=0.0, metadata=NEUTRAL_BY_DEFAULT)  # after every ReLU

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it must be at least 1")
        if self.depth < 0:
            raise ValueError(f"depth is {self.depth}; it must be at least 0")
        check_dropout(self.dropout)

    def build(self, *, image_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """See `pruneyard.workloads.networks.builder.ModelBuilder`."""
        network = nn.Sequential()
        network.add_module("flatten", nn.Flatten())
        units = prod(image_shape)
        for number in range(1, self.depth + 1):
            network.add_module(f"hidden{number}", nn.Linear(units, self.width))
            network.add_module(f"relu{number}", nn.ReLU())
            if self.dropout:
                network.add_module(f"dropout{number}", nn.Dropout(self.dropout))
            units = self.width
        network.add_module("classifier", nn.Linear(units, num_classes))
        return network
