"""Adam with decoupled weight decay.

Reference: Loshchilov and Hutter, Decoupled Weight Decay Regularization (ICLR 2019)
"""

from dataclasses import dataclass, field

import torch

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT, renamed
from pruneyard.workloads.interfaces import NamedParameters
from pruneyard.workloads.networks.parameter_groups import LrFactors, check_lr_factors, parameter_groups

__all__ = ["AdamW"]


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Torch's fused AdamW. The step count of the bias correction is the tensor's, also for weights grown late."""

    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    # False: no weight decay on biases and norm parameters
    decay_bias_and_norm: bool = field(default=True, metadata=renamed("decay_vectors"))
    # Factors of the learning rate by patterns of parameter names; the first that matches counts, 0 freezes
    lr_factors: LrFactors = field(default=(), metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"lr is {self.lr}; it must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon is {self.epsilon}; it must be above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; it must be 0 or more")
        check_lr_factors(self.lr_factors)

    def build(self, parameters: NamedParameters) -> torch.optim.Optimizer:
        """Returns a fused optimizer with one or two parameter groups."""
        groups = parameter_groups(
            parameters,
            weight_decay=self.weight_decay,
            decay_bias_and_norm=self.decay_bias_and_norm,
            lr_factors=self.lr_factors,
        )
        return torch.optim.AdamW(
            groups, lr=self.lr, betas=(self.beta1, self.beta2), eps=self.epsilon, fused=True
        )
