"""Focal loss that also depends on the largest probability below the label's (dual focal); a rival raises it.

Reference: Tao, Dong and Xu 2023, Dual Focal Loss for Calibration (arXiv:2305.13665)

-(1 - p + q)^gamma log p, of the label's probability p and the largest q strictly below it, 0 where there is none; mean over
the batch. The gradient goes through both, as in the released code. That code's default gamma is 0, which is
`cross_entropy`; 5 is our default (unverified: from general knowledge).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.losses.logits import (
    SMALLEST,
    ClassWeightedObjective,
    check_not_negative,
    select_labels,
    weighted_nll,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["DualFocal"]


@dataclass(frozen=True, kw_only=True)
class DualFocal(ClassWeightedObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"gamma": 0.0},)
    gamma: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("gamma", self.gamma)

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the weighted mean over the batch, in nats."""
        log_p = functional.log_softmax(logits, dim=1)
        of_label = select_labels(log_p, labels)
        below = log_p < of_label[:, None]
        rival = torch.where(below, log_p.exp(), 0.0).amax(dim=1)
        factors = (rival - of_label.expm1()).clamp(min=SMALLEST) ** self.gamma
        return weighted_nll(log_p, labels, factors, weights)
