"""Adaptive prediction sets (APS): classes in descending probability until their sum reaches a threshold.

Difficult inputs get larger sets. With randomisation, the last class is removed at random, so sets are smaller and may be empty;
all classes of a row share one random number. Without it, p_y counts fully and sets are larger, but coverage is the same: the
threshold is fitted to scores of the same form. Among equal probabilities the first class ranks first.

Reference: Romano, Sesia and Candès 2020, Classification with Valid and Adaptive Coverage (arXiv:2006.02544)
"""

from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.calibrate.adaptive_sets import cumulative_scores
from pruneyard.workloads.calibrate.prediction_sets import Floats, ScoredRule

__all__ = ["APS"]


@dataclass(frozen=True, kw_only=True)
class APS(ScoredRule):
    """Nonconformity score s = sum of p down to and including y, minus U p_y."""

    randomised: bool = True  # at calibration and at prediction alike

    @property
    def uses_draws(self) -> bool:
        return self.randomised

    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        return cumulative_scores(probabilities_NK, draws_N, np.zeros(probabilities_NK.shape[1]))
