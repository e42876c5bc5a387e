"""Focal loss: cross-entropy with less weight for likely labels; with `by_sample` it is FLSD-53.

Reference: Mukhoti et al. 2020, Calibrating Deep Neural Networks using Focal Loss (arXiv:2002.09437)

-(1 - p)^gamma log p, of the label's probability p, mean over the batch (Lin et al. 2017, arXiv:1708.02002). With `by_sample`
gamma is 5 where p < 0.2, and 3 where p < 0.5, and the field's value where the label is likelier. The authors' code sums
over the batch by default; rates for it do not carry over. With gamma 0, and not by sample, it is `cross_entropy`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.losses.logits import (
    ClassWeightedObjective,
    check_not_negative,
    focal_loss,
    one_minus_p,
    select_labels,
    weighted_nll,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["Focal"]

UNLIKELY, UNLIKELY_GAMMA = 0.2, 5.0
LESS_LIKELY, LESS_LIKELY_GAMMA = 0.5, 3.0


@dataclass(frozen=True, kw_only=True)
class Focal(ClassWeightedObjective):
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"gamma": 0.0},)
    gamma: float = 3.0
    by_sample: bool = False  # FLSD-53: `gamma` is that of labels with a probability of 0.5 or more

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative("gamma", self.gamma)

    def weighted_loss(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Returns the weighted mean over the batch, in nats."""
        if not self.by_sample:
            return focal_loss(logits, labels, self.gamma, weights)
        log_p = functional.log_softmax(logits, dim=1)
        of_label = select_labels(log_p, labels)
        p = of_label.detach().exp()
        gammas = torch.where(p < LESS_LIKELY, LESS_LIKELY_GAMMA, self.gamma)
        gammas = torch.where(p < UNLIKELY, UNLIKELY_GAMMA, gammas)
        return weighted_nll(log_p, labels, one_minus_p(of_label) ** gammas, weights)
