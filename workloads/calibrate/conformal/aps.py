"""Adaptive prediction sets: classes by falling probability until their sum reaches a threshold.

Hard rows get larger sets. Randomised, the last class is taken off by chance, so that coverage is not above what is asked for and
sets may be empty; the draws are the same for all classes of a row. Otherwise the whole of p_y counts, which covers more. Of equal
probabilities the first class comes first.

Reference: Romano, Sesia and Candès 2020, Classification with Valid and Adaptive Coverage (arXiv:2006.02544)
"""

from dataclasses import dataclass

import numpy as np

from pruneyard.workloads.calibrate.adaptive_sets import cumulative_scores
from pruneyard.workloads.calibrate.prediction_sets import Floats, ScoredRule

__all__ = ["APS"]


@dataclass(frozen=True, kw_only=True)
class APS(ScoredRule):
    """s = sum of p up to and with y, less U p_y."""

    randomised: bool = True  # at calibration and at prediction alike

    @property
    def uses_draws(self) -> bool:
        return self.randomised

    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        return cumulative_scores(probabilities_NK, draws_N, np.zeros(probabilities_NK.shape[1]))
