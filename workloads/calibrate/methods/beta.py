"""Beta calibration: a three-parameter curve per class, one-vs-rest, which includes the identity.

Reference: Kull, Silva Filho and Flach 2017, Beta calibration (AISTATS)

logit q_k = a_k ln p_k - b_k ln(1 - p_k) + c_k with a_k, b_k >= 0, fitted by cross-entropy; rows are then scaled to sum
to 1. The identity is a = b = 1, c = 0. With a = b and c = 0 it equals temperature scaling for two classes. With two classes
both curves are the same. Our additions: p are the probabilities after temperature scaling, so the scale of the logits does not
matter, and ridge * (squared distance from the identity) keeps the fit finite for a class without calibration rows or perfectly
separated from all others. By default `ridge` is chosen by five-fold cross-validation on the calibration rows.
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import log_expit, logsumexp

from pruneyard.workloads.calibrate.calibrator import Fitted, Floats, Labels
from pruneyard.workloads.calibrate.common_scale import (
    FittedOnCommonScale,
    OnCommonScale,
    choose_penalty,
    warn_of_few_rows,
)
from pruneyard.workloads.calibrate.logistic_fit import cross_entropy, fit_logistic
from pruneyard.workloads.calibrate.one_vs_rest import log_odds

__all__ = ["Beta"]

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedBeta(FittedOnCommonScale):
    """The curve parameters of every class."""

    a: Floats  # (C,), of ln p
    b: Floats  # (C,), of -ln(1 - p)
    c: Floats  # (C,)
    ridge: Floats  # (): given or chosen

    @property
    def numbers(self) -> Mapping[str, float]:
        """Returns the ridge that was used."""
        return {"ridge": float(self.ridge)}

    def _map(self, logits_MC: Floats) -> Floats:
        odds_MC = log_odds(logits_MC)
        # log_expit(odds) is ln p and log_expit(-odds) is ln(1 - p), without the rounding of 1 - p.
        log_MC = log_expit(self.a * log_expit(odds_MC) - self.b * log_expit(-odds_MC) + self.c)
        return np.asarray(log_MC - logsumexp(log_MC, axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Beta(OnCommonScale):
    """Beta calibration, one-vs-rest for every class."""

    ridge: float | None = None  # in nats per squared distance from the identity; None: chosen by cross-validation

    becomes: ClassVar[type[Fitted]] = FittedBeta

    def __post_init__(self) -> None:
        if self.ridge is not None and not 0 < self.ridge < float("inf"):
            raise ValueError(f"ridge is {self.ridge}; it must be above 0, and finite")

    def never_raises_nll(self, num_classes: int) -> bool:
        """Returns True for two classes; with more, each class is fitted against the rest and then normalised."""
        return num_classes == 2

    @property
    def keeps_argmax(self) -> bool:
        """False: every class has its own curve."""
        return False

    def _fit(self, logits_NC: Floats, labels_N: Labels, *, seed: int) -> FittedBeta:
        warn_of_few_rows("beta", 3 * logits_NC.shape[1], len(labels_N))
        ridge = choose_penalty(RIDGES, _fitted, logits_NC, labels_N) if self.ridge is None else self.ridge
        return _fitted(logits_NC, labels_N, ridge)


def _fitted(logits_NC: Floats, labels_N: Labels, ridge: float) -> FittedBeta:
    odds_NC = log_odds(logits_NC)
    curves = [_curve(odds_N, labels_N == k, ridge) for k, odds_N in enumerate(odds_NC.T)]
    a_C, b_C, c_C = np.array(curves).T.copy()
    return FittedBeta(num_classes=np.array(logits_NC.shape[1]), a=a_C, b=b_C, c=c_C, ridge=np.array(ridge))


def _curve(odds_N: Floats, positive_N: np.ndarray, ridge: float) -> Floats:
    """Returns a, b, c of one class, `(3,)`: the best fit with a, b >= 0, over the cases where a, b or both are fixed at 0."""
    features_N3 = np.column_stack([log_expit(odds_N), -log_expit(-odds_N), np.ones(len(odds_N))])
    targets_N, identity_3 = positive_N.astype(np.float64), np.array([1.0, 1.0, 0.0])
    found: list[tuple[float, Floats]] = []
    for held in itertools.product([False, True], repeat=2):
        free = ~np.array([*held, False])
        curve_3 = np.zeros(3)
        curve_3[free] = fit_logistic(
            features_N3[:, free], targets_N, start_F=identity_3[free], ridge=ridge
        )
        if (curve_3[:2] >= 0).all():
            loss = cross_entropy(features_N3 @ curve_3, targets_N)
            found.append((loss + ridge * ((curve_3 - identity_3) ** 2).sum(), curve_3))
        # The problem is convex, so an unconstrained minimum with a, b >= 0 is the best of all cases.
        if not any(held) and found:
            break
    return min(found, key=lambda pair: pair[0])[1]
