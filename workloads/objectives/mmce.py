"""Cross-entropy plus a kernel-based calibration error of the batch (MMCE).

Reference: Kumar, Sarawagi and Jain 2018, Trainable Calibration Measures for Neural Networks from Kernel Mean Embeddings (ICML)

With c the largest probability of a row and a = 1 where it is the label's, else 0: the root of the sum over all pairs of rows
of d_i d_j exp(-|c_i - c_j| / width), d = (a - c) / B. `weighted` divides by the number of right rows instead in right rows,
and by that of wrong rows in wrong ones; a batch without one of the two kinds has no such term. `squared` leaves the root
out, as some code does. 1e-10 stands under the root, for its derivative at 0. The gradient goes through c alone, in d and in
the kernel. With weight 0 it is `cross_entropy`. The weight's default is ours (unverified: from general knowledge).

Over several ranks pairs are of rows of one rank.
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

__all__ = ["MMCE"]


@dataclass(frozen=True, kw_only=True)
class MMCE(LogitsObjective):
    is_batch_level: ClassVar[bool] = True
    refused: ClassVar[Mapping[str, str]] = {"class_weight": REFUSED_BY_CALIBRATION}
    neutral_settings: ClassVar[tuple[Settings, ...]] = ({"weight": 0.0}, {"weight": 0.0, "weighted": True})
    weight: float = 2.0
    weighted: bool = False  # correct and wrong rows have equal total weight
    squared: bool = False  # without the root
    width: float = 0.4  # of the kernel
    label_smoothing: float = 0.0  # of the cross-entropy

    def __post_init__(self) -> None:
        check_not_negative("weight", self.weight)
        if not 0 < self.width < float("inf"):
            raise ValueError(f"width is {self.width}; it must be above 0")
        check_smoothing("label_smoothing", self.label_smoothing)

    def loss_of_logits(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean over the batch, in nats."""
        cross_entropy = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        return cross_entropy + self.weight * self.term(*confidences(logits, labels))

    def term(self, confidence: Tensor, right: Tensor) -> Tensor:
        """Returns the calibration error, a scalar, of confidences (B,) and 1 or 0 for right or wrong (B,)."""
        num_right = right.sum()
        counts = torch.where(right > 0, num_right, len(right) - num_right) if self.weighted else len(right)
        gaps = (right - confidence) / counts
        kernel = torch.exp(-(confidence[:, None] - confidence).abs() / self.width)
        square = (gaps[:, None] * gaps * kernel).sum()  # no matrix product: autocast would narrow it
        value = square if self.squared else (square.clamp(min=0) + ROOT_FLOOR).sqrt()
        both = (num_right > 0) & (num_right < len(right))
        return torch.where(both, value, 0.0) if self.weighted else value
