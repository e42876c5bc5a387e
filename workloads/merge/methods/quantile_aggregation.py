"""A quantile over the members' probabilities of each class, scaled to sum 1; the median by default.

Reference: Fakoor et al. 2021, Flexible Model Aggregation for Quantile Regression (arXiv:2103.00083)

The paper aggregates predicted quantiles of a number; this is what of it applies to classification, where a prediction is a
distribution over classes, and it is unverified: an aggregation over members, and conformal calibration of the result, which a
calibrate job on this run adds (`sets`). Left out: weights that differ by quantile level or input, and the restoration of the
order of quantiles, which class probabilities do not have. At level 0.5 one wrong member of three changes nothing, unlike the
mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pruneyard.workloads.merge.context import MergeContext
from pruneyard.workloads.merge.member import Member
from pruneyard.workloads.merge.merger import MergedOutputs, UseOfVal

__all__ = ["QuantileAggregation"]


@dataclass(frozen=True, kw_only=True)
class QuantileAggregation:
    """Quantile of probabilities.

    level: of the quantile over members, in [0, 1]; quantiles between two members are interpolated.
    """

    merges_weights: ClassVar[bool] = False
    order_matters: ClassVar[bool] = False
    keeps_copies: ClassVar[bool] = True

    level: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 1:
            raise ValueError(f"level is {self.level}; it must lie in [0, 1]")

    @property
    def use_of_val(self) -> UseOfVal:
        """Returns `none`: nothing is fitted."""
        return "none"

    def merge(self, members: Sequence[Member], context: MergeContext) -> MergedOutputs:
        """Returns the aggregation of the members' outputs."""
        return MergedOutputs(combine=self.combine)

    def combine(self, logits: Tensor) -> Tensor:
        """Returns log-probabilities (N, K) of logits (M, N, K)."""
        probabilities = logits.double().softmax(2)
        quantiles = probabilities.quantile(self.level, dim=0).clamp(min=torch.finfo(torch.float32).tiny)
        return (quantiles / quantiles.sum(1, keepdim=True)).log().float()
