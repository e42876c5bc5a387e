"""The gradient of the batch, unchanged: the neutral gradient rule.

Reference: Robbins and Monro 1951, A Stochastic Approximation Method (Annals of Mathematical Statistics 22)
"""

from dataclasses import dataclass
from typing import ClassVar

from pruneyard.workloads.interfaces import Batch, Epoch, Gradient, RuleState, Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["Plain"]


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The uncorrected gradient, without a state."""

    neutral_settings: ClassVar[tuple[Settings, ...]] = ({},)

    def start(self, weights: Tensors) -> RuleState:
        """Returns an empty state."""
        return RuleState()

    def on_epoch_start(self, state: RuleState, epoch: Epoch) -> RuleState:
        """Returns the state unchanged."""
        return state

    def gradient(self, state: RuleState, batch: Batch) -> tuple[Gradient, RuleState]:
        """Returns the loss of the batch and no corrections."""
        return Gradient(loss=batch.differentiate()), state
