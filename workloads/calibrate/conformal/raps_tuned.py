"""RAPS with a penalty tuned for small sets on a part of the calibration rows.

kreg is the 1 - alpha quantile of the rank of the true class on that part, penalty the one of `penalties` with the smallest mean
set size there. The threshold is fitted to the other rows, so coverage holds for any choice.

Reference: Angelopoulos, Bates, Malik and Jordan 2021, Uncertainty Sets for Image Classifiers (arXiv:2009.14193)
"""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from pruneyard.workloads.calibrate.adaptive_sets import ranks_of
from pruneyard.workloads.calibrate.conformal.raps import RAPS
from pruneyard.workloads.calibrate.prediction_sets import (
    ConformalRule,
    FittedSets,
    Floats,
    Labels,
    rank_of_threshold,
    threshold,
)
from pruneyard.workloads.fields import renamed
from pruneyard.workloads.metrics.classification import check_inputs
from pruneyard.workloads.seeding import stream_seed

__all__ = ["TunedRAPS"]


@dataclass(frozen=True, kw_only=True)
class TunedRAPS(ConformalRule):
    """`raps` with penalty and kreg chosen for small sets."""

    is_nested: ClassVar[bool] = False  # another alpha may choose another rule

    # of the calibration rows, sampled at random, for tuning
    tuning_fraction: float = field(default=0.3, metadata=renamed("share"))
    penalties: tuple[float, ...] = (0.001, 0.01, 0.1, 0.2, 0.5)
    randomised: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tuning_fraction < 1:
            raise ValueError(f"tuning_fraction is {self.tuning_fraction}; it must lie in (0, 1)")
        if not self.penalties or min(self.penalties) < 0:
            raise ValueError(f"penalties are {self.penalties}; there must be at least one, none below 0")

    def fit(self, probabilities: ArrayLike, labels: ArrayLike, *, seed: int) -> FittedSets:
        """See `ConformalRule.fit`. Raises `ValueError` also for fewer than 2 rows."""
        rows, labels_N = check_inputs(probabilities, labels)
        if len(rows) < 2:
            raise ValueError("there is 1 calibration row; raps_tuned needs at least 2")
        # Both parts get at least one row.
        num_tuning = min(max(round(self.tuning_fraction * len(rows)), 1), len(rows) - 1)
        order = np.random.default_rng(stream_seed(seed, "calibrate/conformal/tune")).permutation(len(rows))
        tuning, rest = np.sort(order[:num_tuning]), np.sort(order[num_tuning:])
        best = self._best(rows[tuning], labels_N[tuning], seed=seed)
        chosen = {"penalty": best.penalty, "kreg": float(best.kreg)}
        return best.settle(rows[rest], labels_N[rest], seed=seed, chosen=chosen)

    def _best(self, probabilities_NK: Floats, labels_N: Labels, *, seed: int) -> RAPS:
        """Returns the first candidate with the smallest mean set size."""
        num_rows = len(labels_N)
        of_true = np.sort(ranks_of(probabilities_NK)[np.arange(num_rows), labels_N])
        # With too few rows the quantile lies behind the last rank; the largest rank takes its place.
        kreg = int(of_true[min(rank_of_threshold(num_rows, self.alpha), num_rows) - 1])
        candidates = [
            RAPS(
                alpha=self.alpha,
                by_class=self.by_class,
                penalty=penalty,
                kreg=kreg,
                randomised=self.randomised,
            )
            for penalty in self.penalties
        ]
        # All candidates use the same random numbers, so only the penalty makes a difference.
        sizes = [mean_size(rule, probabilities_NK, labels_N, seed=seed) for rule in candidates]
        return candidates[int(np.argmin(sizes))]


def mean_size(rule: RAPS, probabilities_NK: Floats, labels_N: Labels, *, seed: int) -> float:
    """Returns the mean set size of the rows, with one threshold for all classes fitted to the same rows."""
    num_rows = len(labels_N)
    scores = rule.scores(probabilities_NK, rule.draws(seed, "tune", num_rows))
    return float((scores <= threshold(scores[np.arange(num_rows), labels_N], rule.alpha)).sum(axis=1).mean())
