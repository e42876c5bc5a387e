"""Platt scaling: a logistic curve per class, one-vs-rest, fitted to smoothed targets.

Reference: Platt 1999, Probabilistic Outputs for Support Vector Machines; fitted by Newton's method as in Lin, Lin and
Weng 2007

q_k = sigmoid(a_k s_k + b_k), where s_k = log(p_k / (1 - p_k)) are the log-odds of class k by the network (after temperature
scaling, our addition, so the scale of the logits does not matter), fitted by
cross-entropy with targets (N+ + 1) / (N+ + 2) for the class's N+ rows and 1 / (N- + 2) for the N- others; rows are then
scaled to sum to 1. With two classes s_1 is the difference of the logits and both curves are the same, so rows already sum
to 1: the binary method. The smoothed targets keep every fit finite.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_expit, logsumexp

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels
from pruneyard.workloads.calibrate.common_scale import FittedOnCommonScale, OnCommonScale
from pruneyard.workloads.calibrate.linear_fit import typical_size
from pruneyard.workloads.calibrate.logistic_fit import fit_logistic
from pruneyard.workloads.calibrate.one_vs_rest import log_odds

__all__ = ["Platt"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPlatt(FittedOnCommonScale):
    """The curve parameters of every class."""

    slope: Floats  # (C,)
    intercept: Floats  # (C,)

    def _map(self, logits_MC: Floats) -> Floats:
        log_MC = log_expit(log_odds(logits_MC) * self.slope + self.intercept)
        return np.asarray(log_MC - logsumexp(log_MC, axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Platt(OnCommonScale):
    """Platt scaling, one-vs-rest for every class."""

    becomes: ClassVar[type[Fitted]] = FittedPlatt

    @property
    def keeps_argmax(self) -> bool:
        """False: every class has its own curve."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedPlatt:
        odds_NC = log_odds(logits_NC)
        curves = [_fit_curve(odds_N, labels_N == k) for k, odds_N in enumerate(odds_NC.T)]
        slope_C, intercept_C = np.array(curves).T.copy()
        return FittedPlatt(num_classes=np.array(logits_NC.shape[1]), slope=slope_C, intercept=intercept_C)


def _fit_curve(odds_N: Floats, positive_N: np.ndarray) -> Floats:
    """Returns slope and intercept of one class, `(2,)`."""
    size = typical_size(odds_N)
    # Log-odds of any size are scaled to about 1; a start of `size` is then a slope of 1.
    features_N2 = np.column_stack([odds_N / size, np.ones(len(odds_N))])
    found_2 = fit_logistic(features_N2, smoothed_targets(positive_N), start_F=np.array([size, 0.0]))
    return found_2 / [size, 1]


def smoothed_targets(positive_N: np.ndarray) -> Floats:
    """Returns targets (N+ + 1) / (N+ + 2) for positive rows and 1 / (N- + 2) for the others."""
    num_positive = int(positive_N.sum())
    num_negative = len(positive_N) - num_positive
    return np.where(positive_N, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
