"""Cross-entropy, with optional label smoothing and weights of classes: the neutral objective.

Reference: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision (arXiv:1512.00567), for label smoothing
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from pruneyard.workloads.fields import NEUTRAL_BY_DEFAULT
from pruneyard.workloads.interfaces import LossInputs, StatelessObjective, Tensors
from pruneyard.workloads.losses.class_weights import (
    ClassWeight,
    check_class_weight,
    row_weights,
    weighted_cross_entropy,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["CrossEntropy"]


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(StatelessObjective):
    """Cross-entropy; with smoothing s the target is 1 - s + s / K for the label and s / K elsewhere, K classes.

    class_weight: weighs the loss of each row by its class; the sum over a batch is divided by its number of rows.
    """

    neutral_settings: ClassVar[tuple[Settings, ...]] = ({},)

    label_smoothing: float = 0.0
    class_weight: ClassWeight = field(default="none", metadata=NEUTRAL_BY_DEFAULT)

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")
        check_class_weight(self.class_weight)

    def loss(self, inputs: LossInputs) -> tuple[Tensor, Tensors]:
        """Returns the mean over the batch, in nats, and the memory."""
        logits = inputs.network(inputs.images)
        weights = row_weights(self.class_weight, inputs.labels, inputs.class_counts)
        return weighted_cross_entropy(logits, inputs.labels, weights, label_smoothing=self.label_smoothing), inputs.memory
