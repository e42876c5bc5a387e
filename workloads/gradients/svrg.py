"""Correct every gradient by that of a snapshot of the weights, with a fixed coefficient (SVRG).

Reference: Johnson and Zhang 2013, Accelerating stochastic gradient descent using predictive variance reduction (NeurIPS 26)

g + c (mu - gs), where mu is the mean gradient at the snapshot and gs its gradient on the same batch, with the same
augmentation and the same random numbers. The paper uses c = 1. An epoch costs three times a plain one: one pass for mu, and two
gradients a step; mu costs more where masks grow by gradient within the epoch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.gradients._control_variate import Comparison, ControlVariate, NoComparison
from pruneyard.workloads.interfaces import Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["SVRG"]


@dataclass(frozen=True, kw_only=True)
class SVRG(ControlVariate):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"coefficient": 0.0},)
    coefficient: float = 1.0  # c, in [0, 1]; 0 trains as `plain` does

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.coefficient <= 1:
            raise ValueError(f"coefficient is {self.coefficient}; it must lie in [0, 1]")

    def initial_numbers(self) -> Mapping[str, float]:
        """Returns no numbers."""
        return {}

    def comparison(self, snapshot: Tensors, masks: Tensors) -> Comparison:
        """Returns a comparison that collects nothing."""
        return NoComparison()

    def numbers(self, before: Mapping[str, float], newest: float | None) -> Mapping[str, float]:
        """Returns the numbers unchanged."""
        return before

    def effective_coefficient(self, numbers: Mapping[str, float]) -> float:
        """Returns the coefficient of the spec."""
        return self.coefficient
