"""Regularised adaptive prediction sets (RAPS): `aps` with a penalty on every class beyond the first `kreg`.

The penalty keeps long tails of improbable classes out of sets, at the same coverage. With penalty 0 it equals `aps`.

Reference: Angelopoulos, Bates, Malik and Jordan 2021, Uncertainty Sets for Image Classifiers (arXiv:2009.14193)
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pruneyard.workloads.calibrate.adaptive_sets import cumulative_scores
from pruneyard.workloads.calibrate.prediction_sets import Floats, ScoredRule
from pruneyard.workloads.plugins import Settings

__all__ = ["RAPS"]


@dataclass(frozen=True, kw_only=True)
class RAPS(ScoredRule):
    """Nonconformity score s = sum of p down to and including y, minus U p_y, plus penalty max(0, rank of y - kreg)."""

    examples: ClassVar[tuple[Settings, ...]] = ({"penalty": 0.05, "kreg": 2},)

    penalty: float  # the paper's lambda
    kreg: int  # number of most probable classes without penalty
    randomised: bool = True  # at calibration and at prediction alike

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.penalty >= 0:
            raise ValueError(f"penalty is {self.penalty}; it must be 0 or more")
        if self.kreg < 0:
            raise ValueError(f"kreg is {self.kreg}; it must be 0 or more")

    @property
    def uses_draws(self) -> bool:
        return self.randomised

    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        ranks = np.arange(1, probabilities_NK.shape[1] + 1)
        return cumulative_scores(probabilities_NK, draws_N, self.penalty * np.maximum(ranks - self.kreg, 0))
