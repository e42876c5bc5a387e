"""Focal loss or cross-entropy plus the gap of each class's mean probability to its share in the batch (MDCA).

Reference: Hebbalaguppe et al. 2022, A Stitch in Time Saves Nine (MDCA) (arXiv:2203.13834)

The term is the mean over classes of |mean probability of the class - share of rows that have it|. Batches must be large
compared with the number of classes. gamma 0 makes the first part cross-entropy, and weight 0 with it `cross_entropy`.

Over several ranks the means are of rows of one rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.losses.class_weights import REFUSED_BY_CALIBRATION
from pruneyard.workloads.losses.logits import LogitsObjective, check_not_negative, focal_loss
from pruneyard.workloads.plugins import Settings

__all__ = ["MDCA"]


@dataclass(frozen=True, kw_only=True)
class MDCA(LogitsObjective):
    is_batch_level: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"class_weight": REFUSED_BY_CALIBRATION}
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"weight": 0.0, "gamma": 0.0},)
    weight: float = 1.0
    gamma: float = 1.0  # of the focal loss

    def __post_init__(self) -> None:
        check_not_negative("weight", self.weight)
        check_not_negative("gamma", self.gamma)

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean over the batch, in nats."""
        return focal_loss(logits, labels, self.gamma) + self.weight * self.term(logits, labels)

    def term(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean absolute gap over classes, a scalar, of logits (B, K) and labels (B,)."""
        probabilities = functional.softmax(logits, dim=1)
        labelled = labels[:, None] == torch.arange(logits.shape[1], device=labels.device)
        return (probabilities.mean(dim=0) - labelled.to(logits.dtype).mean(dim=0)).abs().mean()
