"""Correct every gradient by that of a snapshot, with a coefficient from the covariance of batch losses (AGENT).

Reference: Lei et al. 2023, Balance is Essence: Accelerating Sparse Training via Adaptive Gradient Correction (arXiv:2301.03573)

g + c (mu - gs), as `svrg`, with c = gamma * c_hat. At the start of an epoch, over its batches,
c* = Cov(l, ls) / Var(ls) of the losses at the weights as they stand and at the old snapshot, and
c_hat <- (1 - a) c_hat + a c*. Written after the authors' code and the abstract; without access to the tables of the paper.
Published and kept: growth by gradient sees the uncorrected g, and an update that replaces the step corrects nothing.
Fixed here: the extra passes do not change running statistics and the snapshot has its own; nothing of an old gradient is in
mu; the snapshot is refreshed after c*; mu sees the augmentations that the steps will see; c* is kept within [0, 1], and
c_hat as it was where the old losses do not vary.
An epoch costs 10/3 of a plain one in passes (loss coefficient; 4 times with the gradient coefficient). Where masks grow by
gradient within the epoch, mu is a dense gradient and costs more: at density 0.02 the epoch costs about 20 plain ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pruneyard.workloads.gradients._control_variate import Comparison, ControlVariate
from pruneyard.workloads.gradients._covariances import GradientCovariance, LossCovariance
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["AGENT"]

C_HAT = "c_hat"


@dataclass(frozen=True, kw_only=True)
class AGENT(ControlVariate):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"gamma": 0.0},)
    gamma: float = 0.1  # share of c_hat that is used; 0 trains as `plain` does
    smoothing: float = 0.3  # weight of the newest c*, in (0, 1]
    initial: float = 0.1  # c_hat before the first epoch, whose c* is 1: its weights are the snapshot
    coefficient: Literal["loss", "gradient"] = "loss"  # of what c* is the covariance; gradient is optimal

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma", "initial"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie in [0, 1]")
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"smoothing is {self.smoothing}; it must lie in (0, 1]")
        if self.coefficient not in ("loss", "gradient"):
            raise ValueError(f"coefficient is {self.coefficient!r}; it must be loss or gradient")

    def initial_numbers(self) -> Mapping[str, float]:
        """Returns the initial c_hat."""
        return {C_HAT: self.initial}

    def comparison(self, snapshot: Tensors, masks: Tensors) -> Comparison:
        """Returns the covariance of losses or of gradients."""
        if self.coefficient == "loss":
            return LossCovariance(snapshot)
        return GradientCovariance(snapshot, masks)

    def numbers(self, before: Mapping[str, float], newest: float | None) -> Mapping[str, float]:
        """Returns c_hat updated by the newest c*."""
        if newest is None:
            return before
        return {C_HAT: (1 - self.smoothing) * before[C_HAT] + self.smoothing * newest}

    def effective_coefficient(self, numbers: Mapping[str, float]) -> float:
        """Returns gamma * c_hat."""
        return self.gamma * numbers[C_HAT]
