"""Cross-entropy plus an expected calibration error with soft, differentiable bins (SB-ECE).

Reference: Karandikar et al. 2021, Soft Calibration Objectives for Neural Networks (arXiv:2108.00106)

A row of confidence c belongs to the bin around x_b = (b - 1/2) / num_bins by the softmax over bins of
-(c - x_b)^2 / temperature. The term is the root of the mean, weighted by what bins hold, of their squared gaps between mean
confidence and accuracy. The gradient goes through c, in the gap and in the membership. A bin holds at least 1e-5, and
1e-10 stands under the root, for its derivative at 0. Where a decay is given instead of a temperature, as in the released
code, the latter is 1 / (log(decay) num_bins^2). Weight 0 is `cross_entropy`. The defaults of weight and temperature are
ours (unverified: from general knowledge).

Over several ranks bins hold rows of one rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from pruneyard.workloads.losses.class_weights import REFUSED_BY_CALIBRATION
from pruneyard.workloads.losses.logits import (
    ROOT_FLOOR,
    LogitsObjective,
    check_not_negative,
    check_smoothing,
    confidences,
)
from pruneyard.workloads.plugins import Settings

__all__ = ["SoftECE"]

LEAST_HELD = 1e-5  # minimum weight of a bin, which is a divisor


@dataclass(frozen=True, kw_only=True)
class SoftECE(LogitsObjective):
    is_batch_level: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"class_weight": REFUSED_BY_CALIBRATION}
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"weight": 0.0},)
    weight: float = 1.0
    num_bins: int = 15
    temperature: float = 0.01  # of the membership; towards 0 bins become hard
    label_smoothing: float = 0.0  # of the cross-entropy

    def __post_init__(self) -> None:
        check_not_negative("weight", self.weight)
        if self.num_bins < 1:
            raise ValueError(f"num_bins is {self.num_bins}; it must be 1 or more")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}; it must be above 0")
        check_smoothing("label_smoothing", self.label_smoothing)

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean over the batch, in nats."""
        cross_entropy = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return cross_entropy + self.weight * self.term(*confidences(logits, labels))

    def term(self, confidence: Tensor, right: Tensor) -> Tensor:
        """Returns the soft ECE, a scalar, of confidences (B,) and 1 or 0 for right or wrong (B,)."""
        places = torch.arange(self.num_bins, device=confidence.device, dtype=confidence.dtype)
        anchors = (places + 0.5) / self.num_bins
        distances_BM = (confidence[:, None] - anchors) ** 2
        held_BM = functional.softmax(-distances_BM / self.temperature, dim=1)
        held = held_BM.sum(dim=0)
        gaps = (held_BM * (right - confidence)[:, None]).sum(dim=0) / held.clamp(min=LEAST_HELD)
        return (held / held.sum() * gaps**2).sum().add(ROOT_FLOOR).sqrt()
