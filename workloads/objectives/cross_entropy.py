"""Cross-entropy, with optional label smoothing: the neutral objective.

Reference: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision (arXiv:1512.00567), for label smoothing
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.plugins import Settings

__all__ = ["CrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(StatelessObjective):
    """Cross-entropy; with smoothing s the target is 1 - s + s / K for the label and s / K elsewhere, K classes."""

    neutral_settings: ClassVar[tuple[Settings, ...]] = ({},)

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        logits = inputs.network(inputs.images)
        value = functional.cross_entropy(logits, inputs.labels, label_smoothing=self.label_smoothing)
        return value, inputs.memory
