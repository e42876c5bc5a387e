"""Stochastic gradient descent with momentum.

Reference: Sutskever et al. 2013, On the importance of initialization and momentum in deep learning (ICML)
"""

from dataclasses import dataclass, field

import torch

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, renamed
from pruneyard.workloads.interfaces import NamedParameters
from pruneyard.workloads.networks.parameter_groups import LrFactors, check_lr_factors, parameter_groups

__all__ = ["SGD"]


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Torch's fused SGD. A masked weight (zero value, gradient and momentum) stays exactly zero."""

    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = False
    # False: no weight decay on biases and norm parameters, as the RigL family of recipes does
    decay_bias_and_norm: bool = field(default=True, metadata=renamed("decay_vectors"))
    # Factors of the learning rate by patterns of parameter names; the first that matches counts, 0 freezes
    lr_factors: LrFactors = field(default=(), metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it must lie in [0, 1)")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        check_lr_factors(self.lr_factors)
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov is true; it must be false when momentum is 0")

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Returns a fused optimizer with one or two parameter groups."""
        groups = parameter_groups(
            parameters,
            weight_decay=self.weight_decay,
            decay_bias_and_norm=self.decay_bias_and_norm,
            lr_factors=self.lr_factors,
        )
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum, nesterov=self.nesterov, fused=True)
