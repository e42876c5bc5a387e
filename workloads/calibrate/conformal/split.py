"""Split conformal prediction (LAC, THR): the classes whose probability is at least a threshold.

Sets are the smallest on average; they may be empty for difficult inputs, and empty sets stay empty.

Reference: Sadinle, Lei and Wasserman 2019, Least Ambiguous Set-Valued Classifiers With Bounded Error Levels (arXiv:1609.00451)
"""

from dataclasses import dataclass

from pruneyard.workloads.calibrate.prediction_sets import Floats, ScoredRule

__all__ = ["SplitConformal"]


@dataclass(frozen=True, kw_only=True)
class SplitConformal(ScoredRule):
    """Nonconformity score s = 1 - p_y."""

    def scores(self, probabilities_NK: Floats, draws_N: Floats) -> Floats:
        return 1 - probabilities_NK
